from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.tokenization.pairs import join_pair

TOKENIZER = SimpleNamespace(sep_token_id=-1, cls_token_id=-2)


@given(st.integers(0, 12), st.integers(0, 12), st.integers(5, 30))
def test_the_longer_side_is_cut_first(first, second, max_length):
    """Against taking tokens away one at a time, from the longer side or, of equals, from the second."""
    kept = [first, second]
    while sum(kept) > max_length - 3:
        kept[0 if kept[0] > kept[1] else 1] -= 1
    a, b = list(range(first)), list(range(100, 100 + second))
    assert join_pair(TOKENIZER, a, b, max_length) == [-1, *a[: kept[0]], -1, *b[: kept[1]], -2]


def test_a_pair_needs_room_for_both():
    assert join_pair(TOKENIZER, [1, 2], [3, 4], 5) == [-1, 1, -1, 3, -2]
    with pytest.raises(ValueError, match="max_length must be at least 5 for a pair, got 4"):
        join_pair(TOKENIZER, [1], [2], 4)
