"""Requests of any dialect, from checked values to embeddings."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import anyio
import numpy as np

from mose.handler import FEW_CHARACTERS, EmbeddingRequest, RequestError
from mose.hub.serving.batching import Batcher, EmbeddingJob, QueueFullError
from mose.hub.serving.engine import Engine, ExitCost

#: Requests that are tokenized in threads at the same time.
TOKENIZER_THREADS = 2
#: Tokens have fewer characters than this, spaces and comments aside.
MANY_CHARACTERS = 8
#: A request that waits longer is worth a task that watches if its client closes the connection.
SHORT_WAIT_SECONDS = 0.25


class ClientGoneError(ConnectionError):
    """The client closed its connection before its answer."""


class Embeddings(NamedTuple):
    """The answer to a request."""

    vectors: np.ndarray  # (texts, dim) float32
    exit_layer: int
    tokens: int
    is_single: bool


class EmbeddingService:
    """Embeds the texts of requests, many requests at a time.

    Args:
        engine: the model.
        max_queue_tokens: most tokens that wait for the model, and as many again for exit 0's lookup.
        costs: exit -> its cost, for `latency_budget_ms`.
    """

    def __init__(self, engine: Engine, max_queue_tokens: int, costs: Mapping[int, ExitCost]):
        self.engine, self.costs = engine, costs
        self.batchers = {"model": Batcher(engine.embed, engine.token_budget, max_queue_tokens)}
        if engine.static is not None:
            self.batchers["lookup"] = Batcher(engine.embed_static, engine.token_budget, max_queue_tokens)
        for batcher in self.batchers.values():
            batcher.announce = _wake_all
        self._threads: anyio.CapacityLimiter | None = None  # belongs to the event loop, which does not run yet

    def batcher(self, exit_layer: int) -> Batcher:
        """Return the queue of an exit. Exit 0 does not wait for deeper ones if it has its own."""
        return self.batchers["lookup" if exit_layer == 0 and "lookup" in self.batchers else "model"]

    async def embed(
        self,
        data: dict[str, Any],
        receive: Callable[[], Awaitable[Any]],
        field: str = "inputs",
        latency_budget_ms: float | None = None,
    ) -> Embeddings:
        """Embed the texts of one request.

        Args:
            data: as `EndpointHandler` reads it.
            receive: waits until the client closes its connection.
            field: field of `data` with the texts.
            latency_budget_ms: take the deepest exit that answers in this time, instead of one that is named.

        Raises:
            RequestError: the request is malformed or too large.
            QueueFullError: too many texts wait already.
            ClientGoneError: the client did not wait.
            FloatingPointError: the model's weights are broken.
        """
        request = self.engine.handler.read_request(data, field)
        batcher = None if latency_budget_ms is not None else self.batcher(request.exit_layer)
        ids = await self._tokenize(request, batcher)
        tokens = sum(map(len, ids))

        if latency_budget_ms is not None:
            request = request._replace(exit_layer=self._choose_exit(tokens, latency_budget_ms))
        waiter = asyncio.get_running_loop().create_future()
        job = self.batcher(request.exit_layer).submit(ids, request.exit_layer, waiter)
        vectors = self.engine.handler.finish(await self._wait(job, receive), request)
        return Embeddings(np.ascontiguousarray(vectors), request.exit_layer, tokens, request.is_single)

    def close(self, timeout: float | None = None) -> None:
        """End the threads after their current round."""
        for batcher in self.batchers.values():
            batcher.close(timeout)

    async def _tokenize(self, request: EmbeddingRequest, batcher: Batcher | None) -> list[list[int]]:
        """Return the ids of a request's texts, unless the queue has no space for them."""
        tokenize = self.engine.handler.tokenize
        if sum(map(len, request.texts)) <= FEW_CHARACTERS:  # not worth a thread
            return tokenize(request)

        self._threads = self._threads or anyio.CapacityLimiter(TOKENIZER_THREADS)
        async with self._threads:
            # The queue may have become full while this request waited for its turn.
            if batcher is not None:
                longest = self.engine.handler.longest
                batcher.check_space(sum(1 + min(len(text) // MANY_CHARACTERS, longest) for text in request.texts))
            return await anyio.to_thread.run_sync(tokenize, request)

    def _choose_exit(self, tokens: int, budget_ms: float) -> int:
        """Return the deepest exit that answers in a time, waiting included."""
        waits = {exit_layer: self.batcher(exit_layer).seconds_to_wait(tokens) for exit_layer in self.costs}
        for exit_layer in sorted(self.costs, reverse=True):
            seconds = waits[exit_layer] + self.costs[exit_layer].seconds(tokens)
            if 1000 * seconds <= budget_ms:
                return exit_layer

        fastest = min(self.costs, key=lambda exit_layer: self.costs[exit_layer].seconds(tokens))
        needed = 1000 * self.costs[fastest].seconds(tokens)
        if needed > budget_ms:
            message = f"must be at least {needed:.1f} for {tokens} tokens (exit {fastest}), got {budget_ms:g}"
            raise RequestError(f"latency_budget_ms {message}")
        message = f"no exit answers in {budget_ms:g} ms now, since other requests wait. Try again in 1 s."
        raise QueueFullError(message, 1)

    async def _wait(self, job: EmbeddingJob, receive: Callable[[], Awaitable[Any]]) -> np.ndarray:
        """Return a job's embeddings, or cancel it if the client closes its connection first."""
        gone = None
        try:
            await asyncio.wait((job.waiter,), timeout=SHORT_WAIT_SECONDS)
            if not job.waiter.done():
                gone = asyncio.ensure_future(receive())
                await asyncio.wait((job.waiter, gone), return_when=asyncio.FIRST_COMPLETED)
            if not job.waiter.done():
                raise ClientGoneError("the client closed its connection")
            return job.future.result()
        finally:
            if gone is not None:
                gone.cancel()
            self.batcher(job.exit_layer).cancel(job)


def _wake_all(jobs: Sequence[EmbeddingJob]) -> None:
    """Wake the requests of jobs that have ended; called in a batcher's thread."""

    def wake() -> None:
        for job in jobs:
            if not job.waiter.done():  # cancelled, as the server ends
                job.waiter.set_result(None)

    if jobs:
        with suppress(RuntimeError):  # the loop has ended
            jobs[0].waiter.get_loop().call_soon_threadsafe(wake)
