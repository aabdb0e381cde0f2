"""Evaluation of retrieval at every exit, beside baselines: quality, speed and costs in one report."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeAlias

import numpy as np
import torch

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval import metrics
from mose.eval.baselines import Baseline, BM25Baseline, TimedEncode, row_names
from mose.eval.costs import costs
from mose.eval.quality import Embeddings, Judgements, across_exits, quality_figures
from mose.eval.speed import measure_speed as time_encoding
from mose.inference.corpus import encode_corpus
from mose.inference.encoders import Encoder, MoSEEncoder

#: Embeds the documents (False) or the queries (True) of a set.
Embed: TypeAlias = Callable[[Encoder, RetrievalSet, bool], Embeddings]


def evaluate(
    model: Any,
    tokenizer: Any,
    sets: Iterable[RetrievalSet],
    exit_layers: Sequence[int] | None = None,
    baselines: Iterable[Baseline] = (),
    max_length: int | None = None,
    dtype: torch.dtype | None = None,
    measure_speed: bool = True,
    progress: bool = False,
    certainty: bool = True,
    cache: str | Path | None = None,
    devices: Sequence[str] = (),
    name: str | None = None,
) -> dict[str, Any]:
    """Return a report: quality per set and exit, speed and costs per exit.

    All exits are encoded in one pass for quality. Speed is measured for one exit at a time, on a sample of the
    first set. Baselines are timed on the same sample, with the same compute type and threads.

    Args:
        model: from `load_model`.
        tokenizer: from `load_model`.
        sets: at least one, with different names.
        exit_layers: exits to measure; None means all that are built.
        baselines: from `load_baseline`. Their names must differ from each other and from the exits.
        max_length: tokens after which a text is truncated.
        dtype: compute type, by autocast; None means the type of the weights.
        measure_speed: if False, "speed" is empty.
        progress: show bars on stderr.
        certainty: include bootstrap intervals and the permutation tests between exits.
        cache: folder in which embeddings are kept, in shards. A killed run resumes from it, and a run with other
            baselines or sets computes only what is new.
        devices: one encoding process for each, such as `["cpu", "cpu"]` or `["cuda:0", "cuda:1"]`.
        name: name of the model in the report; None means the last part of its folder or Hub id.

    Returns:
        A document ready for JSON:
        `{"sets": {name: {"queries", "documents", "exits": {exit: measures}, "peers": {row: measures}, …}},
        "speed": {row: {"snippets_per_second", "query_ms_p50", "query_ms_p95"}},
        "costs": {row: {"parameters", "memory_mb", "flops_per_token"}}, "settings": {…}}`.
        Measures are the set's `measures`, over the whole corpus. `quality_figures` documents the other keys of a
        set. "across_exits" is query exit -> document exit -> MRR.

    Raises:
        ValueError: no sets, names that occur twice, or an exit that is not built.
    """
    sets = list(sets)
    main = MoSEEncoder(model, tokenizer, exit_layers, max_length, dtype)
    rows: dict[Baseline, dict[str, str]] = {main: {key: key for key in main.keys}}  # model -> key -> row
    rows |= {baseline: row_names(baseline) for baseline in baselines}
    _check_names(sets, rows)

    report: dict[str, Any] = {"sets": {}, "speed": {}, "costs": {}}
    with _embedder(cache, devices, progress) as embed:
        for data in sets:
            report["sets"][data.name] = _set_report(data, rows, embed, certainty)

    for encoder, names in rows.items():
        if not isinstance(encoder, BM25Baseline):
            report["costs"] |= {names[key]: figures for key, figures in costs(encoder).items()}

    if measure_speed:
        report["speed"] = _speed_report(sets[0], rows)
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
    """Return the set's measures of one ranking, from its scores in blocks of consecutive queries."""
    judgements = Judgements(data)
    return metrics.summary(judgements.ranks(blocks), judgements.grades, data.measures)


def _check_names(sets: Sequence[RetrievalSet], rows: dict[Baseline, dict[str, str]]) -> None:
    if not sets:
        raise ValueError("no sets to evaluate on. Pass at least one.")

    row_labels = [row for names in rows.values() for row in names.values()]
    for kind, names in (("sets", [data.name for data in sets]), ("rows", row_labels)):
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"{kind} of a report must have different names, got {name!r} twice")


def _set_report(
    data: RetrievalSet, rows: dict[Baseline, dict[str, str]], embed: Embed, certainty: bool
) -> dict[str, Any]:
    """Return the report's entry of one set. The first of `rows` is the model itself."""
    judgements = Judgements(data)
    ranks: dict[str, dict[str, Any]] = {"exits": {}, "peers": {}}
    across: dict[str, Any] = {}

    for index, (encoder, names) in enumerate(rows.items()):
        if isinstance(encoder, BM25Baseline):
            ranks["peers"][encoder.name] = judgements.ranks(encoder.scores(data))
            continue

        documents, queries = embed(encoder, data, False), embed(encoder, data, True)
        for key, row in names.items():
            ranks["peers" if index else "exits"][row] = judgements.vector_ranks(queries[key], documents[key])
        if not index:
            across = across_exits(judgements, queries, documents)

    return {
        "queries": len(data.queries),
        "documents": len(data.documents),
        **quality_figures(judgements, ranks, certainty),
        "across_exits": across,
    }


@contextmanager
def _embedder(cache: str | Path | None, devices: Sequence[str], progress: bool) -> Iterator[Embed]:
    """Yield a function that embeds a set: in memory, or in shards for a cache or several processes."""
    if not cache and not devices:
        yield lambda encoder, data, query: encoder.encode(*_set_texts(data, query), query, progress=progress)
        return

    with TemporaryDirectory(prefix="mose-eval-") as scratch:
        fingerprints: dict[Encoder, str] = {}

        def embed(encoder: Encoder, data: RetrievalSet, query: bool) -> Embeddings:
            # A fingerprint reads all weights, so it is computed once.
            if encoder not in fingerprints:
                fingerprints[encoder] = encoder.fingerprint()[:12]
            name = f"{encoder.name}-{fingerprints[encoder]}"
            folder = Path(cache or scratch) / data.name / name / ("queries" if query else "documents")

            texts, languages = _set_texts(data, query)
            # Queries are few: starting processes for them would take longer.
            processes = () if query else devices
            store = encode_corpus(encoder, texts, folder, languages, query, processes, progress=progress)
            return {key: store[key] for key in encoder.keys}

        yield embed


def _set_texts(data: RetrievalSet, query: bool) -> tuple[Sequence[str], Sequence[str]]:
    return (data.queries, data.query_languages) if query else (data.documents, data.document_languages)


def _speed_report(data: RetrievalSet, rows: dict[Baseline, dict[str, str]]) -> dict[str, dict[str, float]]:
    speed = {}

    for encoder, names in rows.items():
        for key, row in names.items():
            if isinstance(encoder, BM25Baseline):
                encode_documents, encode_queries = encoder.timed(data)
            else:
                encode_documents, encode_queries = (_timed(encoder, key, data, query) for query in (False, True))

            speed[row] = time_encoding(encode_documents, encode_queries, data.documents, data.queries)

    return speed


def _timed(encoder: Encoder, key: str, data: RetrievalSet, query: bool) -> TimedEncode:
    """Return a function that encodes documents or queries under one key."""
    # One language for the whole sample: prompts of two languages differ by a token at most.
    language = (data.query_languages if query else data.document_languages)[0]
    return lambda texts: encoder.encode(texts, [language] * len(texts), query, [key])
