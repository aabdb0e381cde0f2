"""Encoding a corpus of any size into a store, by one process or several, resuming after an interruption.

A process holds one shard of texts and of embeddings in memory. The texts can be a column on disk, as those of
`datasets` are.
"""

import functools
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from mose.inference.encoders import Encoder
from mose.inference.fingerprints import fingerprint_texts
from mose.inference.progress import Progress, TokenBar
from mose.inference.store import Store, StoreSpec, open_for_writing

#: Texts per shard. A killed run loses at most one shard for each process.
SHARD_ROWS = 4096


class ShardTask(NamedTuple):
    """One shard to encode and write."""

    store: Store
    shard: int
    texts: list[str]
    languages: list[str]
    query: bool


def encode_corpus(
    encoder: Encoder,
    texts: Sequence[str],
    folder: str | Path,
    languages: Sequence[str] | None = None,
    query: bool = False,
    devices: Sequence[str] = (),
    shard_rows: int = SHARD_ROWS,
    overwrite: bool = True,
    progress: bool = False,
) -> Store:
    """Encode texts under every key of an encoder, and return the finished store; `store[key]` has the embeddings.

    Intact shards of an earlier run with the same model, texts and settings are kept. Others are replaced.

    Args:
        encoder: a `MoSEEncoder` or a `SentenceTransformerBaseline`.
        texts: at least one. Read in slices.
        folder: folder of the shards; created if missing.
        languages: one for each text, to select its prompt; None means no language for any.
        query: True for queries, False for documents.
        devices: one process for each, such as `["cuda:0", "cuda:1"]`. If empty, encode in this process.
        shard_rows: texts per shard.
        overwrite: if False, refuse to replace embeddings of something else.
        progress: show a bar on stderr.

    Raises:
        ValueError: `texts` is empty, the number of languages differs from it, or `shard_rows` is below 1.
        StoreError: the folder holds something else, or another run is writing to it.
        RuntimeError: a process died, or loaded another model than `encoder`. Finished shards are kept.
    """
    if not len(texts):
        raise ValueError("no texts to encode. Pass at least one.")
    if languages is not None and len(languages) != len(texts):
        raise ValueError(f"{len(languages)} languages for {len(texts)} texts. Pass one for each text.")
    if shard_rows < 1:
        raise ValueError(f"shard_rows must be at least 1, got {shard_rows}.")

    corpus = fingerprint_texts(texts, languages)
    settings = {**encoder.settings, "query": query}
    spec = StoreSpec(encoder.fingerprint(), corpus, settings, encoder.keys, len(texts), shard_rows)

    with open_for_writing(Path(folder), spec, overwrite) as (store, damaged):
        if damaged:
            tqdm.write(f"{folder}: {damaged} damaged shards are encoded again", file=sys.stderr)

        if shards := store.unfinished:
            spans = map(spec.span, shards)
            # Counting reads every text, so do it only for the bar.
            characters = sum(len(text) for span in spans for text in texts[span]) if progress else 0

            tasks = _shard_tasks(store, shards, texts, languages, query)
            with TokenBar(characters, progress, f"{encoder.name}: {'queries' if query else 'documents'}") as bar:
                if devices:
                    _encode_in_processes(encoder, tasks, devices, bar)
                else:
                    for task in tasks:
                        _encode_shard(encoder, task, bar)
    return store


def _shard_tasks(
    store: Store, shards: list[int], texts: Sequence[str], languages: Sequence[str] | None, query: bool
) -> Iterator[ShardTask]:
    for shard in shards:
        span = store.spec.span(shard)
        part = list(texts[span])
        part_languages = [""] * len(part) if languages is None else list(languages[span])
        yield ShardTask(store, shard, part, part_languages, query)


def _encode_shard(encoder: Encoder, task: ShardTask, progress: Progress | bool) -> None:
    embeddings = encoder.encode(task.texts, task.languages, task.query, progress=progress)
    task.store.write(task.shard, np.stack([embeddings[key] for key in encoder.keys]))


def _encode_in_processes(
    encoder: Encoder, tasks: Iterator[ShardTask], devices: Sequence[str], progress: Progress
) -> None:
    """Run the tasks in one process for each device, with an equal share of the threads."""
    context = _start_context()
    free_devices, messages = context.Queue(), context.Queue()
    for device in devices:
        free_devices.put(device)

    threads = max(1, torch.get_num_threads() // len(devices))
    setup = _WorkerSetup(encoder.load, free_devices, messages, threads)
    pool = ProcessPoolExecutor(len(devices), context, initializer=_start_worker, initargs=(setup,))
    pending: set[Future] = set()

    try:
        while True:
            # Submit no more than two tasks for each process: every task holds its texts in memory.
            while len(pending) < 2 * len(devices) and (task := next(tasks, None)) is not None:
                pending.add(pool.submit(_encode_in_worker, task))
            if not pending:
                break

            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            while not messages.empty():
                callback, numbers = messages.get()
                getattr(progress, callback)(*numbers)

            for future in done:
                future.result()  # raises the worker's exception
    except BrokenProcessPool:
        message = (
            "an encoding process died, perhaps for lack of memory. Run again to resume; finished shards are kept."
        )
        raise RuntimeError(f"{encoder.name}: {message}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_context() -> Any:
    """Return a context that starts clean processes, as CUDA requires."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # the server imports torch and transformers once for all
    return context


# --- In the worker processes ------------------------------------------------------------------------------


class _WorkerSetup(NamedTuple):
    """Everything that a worker receives when it starts."""

    load: Callable[[str], Encoder]
    free_devices: Any  # queue of the devices that no worker has taken yet
    messages: Any  # queue of (callback, arguments) to the process with the progress bar
    threads: int


_setup: _WorkerSetup


class _ProgressSender:
    """Progress callbacks that forward to the process with the bar."""

    def __init__(self, messages: Any):
        self._messages = messages

    def tokenized(self, characters: int, tokens: int) -> None:
        self._messages.put(("tokenized", (characters, tokens)))

    def encoded(self, tokens: int) -> None:
        self._messages.put(("encoded", (tokens,)))


def _start_worker(setup: _WorkerSetup) -> None:
    global _setup
    _setup = setup
    # After a failure nobody reads the queue any more; the worker must not wait for that when it ends.
    _setup.messages.cancel_join_thread()


@functools.cache
def _worker_encoder(model: str) -> Encoder:
    """Return this worker's encoder, whose fingerprint must be `model`.

    It is loaded for the first task, not at the start of the process, so that an error reaches the task's caller.
    """
    torch.set_num_threads(_setup.threads)
    device = _setup.free_devices.get()

    try:
        encoder = _setup.load(device)
        if encoder.fingerprint() != model:
            message = "the model on disk is not the model in memory, so other processes cannot load it"
            raise RuntimeError(f"{encoder.name}: {message}. Save it first, or encode in one process.")
    except BaseException:
        _setup.free_devices.put(device)  # otherwise the next task would wait for a device forever
        raise
    return encoder


def _encode_in_worker(task: ShardTask) -> None:
    _encode_shard(_worker_encoder(task.store.spec.model), task, _ProgressSender(_setup.messages))
