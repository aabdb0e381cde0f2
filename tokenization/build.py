"""Building the tokenizer: a byte-level BPE from a corpus, or StarCoder-2's with our special tokens.

Either is a stock fast tokenizer, so that nobody needs `trust_remote_code` for it. Both put `<sep> … <cls>`
around their input in the post-processor, where truncation cannot cut it off.
"""

from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from mose.tokenization.prompts import CLS, MASK, PAD, SEP

STARCODER2_SIZE = 49_152

# One piece is: a word of an identifier, cut where the case rises (`parseHTMLPage`: parse, HTML, Page) and with
# the space or underscores before it; up to three digits; a run of punctuation; white space. Cutting identifiers
# into their words lets a vocabulary of this size spell them in fewer tokens, and gives the words of a query and
# of a function's name the same pieces.
_PIECES = (
    r"[ _]*(?:\p{Lu}+(?!\p{Ll})|\p{Lu}?\p{Ll}+|[\p{Lt}\p{Lm}\p{Lo}\p{M}]+)"
    r"| ?\p{N}{1,3}| ?[^\s\p{L}\p{M}\p{N}_]+|_+|\s+(?!\S)|\s+"
)


def build_tokenizer(
    texts: Iterable[str], vocab_size: int, model_max_length: int = 1024, show_progress: bool = True
) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE; any text encodes, and decodes to itself.

    Args:
        texts: The corpus: code and, where queries are in natural language, text.
        vocab_size: Tokens wanted: `<pad>` 0, `<sep>` 1, `<cls>` 2, `<mask>` 3, the 256 bytes and merges.
        model_max_length: Longest input in tokens, what `truncation=True` cuts to.
        show_progress: Whether to show the trainer's progress bars.

    Raises:
        ValueError: `vocab_size` has no room for the bytes and the special tokens, or the corpus is too small
            to fill it.
    """
    specials = [PAD, SEP, CLS, MASK]
    smallest = 256 + len(specials)
    if vocab_size < smallest:
        raise ValueError(f"vocab_size={vocab_size}: the bytes and special tokens alone are {smallest}")
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
            f"vocab_size={vocab_size}: the corpus yields {tokenizer.get_vocab_size()} tokens; "
            "give more text or ask for fewer"
        )
    return framed(tokenizer, PAD, model_max_length)


def extend_starcoder2(
    tokenizer: PreTrainedTokenizerFast, model_max_length: int = 2048
) -> PreTrainedTokenizerFast:
    """StarCoder-2's tokenizer with the paper's ids: `<sep>` 49152, `<cls>` 49153, `<mask>` 49154, pad 0.

    Args:
        tokenizer: As loaded from a StarCoder-2 checkpoint; it is not changed.
        model_max_length: Longest input in tokens.

    Raises:
        ValueError: the tokenizer has another size than StarCoder-2's 49,152 tokens.
    """
    if len(tokenizer) != STARCODER2_SIZE:
        raise ValueError(f"a tokenizer of {len(tokenizer)} tokens: StarCoder-2's has {STARCODER2_SIZE}")
    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    backend.add_special_tokens([SEP, CLS, MASK])
    return framed(backend, str(backend.id_to_token(0)), model_max_length)


def input_template(tokenizer: Tokenizer, sep: str = SEP, cls: str = CLS) -> processors.TemplateProcessing:
    """What writes `<sep> a <cls>` around one text and `<sep> a <sep> b <cls>` around two."""
    return processors.TemplateProcessing(
        single=f"{sep} $A {cls}",
        pair=f"{sep} $A {sep} $B {cls}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (sep, cls)],
    )


def framed(tokenizer: Tokenizer, pad_token: str, model_max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer that writes `<sep> … <cls>` around its input, where truncation cannot cut it off.

    Args:
        tokenizer: has the special tokens already; its post-processor is replaced.
        pad_token: what pads on the left.
        model_max_length: Longest input in tokens.
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
