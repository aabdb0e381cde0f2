"""Digests of the rows of an index, by which damage on disk is told from data.

Every row has a 64-bit digest of all its columns, and an index records the sum of them. The sum does not depend on
the order of rows, and a commit changes it by the rows that it removes and adds. Digests are computed with numpy,
for all rows at once. They tell damage, but do not stop somebody who forges an index.
"""

import numpy as np
import pyarrow as pa

#: Odd factors: a single changed word changes a sum of products with them for certain.
_FACTORS = np.random.PCG64(4057).random_raw(4096) | np.uint64(1)
_MIXER = np.uint64(0x9E3779B97F4A7C15)
#: Rows of numbers that are multiplied at a time: few enough to stay in the cache.
_ROWS_AT_ONCE = 512


def row_digests(table: pa.Table, vectors: np.ndarray, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Return the digest of each row, (rows,) uint64.

    Args:
        table: columns of integers, strings, fixed-size bytes and lists of integers, without nulls.
        vectors: (n, dim) float32.
        rows: the n rows that have these vectors. The others have none.
    """
    digests = np.zeros(len(table), np.uint64)
    for factor, name in zip(_FACTORS, sorted(table.column_names), strict=False):
        digests += _mixed(_column_digests(_contiguous(table.column(name)))) * factor
    if len(vectors):
        digests[rows] += _mixed(_matrix_digests(vectors))
    return _mixed(digests)


def total_digest(digests: np.ndarray) -> int:
    """Return the sum of row digests, modulo 2^64."""
    return int(digests.sum(dtype=np.uint64))


def _contiguous(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.chunk(0) if isinstance(array, pa.ChunkedArray) else array


def _column_digests(array: pa.Array) -> np.ndarray:
    kind = array.type
    if pa.types.is_integer(kind):
        return array.to_numpy(zero_copy_only=False).astype(np.int64).view(np.uint64) * _FACTORS[0]
    if pa.types.is_fixed_size_binary(kind):
        width = kind.byte_width
        data = np.frombuffer(array.buffers()[1], np.uint8)[array.offset * width :][: len(array) * width]
        return _matrix_digests(data.reshape(len(array), width))

    offsets = np.frombuffer(array.buffers()[1], np.int32)[array.offset :][: len(array) + 1].astype(np.intp)
    if pa.types.is_string(kind):
        data = array.buffers()[2]
        values = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    else:
        values = array.values.to_numpy()
    return _segment_digests(values[offsets[0] : offsets[-1]], offsets - offsets[0])


def _segment_digests(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return the digest of each of the segments that lie one after the other in `values`."""
    digests = np.empty(len(offsets) - 1, np.uint64)
    for start in range(0, len(digests), _ROWS_AT_ONCE):
        bounds = offsets[start : start + _ROWS_AT_ONCE + 1]
        lengths = np.diff(bounds)
        positions = np.arange(bounds[-1] - bounds[0]) - np.repeat(bounds[:-1] - bounds[0], lengths)
        products = values[bounds[0] : bounds[-1]].astype(np.uint64)
        products += np.uint64(1)  # else zeros would count for nothing
        products *= _FACTORS[positions % len(_FACTORS)]

        sums = np.zeros(len(products) + 1, np.uint64)
        np.cumsum(products, out=sums[1:])
        places = bounds - bounds[0]
        total = sums[places[1:]] - sums[places[:-1]]
        digests[start : start + _ROWS_AT_ONCE] = total + lengths.astype(np.uint64) * _MIXER
    return digests


def _matrix_digests(matrix: np.ndarray) -> np.ndarray:
    """Return the digest of each row of an array, whatever its type."""
    raw = np.ascontiguousarray(matrix).view(np.uint8)
    words = raw.view(np.uint64) if raw.shape[1] % 8 == 0 else raw.astype(np.uint64)
    factors = np.resize(_FACTORS, words.shape[1])

    digests = np.empty(len(words), np.uint64)
    for start in range(0, len(words), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        digests[rows] = (words[rows] * factors).sum(axis=1, dtype=np.uint64)
    return digests


def _mixed(values: np.ndarray) -> np.ndarray:
    """Return values whose every bit depends on every bit, so that sums of them hide no exchange of parts."""
    values = values ^ (values >> np.uint64(32))
    values = values * _MIXER
    return values ^ (values >> np.uint64(29))
