"""Encoding speed, measured so that the figures of one run can be compared."""

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import numpy as np

#: Size of the samples that are timed.
DOCUMENTS, QUERIES = 256, 100
PASSES = 3
#: Documents and queries that are encoded before the clock starts.
WARM_UP, WARM_UP_QUERIES = 32, 5


def sample(items: Sequence[str], size: int) -> list[str]:
    """Return at most `size` items, evenly spaced, so that a sorted corpus yields short and long ones alike."""
    return [items[index * len(items) // size] for index in range(size)] if len(items) > size else list(items)


def measure_speed(
    encode_documents: Callable[[list[str]], Any],
    encode_queries: Callable[[list[str]], Any],
    documents: Sequence[str],
    queries: Sequence[str],
) -> dict[str, float]:
    """Return the throughput over documents and the latency of one query.

    The first calls are discarded, because they allocate, compile and fill caches. Tokenization counts, since a
    user waits for it.

    Args:
        encode_documents: encodes a list, in batches of its own choice.
        encode_queries: encodes a list of queries; called with one query at a time.
        documents: not empty. A sample is used, the same for the same input.
        queries: alike.

    Returns:
        `snippets_per_second` (median of three passes), and `query_ms_p50` and `query_ms_p95` in milliseconds
        (median and 95th percentile over queries).
    """
    texts, query_texts = sample(documents, DOCUMENTS), sample(queries, QUERIES)

    encode_documents(texts[:WARM_UP])
    passes = [_seconds(encode_documents, texts) for _ in range(PASSES)]

    for query in query_texts[:WARM_UP_QUERIES]:
        encode_queries([query])
    latencies = [_seconds(encode_queries, [query]) for query in query_texts]

    return {
        "snippets_per_second": len(texts) / median(passes),
        "query_ms_p50": 1000 * median(latencies),
        "query_ms_p95": 1000 * float(np.percentile(latencies, 95)),
    }


def _seconds(encode: Callable[[list[str]], Any], texts: list[str]) -> float:
    start = time.perf_counter()
    encode(texts)
    return time.perf_counter() - start
