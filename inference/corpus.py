"""Encoding a corpus of any size: in shards, by several processes or GPUs, continued where a killed run stopped.

Memory stays bounded whatever the corpus: a process holds one shard of texts and of embeddings, and the texts may
lie on a disk (`datasets` columns do).
"""

import functools
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from mose.inference.encoders import Encoder
from mose.inference.encoding import Progress, TokenBar
from mose.inference.store import Source, Store, fingerprint_texts, write_shard, writing

SHARD_ROWS = 4096  # what a killed run loses at most, per process


class Task(NamedTuple):
    """One shard to be made."""

    shard: int
    file: Path
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
    """The embeddings of texts under every key of an encoder, on disk.

    What an earlier run of the same model, texts and settings has finished is kept, once its checksum has been
    compared; other embeddings in the folder are replaced.

    Args:
        encoder: a `MoSEEncoder` or a `SentenceTransformerPeer`.
        texts: at least one; only slices are taken of it.
        folder: where the shards go; it is made.
        languages: one per text, where the prompts depend on it.
        query: whether the texts are queries or documents.
        devices: one process for each, such as `["cuda:0", "cuda:1"]` or `["cpu", "cpu"]`; none: this process,
            where the encoder is.
        shard_rows: texts per shard.
        overwrite: without it, embeddings of something else in the folder are refused instead of replaced.
        progress: show a bar on stderr.

    Returns:
        the finished store; `store[key]` are the embeddings under a key.

    Raises:
        ValueError: no texts, languages that do not fit them, or a `shard_rows` below 1.
        StoreError: the folder is something else, or another run is writing there.
        RuntimeError: a process died, or loaded another model than this one; finished shards are kept.
    """
    if not len(texts):
        raise ValueError("no texts to encode")
    if languages is not None and len(languages) != len(texts):
        raise ValueError(f"{len(languages)} languages for {len(texts)} texts")
    if shard_rows < 1:
        raise ValueError(f"shard_rows={shard_rows}: must be at least 1")
    corpus, model = fingerprint_texts(texts, languages), encoder.fingerprint()
    settings = {**encoder.settings, "query": query}
    source = Source(model, corpus, settings, encoder.keys, len(texts), shard_rows)

    def tasks(store: Store) -> Iterator[Task]:
        for shard in store.unfinished:
            span = source.span(shard)
            chosen = list(texts[span])
            of = [""] * len(chosen) if languages is None else list(languages[span])
            yield Task(shard, store.file(shard), chosen, of, query)

    with writing(Path(folder), source, overwrite) as (store, damaged):
        if damaged:
            tqdm.write(f"{folder}: {len(damaged)} damaged shards are made again", file=sys.stderr)
        if store.unfinished:
            spans = map(source.span, store.unfinished)
            characters = sum(len(text) for span in spans for text in texts[span]) if progress else 0
            with TokenBar(characters, progress, f"{encoder.name}: {'queries' if query else 'documents'}") as bar:
                work = _in_processes(encoder, model, devices, bar) if devices else _here(encoder, bar)
                with work as run:
                    for shard, facts in run(tasks(store)):
                        store.add(shard, facts)
    return store


Run = Callable[[Iterator[Task]], Iterator[tuple[int, dict[str, Any]]]]


@contextmanager
def _here(encoder: Encoder, progress: Progress) -> Iterator[Run]:
    def run(tasks: Iterator[Task]) -> Iterator[tuple[int, dict[str, Any]]]:
        for task in tasks:
            yield task.shard, _make(encoder, task, progress)

    yield run


@contextmanager
def _in_processes(encoder: Encoder, model: str, devices: Sequence[str], progress: Progress) -> Iterator[Run]:
    """One process for each device, each with its share of the threads; no more tasks wait than are worked on."""
    context = _start_context()
    free, news = context.Queue(), context.Queue()
    for device in devices:
        free.put(device)
    threads = max(1, torch.get_num_threads() // len(devices))
    pool = ProcessPoolExecutor(
        len(devices), context, initializer=_start, initargs=(encoder.load, model, free, news, threads)
    )

    def run(tasks: Iterator[Task]) -> Iterator[tuple[int, dict[str, Any]]]:
        pending: set[Future] = set()
        while True:
            while len(pending) < 2 * len(devices) and (task := next(tasks, None)) is not None:
                pending.add(pool.submit(_work, task))
            if not pending:
                return
            done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
            while not news.empty():
                kind, numbers = news.get()
                getattr(progress, kind)(*numbers)
            for future in done:
                yield future.result()

    try:
        yield run
    except BrokenProcessPool:
        raise RuntimeError(
            f"{encoder.name}: an encoding process died, perhaps for lack of memory; what was finished is kept"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_context() -> Any:
    """Processes that start clean, as CUDA needs it; where there is a server for them, it imports once for all."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "transformers.models.auto.modeling_auto"])
    return context


def _make(encoder: Encoder, task: Task, progress: Progress | bool) -> dict[str, Any]:
    found = encoder.encode(task.texts, task.languages, task.query, progress=progress)
    return write_shard(task.file, np.stack([found[key] for key in encoder.keys]))


# --- in the other processes -------------------------------------------------------------------------------


class _Setup(NamedTuple):
    """What a process is told when it starts."""

    load: Callable[[str], Encoder]
    model: str  # fingerprint of the encoder that it must come to have
    free: Any  # queue of the devices that no process has taken yet
    news: Any  # queue to the process with the bar
    threads: int


_setup: _Setup


class _News:
    """Progress that is sent to the process with the bar."""

    def __init__(self, queue: Any):
        self._queue = queue

    def tokenized(self, characters: int, tokens: int) -> None:
        self._queue.put(("tokenized", (characters, tokens)))

    def encoded(self, tokens: int) -> None:
        self._queue.put(("encoded", (tokens,)))


def _start(*setup: Any) -> None:
    global _setup
    _setup = _Setup(*setup)
    _setup.news.cancel_join_thread()  # after a failure nobody listens any more, and this process has to end


@functools.cache
def _encoder() -> Encoder:
    """Loaded with the first task and not at the start, since an error then reaches the one who waits for it."""
    torch.set_num_threads(_setup.threads)
    device = _setup.free.get()
    try:
        encoder = _setup.load(device)
        if encoder.fingerprint() != _setup.model:
            raise RuntimeError(
                f"{encoder.name}: what lies on the disk is not the model in memory, so that other processes "
                "cannot take part; save it first, or encode in one process"
            )
    except BaseException:
        _setup.free.put(device)  # the next task would wait for one for ever
        raise
    return encoder


def _work(task: Task) -> tuple[int, dict[str, Any]]:
    return task.shard, _make(_encoder(), task, _News(_setup.news))
