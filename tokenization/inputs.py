"""From texts to token ids, for training and inference alike. A text is text, whatever it spells.

Only a prompt's own `<sep>` and the tokens that the tokenizer writes around an input are special.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from mose.tokenization.prompts import PROMPT_START


class InputIds(NamedTuple):
    """The token ids of an input in three parts."""

    opening: list[int]  # what the tokenizer writes before an input, and the prompt
    content: list[int]  # the text
    closing: list[int]  # what the tokenizer writes behind an input


def input_ids(
    tokenizer: Any, texts: Sequence[str], prompts: str | Sequence[str] = "", max_length: int | None = None
) -> list[list[int]]:
    """Return the ids of texts behind their prompts, with special tokens; for the arguments see `input_parts`."""
    parts = input_parts(tokenizer, texts, prompts, max_length)
    return [[*opening, *content, *closing] for opening, content, closing in parts]


def input_parts(
    tokenizer: Any, texts: Sequence[str], prompts: str | Sequence[str] = "", max_length: int | None = None
) -> list[InputIds]:
    """Tokenize texts behind their prompts.

    The ids are those of the prompt and the text as one string, except that special tokens in a text are text. A
    text without a prompt may begin with a prompt of its own, if the tokenizer reads such (`read_prompts`).

    Args:
        tokenizer: a tokenizer that writes special tokens around an input.
        texts: the texts.
        prompts: prefix of every text, or one prefix for each text.
        max_length: most tokens of an input, all special tokens included. The end of a longer text is cut.
    """
    prompts = [prompts] * len(texts) if isinstance(prompts, str) else prompts
    before, after = _frame(tokenizer)
    openings = _openings(tokenizer, dict.fromkeys(prompts))
    rests = [openings[prompt][1] + text for prompt, text in zip(prompts, texts, strict=True)]

    # A limit on the content alone bounds the work; the exact cut follows.
    contents = _encode(tokenizer, rests, max_length)
    behind_prompts = [row for row, prompt in enumerate(prompts) if openings[prompt][0]]
    _keep_as_text(tokenizer, rests, contents, behind_prompts, max_length)

    space = None if max_length is None else max_length - len(after)
    starts = {prompt: (before + opening)[:space] for prompt, (opening, _) in openings.items()}
    inputs = []
    for prompt, content in zip(prompts, contents, strict=True):
        start = starts[prompt]
        if space is not None and len(start) + len(content) > space:
            content = content[: space - len(start)]
        inputs.append(InputIds(start, content, after))
    return inputs


def text_ids(tokenizer: Any, texts: Sequence[str], max_length: int | None = None) -> list[list[int]]:
    """Return the ids of texts without any special token, each cut to `max_length`."""
    ids = _encode(tokenizer, texts, max_length)
    _keep_as_text(tokenizer, texts, ids, range(len(texts)), max_length)
    return ids


def check_texts(texts: Sequence[str]) -> None:
    """Raise ValueError for a text that no tokenizer reads: it is none, or has half of a surrogate pair."""
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {number} must be a text, got {text!r:.40}. Leave it out.")
        if surrogate := re.search("[\ud800-\udfff]", text):
            half = f"U+{ord(surrogate[0]):X}"
            raise ValueError(f"text {number} must not contain half of a surrogate pair, got {half}. Remove it.")


def _encode(tokenizer: Any, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
    if not len(texts):
        return []
    try:
        return _encode_batch(tokenizer, texts, max_length)
    except TypeError:
        check_texts(texts)
        raise


def _encode_batch(tokenizer: Any, texts: Sequence[str], max_length: int | None) -> list[list[int]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        encoded = tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=max_length is not None,
            max_length=max_length,
            return_attention_mask=False,
            verbose=False,
        )
        return encoded["input_ids"]

    # transformers sets these before each of its calls, which compute the places of tokens in their texts as well.
    if backend.truncation is not None:
        backend.no_truncation()
    if backend.padding is not None:
        backend.no_padding()
    if not backend.encode_special_tokens:
        backend.encode_special_tokens = True
    encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
    cut = slice(max_length)
    if max_length and tokenizer.truncation_side == "left":
        cut = slice(-max_length, None)
    return [encoding.ids[cut] for encoding in encodings]


def _keep_as_text(
    tokenizer: Any, texts: Sequence[str], ids: list[list[int]], rows: Sequence[int], max_length: int | None
) -> None:
    """Replace the ids of texts that the tokenizer took for a prompt of ours."""
    for row in rows:
        if texts[row].startswith(PROMPT_START) and tokenizer.sep_token_id in ids[row]:
            # Only the start of an input can be a prompt. The line break before it is one token, which goes again.
            limit = None if max_length is None else max_length + 1
            ids[row] = _encode(tokenizer, ["\n" + texts[row]], limit)[0][1:]


def _openings(tokenizer: Any, prompts: Sequence[str] | dict[str, None]) -> dict[str, tuple[list[int], str]]:
    """Return prompt -> the ids up to its `<sep>`, and what follows, which merges with the text."""
    separator = tokenizer.sep_token
    parts = {prompt: prompt.rpartition(separator) if separator else ("", "", prompt) for prompt in prompts}
    # An instruction may hold the name of a language from a dataset, which is text, too.
    ids = text_ids(tokenizer, [instruction for instruction, _, _ in parts.values()])
    return {
        prompt: ([*instruction, tokenizer.sep_token_id] if mark else [], rest)
        for (prompt, (_, mark, rest)), instruction in zip(parts.items(), ids, strict=True)
    }


def _frame(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return the ids that the tokenizer writes before and behind an input."""
    probe = tokenizer("a", return_special_tokens_mask=True)
    ids, special = probe["input_ids"], probe["special_tokens_mask"]
    return ids[: special.index(0)], ids[len(ids) - special[::-1].index(0) :]
