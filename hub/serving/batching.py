"""Batching across clients: one thread runs the model on the texts of many requests at a time.

Each round of the thread takes texts of one exit from all waiting requests in turn, until it has enough tokens. A
short request is therefore answered after about one round, whatever long ones wait beside it.
"""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

#: Seconds over which the measured speed forgets.
SPEED_MEMORY = 10.0
MAX_RETRY_SECONDS = 60


class QueueFullError(RuntimeError):
    """The queue has no space for a request; `retry_after` is in how many whole seconds it should have."""

    def __init__(self, message: str, retry_after: int):
        super().__init__(message)
        self.retry_after = retry_after


class EmbeddingJob:
    """The texts of one request in the queue.

    Args:
        ids: token ids of each text.
        exit_layer: exit that embeds them.
        waiter: belongs to who submitted them.

    Attributes:
        future: becomes their embeddings, (texts, dim) float32.
    """

    def __init__(self, ids: Sequence[list[int]], exit_layer: int, waiter: Any = None):
        self.ids, self.exit_layer, self.waiter = ids, exit_layer, waiter
        self.tokens = sum(map(len, ids))
        self.future: Future[np.ndarray] = Future()
        self.vectors: np.ndarray | None = None
        self.next_row = self.finished_rows = 0
        self.is_over = False  # answered, failed or cancelled

    @property
    def waiting_tokens(self) -> int:
        """Tokens of the texts that have no embedding yet. Texts get theirs in order."""
        return sum(len(ids) for ids in self.ids[self.finished_rows :]) if self.finished_rows else self.tokens

    def store(self, row: int, vector: np.ndarray) -> None:
        """Keep the embedding of a text."""
        if self.vectors is None:
            self.vectors = np.empty((len(self.ids), len(vector)), dtype=np.float32)
        self.vectors[row] = vector
        self.finished_rows += 1


class Batcher:
    """A bounded queue of requests, and the thread that embeds them.

    Args:
        embed: token ids and an exit -> embeddings, (texts, dim) float32. Called in the thread only.
        round_tokens: tokens that the thread embeds between two looks at the queue.
        max_tokens: most tokens in the queue. Half of them are for requests that fit into one round, so that
            longer ones never shut those out. A request that is longer than its half waits until that is empty.
    """

    def __init__(
        self,
        embed: Callable[[list[list[int]], int], np.ndarray],
        round_tokens: int,
        max_tokens: int,
    ):
        self._embed = embed
        #: Called after a round with its exit, texts, tokens and seconds.
        self.observe: Callable[[int, int, int, float], None] = lambda *figures: None
        #: Called in the thread with all requests that a round has ended. To wake another thread for each of them
        #: would cost this one the interpreter's lock, again and again.
        self.announce: Callable[[Sequence[EmbeddingJob]], None] = lambda jobs: None

        self.round_tokens, self.max_tokens = round_tokens, max_tokens
        self._round_size = 0
        #: Tokens in the queue: of requests that fit into one round, and of longer ones.
        self._waiting = {True: 0, False: 0}
        self._jobs: deque[EmbeddingJob] = deque()
        self._change = threading.Condition(threading.RLock())
        self._closed = False

        #: Tokens and seconds of the last rounds, older ones with less weight.
        self._speed = (0.0, 1e-9)
        self._thread = threading.Thread(target=self._run, name="mose-batcher", daemon=True)
        self._thread.start()

    @property
    def waiting_requests(self) -> int:
        """Number of requests in the queue."""
        return len(self._jobs)

    @property
    def waiting_tokens(self) -> int:
        """Number of tokens in the queue."""
        return sum(self._waiting.values())

    def seconds_to_wait(self, tokens: int | None = None) -> float:
        """Return the seconds until a request of so many tokens has its turn, or until the queue is empty (None).

        It goes by the speed of the last rounds, and is 0 before the first.
        """
        with self._change:
            # Requests take turns: each is ahead of this one by at most as much as this one needs.
            queued = sum(min(job.waiting_tokens, tokens or 0) for job in self._jobs)
            ahead = self.waiting_tokens if tokens is None else queued + self._round_size
        done, seconds = self._speed
        return ahead * seconds / done if done else 0.0

    def check_space(self, tokens: int) -> None:
        """Check that the queue has space for a request of at least so many tokens.

        Raises:
            QueueFullError: it has none.
        """
        waiting, limit = self._waiting[self._is_short(tokens)], self.max_tokens // 2
        if waiting and waiting + tokens > limit:
            seconds = min(max(1, math.ceil(self.seconds_to_wait())), MAX_RETRY_SECONDS)
            message = f"{waiting} tokens of requests like this one wait already, and at most {limit} may"
            raise QueueFullError(f"the server is busy: {message}. Try again in {seconds} s.", seconds)

    def submit(self, ids: Sequence[list[int]], exit_layer: int, waiter: Any = None) -> EmbeddingJob:
        """Queue the texts of a request; see `EmbeddingJob`.

        Raises:
            QueueFullError: the queue has no space for them, or the server ends.
        """
        job = EmbeddingJob(ids, exit_layer, waiter)
        with self._change:
            if self._closed:
                raise QueueFullError("the server is ending. Try again.", 1)
            self.check_space(job.tokens)
            self._jobs.append(job)
            self._waiting[self._is_short(job.tokens)] += job.tokens
            self._change.notify()
        return job

    def cancel(self, job: EmbeddingJob) -> None:
        """Forget a request whose client has gone."""
        with self._change:
            self._end(job)

    def close(self, timeout: float | None = None) -> None:
        """Let the thread end after its round; what waits then fails."""
        with self._change:
            self._closed = True
            self._change.notify()
        self._thread.join(timeout)

    def _is_short(self, tokens: int) -> bool:
        return tokens <= self.round_tokens

    def _run(self) -> None:
        while (rows := self._take()) is not None:
            start = time.perf_counter()
            exit_layer = rows[0][0].exit_layer
            ids = [job.ids[row] for job, row in rows]

            try:
                vectors = self._embed(ids, exit_layer)
                # Before a client has its answer, so that what it reads next in the metrics counts it.
                self._count(exit_layer, len(rows), time.perf_counter() - start)
                self._deliver(rows, vectors)
            # The thread must outlive whatever a batch does to the model.
            except Exception as error:
                self._round_size = 0
                self._fail({job for job, _ in rows}, error)

        self._fail(set(self._jobs), QueueFullError("the server is ending. Try again.", 1))

    def _count(self, exit_layer: int, texts: int, seconds: float) -> None:
        """Update the speed, which old rounds weigh less in, and report the round."""
        # Nobody waits for this round any more, and least of all who gets its answers.
        tokens, self._round_size = self._round_size, 0
        weight = math.exp(-seconds / SPEED_MEMORY)
        self._speed = (self._speed[0] * weight + tokens, self._speed[1] * weight + seconds)
        self.observe(exit_layer, texts, tokens, seconds)

    def _take(self) -> list[tuple[EmbeddingJob, int]] | None:
        """Return the texts of the next round, as jobs and rows; None after `close`."""
        with self._change:
            while not self._jobs and not self._closed:
                self._change.wait()
            if self._closed:
                return None

            # The oldest request sets the exit. Requests of other exits keep their places.
            exit_layer = self._jobs[0].exit_layer
            turns = deque(job for job in self._jobs if job.exit_layer == exit_layer)
            self._jobs = deque(job for job in self._jobs if job.exit_layer != exit_layer)

            rows, space = [], self.round_tokens
            while turns and space > 0:
                job = turns.popleft()
                rows.append((job, job.next_row))
                space -= len(job.ids[job.next_row])
                job.next_row += 1
                if job.next_row < len(job.ids):
                    turns.append(job)

            self._jobs.extend(turns)
            self._round_size = self.round_tokens - space
            return rows

    def _deliver(self, rows: list[tuple[EmbeddingJob, int]], vectors: np.ndarray) -> None:
        ended = []
        with self._change:
            for (job, row), vector in zip(rows, vectors, strict=True):
                if job.is_over:  # cancelled while the model ran
                    continue
                self._waiting[self._is_short(job.tokens)] -= len(job.ids[row])
                job.store(row, vector)
                if job.finished_rows == len(job.ids):
                    self._end(job, job.vectors)
                    ended.append(job)
        self.announce(ended)

    def _fail(self, jobs: set[EmbeddingJob], error: Exception) -> None:
        with self._change:
            for job in jobs:
                self._end(job, error)
        self.announce(list(jobs))

    def _end(self, job: EmbeddingJob, result: np.ndarray | Exception | None = None) -> None:
        """Take a job out of the queue, and give its future a result, or cancel it."""
        if job.is_over:
            return
        job.is_over = True
        self._waiting[self._is_short(job.tokens)] -= job.waiting_tokens
        # One whose last text has been taken is not in the queue any more.
        if job.next_row < len(job.ids):
            self._jobs.remove(job)

        if isinstance(result, Exception):
            job.future.set_exception(result)
        elif result is not None:
            job.future.set_result(result)
        else:
            job.future.cancel()
