"""The stream of pre-training examples: the same for any number of processes, and after any interruption."""

import copy
import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info
from transformers import PreTrainedTokenizerBase

from mose.data.pretraining.contexts import ContextBuilder, tokenize_texts
from mose.data.pretraining.corpus import Corpus
from mose.utils.hashing import digest
from mose.utils.prefetching import prefetch

#: Positions to resume from that are remembered per lane, for a loader that has read ahead of training.
MARKS = 64


class PreTrainingStream(IterableDataset):
    """Examples of a corpus, in an order that depends only on the seed, the corpus and the settings.

    There is one stream of numbered examples. Process r of n yields numbers r, r + n, r + 2n, …: at every step, n
    processes together see what one process with n times the batch size sees. Data loader workers take turns with
    the batches of their process, and each does all the reading. They are not needed: a thread prepares the next
    block.

    Example i comes from lane i mod `lanes`. If `lanes` is a multiple of `world_size`, each process reads only its
    own part of the corpus; with one lane, each reads everything. Keep the number of lanes when resuming with
    another number of processes: it belongs to the stream.

    Args:
        corpus: a corpus, from `mose.data.pretraining.corpus.load_corpus`.
        tokenizer, max_length, objective: as in `mose.data.pretraining.contexts.ContextBuilder`.
        seed: seed of layouts and labels.
        rank: index of this process.
        world_size: number of processes.
        lanes: number of independent parts of the corpus.
        epochs: number of passes; None for an endless stream. Needs one lane.
        batch_size: batch size of this process's loader, required if that has more than one worker.
        same_language_intruders: as in `ContextBuilder`.

    Raises:
        ValueError: as in `ContextBuilder`; or "icc" on a corpus of one repository; or an argument is out of
            range.

    Yields (by iterating):
        `input_ids` (a list, at most `max_length`), `context_label` (absent for "none"), `language`, `repository`
        and `index`, the number of the example.
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
        same_language_intruders: float = 0.0,
    ):
        if not 0 <= rank < world_size:
            raise ValueError(f"rank must be in [0, world_size={world_size}), got {rank}.")
        for name, value in (("lanes", lanes), ("epochs", epochs), ("batch_size", batch_size)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")

        if epochs is not None and lanes > 1:
            raise ValueError(f"lanes must be 1 with epochs={epochs}, got {lanes}: lanes differ in length.")

        # A copy, because it is used in a thread: a fast tokenizer cannot be shared between threads.
        self.builder = ContextBuilder(copy.deepcopy(tokenizer), max_length, objective, same_language_intruders)
        corpus.check(repositories=2 if objective == "icc" else 1)
        self.corpus, self.seed, self.rank, self.world_size = corpus, seed, rank, world_size
        self.lanes, self.epochs, self.batch_size = lanes, epochs, batch_size
        self._first_epoch, self._start, self._yielded = 0, 0, 0
        self._marks: dict[int, deque[dict[str, Any]]] = {}

    def set_epoch(self, epoch: int) -> None:
        """Start at the first example of a pass. Does nothing if the stream already starts with that pass."""
        if epoch != self._first_epoch:
            self._first_epoch, self._start, self._yielded, self._marks = epoch, 0, 0, {}

    def state_dict(self, examples: int | None = None) -> dict[str, Any]:
        """Return the position to resume from, ready for JSON.

        A stream that was read in this process resumes by reading one block of the corpus again. A stream that was
        read by a loader's workers has no position in the corpus, and must read it again from its start.

        Args:
            examples: number of examples that all processes together have used since the start of the stream; None
                for all that were yielded. A loader reads ahead, so a trainer passes steps × global batch size.
        """
        number = self._yielded if examples is None else examples
        marks = {}
        for lane, lane_marks in self._marks.items():
            reached = _count_in_lane(number, lane, self.lanes)
            if usable := [mark for mark in lane_marks if mark["examples"] <= reached]:
                marks[str(lane)] = usable[-1]
        return {"examples": number, "epoch": self._first_epoch, "marks": marks, "stream": self.fingerprint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from a `state_dict`, also with another number of processes.

        Raises:
            ValueError: the state is from another stream, with other files, settings, seeds or lanes.
        """
        if state["stream"] != self.fingerprint:
            raise ValueError(
                "The state is from another stream of examples. Resume with the same corpus, seed, max_length, "
                "objective, same_language_intruders, lanes and tokenizer."
            )
        self._first_epoch, self._start = state["epoch"], state["examples"]
        self._yielded = self._start
        self._marks = {int(lane): deque([mark], MARKS) for lane, mark in state["marks"].items()}

    @cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digits that differ if another stream would be read; equal for all processes of a run."""
        builder = self.builder
        share = builder.same_language_intruders
        # A share of 0 leaves the stream and its fingerprint as they were before there was one.
        objective = f"{builder.objective} {share}" if share else builder.objective
        settings = builder.max_length, objective, builder.min_snippet, self.seed, self.lanes, self.epochs
        # Tokenize it like a block: other options would change the tokenizer while the thread uses it.
        probe = tokenize_texts(builder.tokenizer, ["def main(x): return x + 1  # probe"])[0].tolist()
        return f"{digest(self.corpus.fingerprint(), *settings, len(builder.tokenizer), probe):016x}"

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Lanes are opened when their first example is due: most belong to other processes.
        lanes: dict[int, Iterator[dict[str, Any]]] = {}
        positions: dict[int, int] = {}

        for number in self._numbers():
            lane, position = number % self.lanes, number // self.lanes
            if lane not in lanes:
                positions[lane] = _count_in_lane(self._start, lane, self.lanes)
                lanes[lane] = self._lane(lane, positions[lane])

            # Skip the examples of other processes.
            skip = position - positions[lane]
            example = next(itertools.islice(lanes[lane], skip, None), None)
            if example is None:
                return
            positions[lane] = position + 1
            self._yielded = number - self.rank + self.world_size
            yield {**example, "index": number}

    def _numbers(self) -> Iterator[int]:
        """Yield the numbers of the examples that this process, or this worker of its loader, yields."""
        first = self._start + self.rank
        worker = get_worker_info()
        if worker is None or worker.num_workers == 1:
            yield from itertools.count(first, self.world_size)
            return

        if self.batch_size is None:
            raise ValueError(f"batch_size must be that of the loader if it has {worker.num_workers} workers.")
        for batch in itertools.count(worker.id, worker.num_workers):
            start = first + batch * self.batch_size * self.world_size
            yield from range(start, start + self.batch_size * self.world_size, self.world_size)

    def _lane(self, lane: int, start: int) -> Iterator[dict[str, Any]]:
        """Yield the examples of a lane from its example number `start`."""
        marks = self._marks[lane] = deque(
            (mark for mark in self._marks.get(lane, ()) if mark["examples"] <= start), MARKS
        )
        beginning: dict[str, Any] = {"examples": 0, "epoch": self._first_epoch, "block": 0, "state": None}
        mark = marks[-1] if marks else beginning
        number, epoch, block, state = mark["examples"], mark["epoch"], mark["block"], mark["state"]
        last = None if self.epochs is None else self._first_epoch + self.epochs

        while last is None or epoch < last:
            number_before, whole_pass = number, block == 0
            for examples, state_after in prefetch(self._blocks(epoch, lane, block, state)):
                # The state before the block: resuming within a block reads that block again.
                marks.append({"examples": number, "epoch": epoch, "block": block, "state": state})
                for index in range(max(0, min(start - number, len(examples))), len(examples)):
                    yield examples[index]
                number, block, state = number + len(examples), block + 1, state_after

            if number == number_before and whole_pass and last is None:  # an endless stream would never yield
                raise ValueError(
                    f"a pass over the corpus (lane {lane} of {self.lanes}) gives no example: "
                    f"{dict(self.corpus.counts)}, {dict(self.builder.counts)}"
                )

            epoch, block, state = epoch + 1, 0, None

    def _blocks(
        self, epoch: int, lane: int, block: int, state: Mapping[str, Any] | None
    ) -> Iterator[tuple[Sequence[dict], dict[str, Any]]]:
        """Yield the examples of a lane's blocks from number `block`, each with the corpus' state after it."""
        for number, (rows, state_after) in enumerate(self.corpus.blocks(epoch, lane, self.lanes, state), block):
            yield self.builder(rows, (self.seed, epoch, lane, number)), state_after


def _count_in_lane(number: int, lane: int, lanes: int) -> int:
    """Return how many of the examples before `number` belong to a lane."""
    return (number - lane + lanes - 1) // lanes
