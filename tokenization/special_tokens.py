"""The special tokens that every tokenizer of training must have."""

from transformers import PreTrainedTokenizerBase

#: Attributes of a tokenizer, without `_token` and `_token_id`.
SPECIAL_TOKENS = ("pad", "sep", "cls", "mask")


def check_special_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer has the special tokens of training.

    Raises:
        ValueError: it lacks one of pad, sep, cls and mask.
    """
    if missing := [name for name in SPECIAL_TOKENS if getattr(tokenizer, f"{name}_token_id") is None]:
        expected = ", ".join(SPECIAL_TOKENS)
        raise ValueError(f"tokenizer must have {expected} tokens; it has no {' and no '.join(missing)} token.")
