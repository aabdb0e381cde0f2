"""Retrieval at every exit beside peers: quality on every set, speed on the first, costs."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval import metrics, speed
from mose.eval.baselines import BM25Peer, Peer, row_names
from mose.eval.costs import costs
from mose.eval.quality import Embeddings, Judgements, across_exits, figures
from mose.inference.corpus import encode_corpus
from mose.inference.encoders import Encoder, MoSEEncoder


def evaluate(
    model: Any,
    tokenizer: Any,
    sets: Iterable[RetrievalSet],
    exit_layers: Sequence[int] | None = None,
    peers: Iterable[Peer] = (),
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    measure_speed: bool = True,
    progress: bool = False,
    certainty: bool = True,
    cache: str | Path | None = None,
    devices: Sequence[str] = (),
    name: str | None = None,
) -> dict[str, Any]:
    """Quality per set and exit, speed and costs per exit.

    Quality takes one pass for all exits. Speed is measured one exit at a time, on a sample of the first set, for
    peers with the same sample, compute type and threads.

    Args:
        model, tokenizer: as `load_model` gives them.
        sets: at least one; names must differ.
        exit_layers: None means all that the model has built.
        peers: see `load_peer`; names must differ from each other and from the exits.
        max_length: tokens after which a text is cut off.
        dtype: compute type, by autocast; None means the type of the weights.
        measure_speed: without it, "speed" is empty.
        progress: show bars on stderr.
        certainty: with bootstrap intervals and the permutation tests between exits.
        cache: a folder in which embeddings are kept, in shards. A run that was killed goes on from there, and
            one with other peers or sets computes only what is new.
        devices: encode in one process for each, such as `["cpu", "cpu"]` or `["cuda:0", "cuda:1"]`.
        name: what the report calls the model; None means the last part of its folder or Hub id.

    Returns:
        keys all strings, ready for JSON:
        `{"sets": {name: {"queries", "documents", "exits": {exit: measures}, "peers": {row: measures}, …}},
        "speed": {row: {"snippets_per_second", "query_ms_p50", "query_ms_p95"}},
        "costs": {row: {"parameters", "memory_mb", "flops_per_token"}}, "settings": {…}}`.
        Measures are the set's: `mrr`, `ndcg@10`, `recall@1` and `recall@10` if it asks for nothing else, over
        the whole corpus. `mose.eval.quality.figures` says what else there is of a set; "across_exits" is query
        exit → document exit → MRR.

    Raises:
        ValueError: no sets, doubled names, an exit that the model does not have.
    """
    sets, peers = list(sets), list(peers)
    main = MoSEEncoder(model, tokenizer, exit_layers, max_length, dtype)
    encoders = [main, *(peer for peer in peers if not isinstance(peer, BM25Peer))]
    if not sets:
        raise ValueError("no sets to evaluate on")
    _check_distinct("sets", [data.name for data in sets])
    _check_distinct("rows", [*main.keys, *(row for peer in peers for row in _rows(peer, main).values())])

    report: dict[str, Any] = {"sets": {}, "speed": {}, "costs": {}}
    with _embedder(cache, devices, progress) as embed:
        for data in sets:
            judgements = Judgements(data)
            rows: dict[str, dict[str, Any]] = {"exits": {}, "peers": {}}
            across: dict[str, Any] = {}
            for peer in [main, *peers]:
                if isinstance(peer, BM25Peer):
                    rows["peers"][peer.name] = judgements.ranks(peer.scores(data))
                    continue
                documents, queries = embed(peer, data, False), embed(peer, data, True)
                for key, row in _rows(peer, main).items():
                    ranks = judgements.vector_ranks(queries[key], documents[key])
                    rows["exits" if peer is main else "peers"][row] = ranks
                if peer is main:
                    across = across_exits(judgements, queries, documents)
            report["sets"][data.name] = {
                "queries": len(data.queries),
                "documents": len(data.documents),
                **figures(judgements, rows, certainty),
                "across_exits": across,
            }
    for encoder in encoders:
        names = _rows(encoder, main)
        report["costs"] |= {names[key]: of for key, of in costs(encoder).items()}
    if measure_speed:
        first = sets[0]
        timed = {
            row: _timed(peer, key, first) for peer in [main, *peers] for key, row in _rows(peer, main).items()
        }
        for row, (of_documents, of_queries) in timed.items():
            report["speed"][row] = speed.measure(of_documents, of_queries, first.documents, first.queries)
    report["settings"] = {
        "model": name or main.name,
        "dtype": str(dtype or next(model.parameters()).dtype).removeprefix("torch."),
        "device": model.device.type,
        "threads": torch.get_num_threads(),
        "max_length": max_length,
        "speed_on": sets[0].name if measure_speed else None,
    }
    return report


def score(data: RetrievalSet, blocks: Iterable[np.ndarray]) -> dict[str, float]:
    """The set's measures of one ranking, given its scores in blocks of consecutive queries."""
    found, grades = judged_ranks(data, blocks)
    return metrics.summary(found, grades, data.measures)


def judged_ranks(data: RetrievalSet, blocks: Iterable[np.ndarray]) -> tuple[list[np.ndarray], list[list[int]]]:
    """Per query, the ranks and the grades of its relevant documents, in the same order."""
    judgements = Judgements(data)
    return judgements.ranks(blocks), judgements.grades


def _rows(peer: Peer, main: Peer) -> dict[str, str]:
    """Key → row: an exit's number for the model itself, names for the others."""
    return {key: key for key in peer.keys} if peer is main else row_names(peer)


Embed = Callable[[Encoder, RetrievalSet, bool], Embeddings]


@contextmanager
def _embedder(cache: str | Path | None, devices: Sequence[str], progress: bool) -> Iterator[Embed]:
    """What embeds the documents or the queries of a set: in memory, or in shards where that is asked for."""
    if not cache and not devices:
        yield lambda encoder, data, query: encoder.encode(*_texts(data, query), query, progress=progress)
        return
    with TemporaryDirectory(prefix="mose-eval-") as scratch:
        fingerprints: dict[Encoder, str] = {}

        def embed(encoder: Encoder, data: RetrievalSet, query: bool) -> Embeddings:
            if encoder not in fingerprints:
                fingerprints[encoder] = encoder.fingerprint()[:12]
            name = f"{encoder.name}-{fingerprints[encoder]}"
            folder = Path(cache or scratch) / data.name / name / ("queries" if query else "documents")
            texts, languages = _texts(data, query)
            processes = () if query else devices  # queries are few
            store = encode_corpus(encoder, texts, folder, languages, query, processes, progress=progress)
            return {key: store[key] for key in encoder.keys}

        yield embed


def _texts(data: RetrievalSet, query: bool) -> tuple[Sequence[str], Sequence[str]]:
    return (data.queries, data.query_languages) if query else (data.documents, data.document_languages)


def _timed(
    peer: Peer, key: str, data: RetrievalSet
) -> tuple[Callable[[list[str]], Any], Callable[[list[str]], Any]]:
    """What encodes documents and queries under one key, for the clock."""
    if isinstance(peer, BM25Peer):
        return peer.timed(data)
    # One language for the whole sample: prompts of two languages differ by a token at most.
    languages = data.document_languages[0], data.query_languages[0]

    def of(query: bool) -> Callable[[list[str]], Any]:
        return lambda texts: peer.encode(texts, [languages[query]] * len(texts), query, [key])

    return of(False), of(True)


def _check_distinct(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {what} of the report would be called {name!r}")
