"""The stream of pre-training examples: the same for any number of processes, and after any interruption."""

import copy
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, TypeVar

from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase

from mose.data.pretraining.contexts import ContextBuilder
from mose.data.pretraining.corpus import Corpus
from mose.utils.hashing import digest

T = TypeVar("T")

#: How many places to go on from are remembered per lane, for a loader that has read ahead of training.
MARKS = 64


class PreTrainingStream(IterableDataset):
    """Examples of a corpus, in an order that depends on the seed, the corpus and the settings alone.

    There is one stream of examples, numbered from 0; process r of n gives numbers r, r + n, r + 2n, …, so that n
    processes together see at every step what one process with n times the batch sees. A loader's workers share
    a process's batches in turn, as `DataLoader` asks for them, and each does all the reading. None are needed:
    the next block of files is read and tokenized in a thread while the examples of one are used.

    Example i comes from lane i mod `lanes`, and a lane is read by the processes that need one of its examples.
    With `lanes` a multiple of `world_size` each process reads and tokenizes its own part only; with one lane each
    process reads everything and gives its share. The number of lanes belongs to the stream: keep it when going on
    with another number of processes.

    Args:
        corpus: Of `mose.data.pretraining.corpus.load_corpus`.
        tokenizer, max_length, objective: As in `mose.data.pretraining.contexts.ContextBuilder`.
        seed: Of layouts and labels.
        rank, world_size: Which of how many processes this is.
        lanes: Independent parts of the corpus.
        epochs: How many passes to give; None for no end. With several lanes, each passes over its own part.
        batch_size: Of this process's loader: needed where that has more than one worker.

    Raises:
        ValueError: As in `ContextBuilder`; the corpus has one repository only and the objective is "icc"; or an
            argument is out of its range.

    Yields (by iterating):
        `input_ids` (a list of at most `max_length`), `context_label` (absent for "none"), `language`,
        `repository` and `index`, the example's number.
    """

    def __init__(
        self,
        corpus: Corpus,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        objective: str = "icc",
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        lanes: int = 1,
        epochs: int | None = None,
        batch_size: int | None = None,
    ):
        if not 0 <= rank < world_size:
            raise ValueError(f"rank={rank}, world_size={world_size}: a rank is from 0 to world_size - 1")
        if lanes < 1 or (epochs is not None and epochs < 1) or (batch_size is not None and batch_size < 1):
            raise ValueError(f"lanes={lanes}, epochs={epochs}, batch_size={batch_size}: must be at least 1")
        if epochs is not None and lanes > 1:
            raise ValueError(
                f"epochs={epochs}, lanes={lanes}: lanes end at different times; a pass needs one lane"
            )
        # A copy: it is used in a thread, and a fast tokenizer is not to be used by two at a time.
        self.builder = ContextBuilder(copy.deepcopy(tokenizer), max_length, objective)
        corpus.check(repositories=2 if objective == "icc" else 1)
        self.corpus, self.seed, self.rank, self.world_size = corpus, seed, rank, world_size
        self.lanes, self.epochs, self.batch_size = lanes, epochs, batch_size
        self._first_epoch, self._start, self._given = 0, 0, 0
        self._marks: dict[int, deque[dict[str, Any]]] = {}

    def set_epoch(self, epoch: int) -> None:
        """Begins with this pass, at its first example; nothing changes where that is the pass it began with."""
        if epoch != self._first_epoch:
            self._first_epoch, self._start, self._given, self._marks = epoch, 0, 0, {}

    def state_dict(self, examples: int | None = None) -> dict[str, Any]:
        """Where to go on.

        Args:
            examples: How many examples all processes together have used since the stream's beginning; by default
                all that iterating gave. A loader that reads ahead has taken more than were used, so a trainer
                says: steps × global batch size.

        Returns:
            What `load_state_dict` takes, and JSON can hold. A stream that was read in this very process goes on
            by reading and tokenizing one block of the corpus again; one read by a loader's workers knows no
            place in the corpus, and must read it again from its beginning.
        """
        number = self._given if examples is None else examples
        marks = {}
        for lane, kept in self._marks.items():
            reached = _in_lane(number, lane, self.lanes)
            if usable := [mark for mark in kept if mark["examples"] <= reached]:
                marks[str(lane)] = usable[-1]
        return {
            "examples": number,
            "epoch": self._first_epoch,
            "marks": marks,
            "stream": self.fingerprint,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Goes on where `state_dict` was taken, also with another number of processes.

        Raises:
            ValueError: It was taken from another stream: other files, settings, seeds or lanes.
        """
        if state["stream"] != self.fingerprint:
            raise ValueError(
                "the state is that of another stream of examples: corpus, seed, max_length, objective, lanes or "
                "tokenizer have changed"
            )
        self._first_epoch, self._start = state["epoch"], state["examples"]
        self._given = self._start
        self._marks = {int(lane): deque([mark], MARKS) for lane, mark in state["marks"].items()}

    @cached_property
    def fingerprint(self) -> str:
        """Differs where another stream would be read; the same for every process of one run."""
        builder = self.builder
        settings = (
            builder.max_length,
            builder.objective,
            builder.min_snippet,
            self.seed,
            self.lanes,
            self.epochs,
        )
        probe = builder.tokenizer("def main(x): return x + 1  # probe", add_special_tokens=False)["input_ids"]
        return f"{digest(self.corpus.fingerprint(), *settings, len(builder.tokenizer), probe):016x}"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        lanes: dict[int, Iterator[dict[str, Any]]] = {}
        positions: dict[int, int] = {}
        for number in self._numbers():
            lane, position = number % self.lanes, number // self.lanes
            if lane not in lanes:
                positions[lane] = _in_lane(self._start, lane, self.lanes)
                lanes[lane] = self._lane(lane, positions[lane])
            skip = position - positions[lane]
            example = next(itertools.islice(lanes[lane], skip, None), None)
            if example is None:
                return
            positions[lane] = position + 1
            self._given = number - self.rank + self.world_size
            yield {**example, "index": number}

    def _numbers(self) -> Iterator[int]:
        """The numbers of the examples that this process, or worker of its loader, gives."""
        first = self._start + self.rank
        worker = get_worker_info()
        if worker is None or worker.num_workers == 1:
            yield from itertools.count(first, self.world_size)
            return
        if self.batch_size is None:
            raise ValueError(f"{worker.num_workers} workers: give the stream the batch_size of its loader")
        for batch in itertools.count(worker.id, worker.num_workers):
            start = first + batch * self.batch_size * self.world_size
            yield from range(start, start + self.batch_size * self.world_size, self.world_size)

    def _lane(self, lane: int, start: int) -> Iterator[dict[str, Any]]:
        """A lane's examples from number `start` on."""
        kept = self._marks[lane] = deque(
            (mark for mark in self._marks.get(lane, ()) if mark["examples"] <= start), MARKS
        )
        beginning: dict[str, Any] = {"examples": 0, "epoch": self._first_epoch, "block": 0, "state": None}
        mark = kept[-1] if kept else beginning
        number, epoch, block, state = mark["examples"], mark["epoch"], mark["block"], mark["state"]
        last = None if self.epochs is None else self._first_epoch + self.epochs
        while last is None or epoch < last:
            before, whole = number, block == 0
            for examples, after in _one_ahead(self._blocks(epoch, lane, block, state)):
                kept.append({"examples": number, "epoch": epoch, "block": block, "state": state})
                for at in range(max(0, min(start - number, len(examples))), len(examples)):
                    yield examples[at]
                number, block, state = number + len(examples), block + 1, after
            if number == before and whole and last is None:
                raise ValueError(
                    f"a pass over the corpus (lane {lane} of {self.lanes}) gives no example: "
                    f"{dict(self.corpus.counts)}, {dict(self.builder.counts)}"
                )
            epoch, block, state = epoch + 1, 0, None

    def _blocks(
        self, epoch: int, lane: int, block: int, state: Mapping[str, Any] | None
    ) -> Iterator[tuple[Sequence[dict], dict[str, Any]]]:
        """The examples of each block of a lane's pass from number `block` on, and the corpus' state after it."""
        for number, (rows, after) in enumerate(self.corpus.blocks(epoch, lane, self.lanes, state), block):
            yield self.builder(rows, (self.seed, epoch, lane, number)), after


def _one_ahead(items: Iterator[T]) -> Iterator[T]:
    """The items, the next of which is made in a thread while one is used: tokenizers leave Python's lock free."""
    with ThreadPoolExecutor(1) as pool:
        pending = pool.submit(next, items, None)
        while (item := pending.result()) is not None:
            pending = pool.submit(next, items, None)
            yield item


def _in_lane(number: int, lane: int, lanes: int) -> int:
    """How many of the examples before `number` are a lane's."""
    return (number - lane + lanes - 1) // lanes
