"""How fast something encodes, measured so that figures of one run can be compared."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

DOCUMENTS = 256  # sample of the corpus that is timed
QUERIES = 100
PASSES = 3
WARM_UP = 32


def sample(items: Sequence[str], size: int) -> list[str]:
    """At most `size` items, evenly spaced, so that a sorted corpus gives short and long ones alike."""
    return [items[at * len(items) // size] for at in range(size)] if len(items) > size else list(items)


def measure(
    encode_documents: Callable[[list[str]], Any],
    encode_queries: Callable[[list[str]], Any],
    documents: Sequence[str],
    queries: Sequence[str],
) -> dict[str, float]:
    """Throughput over documents and latency of one query.

    The first calls are discarded: they allocate, compile and fill caches. Tokenizing counts, since a user
    waits for it.

    Args:
        encode_documents: encodes a list, batching as it likes.
        encode_queries: encodes a list of queries; it is given one at a time.
        documents, queries: not empty; of both a sample is used, the same one for the same input.

    Returns:
        `snippets_per_second` (median of three passes), `query_ms_p50` and `query_ms_p95` (median and 95th
        percentile over queries).
    """
    texts, asked = sample(documents, DOCUMENTS), sample(queries, QUERIES)
    encode_documents(texts[:WARM_UP])
    passes = [_seconds(encode_documents, texts) for _ in range(PASSES)]
    for query in asked[:5]:
        encode_queries([query])
    waits = [_seconds(encode_queries, [query]) for query in asked]
    return {
        "snippets_per_second": len(texts) / median(passes),
        "query_ms_p50": 1000 * median(waits),
        "query_ms_p95": 1000 * float(np.percentile(waits, 95)),
    }


def _seconds(encode: Callable[[list[str]], Any], texts: list[str]) -> float:
    start = time.perf_counter()
    encode(texts)
    return time.perf_counter() - start
