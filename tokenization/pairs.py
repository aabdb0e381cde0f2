"""Two snippets as one input, for classification: `<sep>{first}<sep>{second}<cls>`, without instructions."""

from typing import Any

SPECIAL_TOKENS = 3


def join_pair(tokenizer: Any, first: list[int], second: list[int], max_length: int) -> list[int]:
    """The ids of a pair, in which `<cls>` always stands last.

    A pair that is too long loses the ends of its longer side first, then of both alike.

    Args:
        tokenizer: knows `sep_token_id` and `cls_token_id`.
        first, second: ids without special tokens.
        max_length: ids of the result, at most.

    Raises:
        ValueError: `max_length` leaves no room for a token of each side.
    """
    room = max_length - SPECIAL_TOKENS
    if room < 2:
        raise ValueError(f"max_length={max_length}: a pair needs at least {SPECIAL_TOKENS + 2}")
    kept = max(room - len(second), (room + 1) // 2)  # what the second side leaves, or half
    first = first[:kept]
    second = second[: room - len(first)]
    separator = tokenizer.sep_token_id
    return [separator, *first, separator, *second, tokenizer.cls_token_id]
