"""Build the tokenizer: a byte-level BPE from a corpus, or StarCoder-2's with our special tokens.

Both are stock fast tokenizers, which load without `trust_remote_code`. Their post-processor puts `<sep> … <cls>`
around the input, where truncation cannot cut it off. With `split_special_tokens`, special tokens in a text are
text, but for the `<sep>` of a prompt at its start (see `read_prompts`).
"""

import json
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mose.tokenization.pieces import PIECES, PROMPT_PIECES
from mose.tokenization.prompts import CLS, MASK, PAD, SEP

STARCODER2_SIZE = 49_152

#: How `ByteLevel(use_regex=True)` splits a text (GPT-2).
_BYTE_LEVEL_PIECES = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


def build_tokenizer(
    texts: Iterable[str], vocab_size: int, model_max_length: int = 1024, show_progress: bool = True
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE. Any text can be encoded, and is decoded to itself.

    Args:
        texts: the corpus: code, and text if queries are in natural language.
        vocab_size: number of tokens: `<pad>` 0, `<sep>` 1, `<cls>` 2, `<mask>` 3, the 256 bytes, and merges.
        model_max_length: longest input in tokens, to which `truncation=True` cuts.
        show_progress: show the trainer's progress bars.

    Raises:
        ValueError: `vocab_size` is below the number of bytes and special tokens, or the corpus is too small to
            fill it.
    """
    specials = [PAD, SEP, CLS, MASK]
    smallest = 256 + len(specials)
    if vocab_size < smallest:
        raise ValueError(
            f"vocab_size must be at least {smallest}, the bytes and special tokens; got {vocab_size}."
        )

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()

    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if tokenizer.get_vocab_size() < vocab_size:
        raise ValueError(
            f"vocab_size must be at most {tokenizer.get_vocab_size()} for this corpus, got {vocab_size}. "
            "Pass more text or a smaller size."
        )

    return framed(tokenizer, PAD, model_max_length)


def extend_starcoder2(
    tokenizer: PreTrainedTokenizerFast, model_max_length: int = 2048
) -> PreTrainedTokenizerFast:
    """Return StarCoder-2's tokenizer with the paper's ids: `<sep>` 49152, `<cls>` 49153, `<mask>` 49154, pad 0.

    Args:
        tokenizer: the tokenizer of a StarCoder-2 checkpoint; it is not changed.
        model_max_length: longest input in tokens.

    Raises:
        ValueError: the tokenizer does not have StarCoder-2's 49,152 tokens.
    """
    if len(tokenizer) != STARCODER2_SIZE:
        raise ValueError(f"tokenizer must have StarCoder-2's {STARCODER2_SIZE} tokens, got {len(tokenizer)}.")

    # A deep copy: adding tokens would change the caller's tokenizer.
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.add_special_tokens([SEP, CLS, MASK])
    return framed(backend, str(backend.id_to_token(0)), model_max_length)


def input_template(tokenizer: Tokenizer, sep: str = SEP, cls: str = CLS) -> processors.TemplateProcessing:
    """Return the post-processor for `<sep> a <cls>` around one text and `<sep> a <sep> b <cls>` around two."""
    return processors.TemplateProcessing(
        single=f"{sep} $A {cls}",
        pair=f"{sep} $A {sep} $B {cls}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (sep, cls)],
    )


def read_prompts(tokenizer: Tokenizer) -> Tokenizer | None:
    """Return a copy of a tokenizer that knows the `<sep>` of a prompt even where it reads special tokens as text.

    With `encode_special_tokens` (in transformers: `split_special_tokens`), a tokenizer finds no special token in
    a text. The copy makes the `<sep>` behind an instruction at the very start of an input one piece, which is
    looked up as a whole. The ids of other texts do not change.

    Returns None for a tokenizer of another make than those of this module.
    """
    state = json.loads(tokenizer.to_str())
    model, pre_tokenizer, separator = state["model"], state["pre_tokenizer"] or {}, tokenizer.token_to_id(SEP)
    steps = pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    if model["type"] != "BPE" or separator is None or not _add_prompt_pieces(steps):
        return None

    # Pieces that are tokens are then not merged from their bytes. Merging must lead to the same tokens.
    added = {token["content"] for token in state["added_tokens"]}
    merged = (len(tokenizer.model.tokenize(token)) == 1 for token in model["vocab"] if token not in added)
    if not model["ignore_merges"] and not all(merged):
        return None

    model["vocab"][SEP], model["ignore_merges"] = separator, True
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    reader = Tokenizer.from_str(json.dumps(state))
    if reader.get_vocab() != tokenizer.get_vocab():
        return None

    # A pre-tokenizer that keeps `<mask>` in one piece would now make it the token.
    reader.encode_special_tokens = True
    specials = {token["content"]: token["id"] for token in state["added_tokens"] if token["special"]}
    whole = any(id_ in reader.encode(text, add_special_tokens=False).ids for text, id_ in specials.items())
    reader.encode_special_tokens = False
    return None if whole else reader


def _add_prompt_pieces(steps: list[dict]) -> bool:
    """Add `PROMPT_PIECES` to the steps of a pre-tokenizer; return False if none of them can have it."""
    for number, step in enumerate(steps):
        if step.get("type") == "Split" and step["behavior"] == "Isolated" and "Regex" in step["pattern"]:
            pieces = step["pattern"]["Regex"]
            if PROMPT_PIECES not in pieces:
                step["pattern"] = {"Regex": f"{PROMPT_PIECES}|{pieces}"}
            return True

        if step.get("type") == "ByteLevel" and step["use_regex"] and not step["add_prefix_space"]:
            pattern = {"Regex": f"{PROMPT_PIECES}|{_BYTE_LEVEL_PIECES}"}
            split = {"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": False}
            steps[number : number + 1] = [split, step | {"use_regex": False}]
            return True

    return False


def framed(
    tokenizer: Tokenizer, pad_token: str, model_max_length: int, split_special_tokens: bool = False
) -> PreTrainedTokenizerFast:
    """Return a tokenizer that writes `<sep> … <cls>` around its input and pads on the right.

    Args:
        tokenizer: a tokenizer that has the special tokens; its post-processor is replaced.
        pad_token: the padding token.
        model_max_length: longest input in tokens.
        split_special_tokens: read special tokens in a text as text, if the tokenizer can `read_prompts`.
    """
    tokenizer.post_processor = input_template(tokenizer)
    reader = read_prompts(tokenizer)
    return PreTrainedTokenizerFast(
        tokenizer_object=reader or tokenizer,
        split_special_tokens=split_special_tokens and reader is not None,
        pad_token=pad_token,
        sep_token=SEP,
        cls_token=CLS,
        mask_token=MASK,
        # Results do not depend on it; sentence-transformers cuts token embeddings at padding on the right.
        padding_side="right",
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
