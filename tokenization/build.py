"""Build the tokenizer: a byte-level BPE from a corpus, or StarCoder-2's with our special tokens.

Both are stock fast tokenizers, which load without `trust_remote_code`. Their post-processor puts `<sep> … <cls>`
around the input, where truncation cannot cut it off.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mose.tokenization.prompts import CLS, MASK, PAD, SEP

STARCODER2_SIZE = 49_152

# A piece is a word of an identifier with the space or underscores before it, split where the case rises
# (`parseHTMLPage`: parse, HTML, Page); or up to three digits; or a run of punctuation; or white space. Splitting
# identifiers spells them in fewer tokens, and gives the words of a query and of a function name the same pieces.
_PIECES = (
    r"[ _]*(?:\p{Lu}+(?!\p{Ll})|\p{Lu}?\p{Ll}+|[\p{Lt}\p{Lm}\p{Lo}\p{M}]+)"
    r"| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}_]+|_+|\s+(?!\S)|\s+"
)


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
            pre_tokenizers.Split(Regex(_PIECES), behavior="isolated"),
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


def framed(tokenizer: Tokenizer, pad_token: str, model_max_length: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer that writes `<sep> … <cls>` around its input and pads on the left.

    Args:
        tokenizer: a tokenizer that has the special tokens; its post-processor is replaced.
        pad_token: the padding token.
        model_max_length: longest input in tokens.
    """
    tokenizer.post_processor = input_template(tokenizer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=pad_token,
        sep_token=SEP,
        cls_token=CLS,
        mask_token=MASK,
        padding_side="left",
        model_max_length=model_max_length,
        model_input_names=["input_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )
