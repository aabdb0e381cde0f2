"""Join two snippets to one input for classification: `<sep>{first}<sep>{second}<cls>`, without instructions."""

from typing import Any

_SPECIAL_TOKENS = 3


def join_pair(tokenizer: Any, first: list[int], second: list[int], max_length: int) -> list[int]:
    """Return the ids of a pair, always with `<cls>` at the end.

    If the pair is too long, the end of its longer side is cut first, then the ends of both alike.

    Args:
        tokenizer: provides `sep_token_id` and `cls_token_id`.
        first: ids of the first snippet, without special tokens.
        second: ids of the second snippet, alike.
        max_length: most ids of the result.

    Raises:
        ValueError: `max_length` has no space for one token of each side.
    """
    space = max_length - _SPECIAL_TOKENS
    if space < 2:
        raise ValueError(f"max_length must be at least {_SPECIAL_TOKENS + 2} for a pair, got {max_length}.")

    first_length = max(space - len(second), (space + 1) // 2)  # the space that the second leaves, or half
    first = first[:first_length]
    second = second[: space - len(first)]
    separator = tokenizer.sep_token_id
    return [separator, *first, separator, *second, tokenizer.cls_token_id]
