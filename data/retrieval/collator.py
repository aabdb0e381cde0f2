"""The collator of contrastive fine-tuning: pairs of texts to token ids."""

import hashlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from transformers import PreTrainedTokenizerBase

from mose.data.retrieval.augmentation import replace_frequent_words
from mose.tokenization.inputs import input_ids, input_parts
from mose.tokenization.prompts import LANGUAGES, UNKNOWN_LANGUAGE, code_prompt, text_prompt


class _BatchSide(NamedTuple):
    """The queries, documents or negatives of a batch."""

    name: str
    texts: list[str]
    languages: list[str]
    max_length: int


@dataclass
class PairCollator:
    """Convert rows of `mose.data.retrieval.pairs.load_pairs` to token ids, each side behind its instruction.

    Random choices depend only on `seed` and the rows of the batch. A resumed run repeats them, whatever the
    number of data loader workers and of batches they had read ahead.

    Attributes:
        tokenizer: a fast tokenizer that writes its own special tokens.
        max_query_length: most tokens of a query, including the instruction and special tokens.
        max_document_length: most tokens of a document, counted alike.
        instruction_dropout: share of the sides whose instruction is changed, in [0, 1]. Half of them get none,
            the others one without a language.
        token_dropout: probability to drop a token, in [0, 1]. Special tokens and instructions are never dropped,
            and at least one token of a text remains.
        word_replacement: probability to replace a frequent word of a snippet, in [0, 1]; see
            `mose.data.retrieval.augmentation.replace_frequent_words`.
        keep: names of numeric columns to stack and pass on.
        seed: seed of the random choices.

    Raises:
        ValueError: a probability or length is out of its range, or the tokenizer is not fast.
    """

    tokenizer: PreTrainedTokenizerBase
    max_query_length: int = 128
    max_document_length: int = 256
    instruction_dropout: float = 0.0
    token_dropout: float = 0.0
    word_replacement: float = 0.0
    keep: Sequence[str] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("instruction_dropout", "token_dropout", "word_replacement"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}. Pass a probability.")

        if not self.tokenizer.is_fast:
            raise ValueError(f"tokenizer must be a fast tokenizer, got {type(self.tokenizer).__name__}.")

        code_prompts = [code_prompt(), *map(code_prompt, LANGUAGES)]
        prompts = {"max_document_length": code_prompts, "max_query_length": [text_prompt(), *code_prompts]}

        for name, texts in prompts.items():
            longest = max(map(len, input_ids(self.tokenizer, [""] * len(texts), texts)))
            if getattr(self, name) <= longest:
                raise ValueError(
                    f"{name} must be above {longest}, the length of the longest instruction; "
                    f"got {getattr(self, name)}."
                )

    def __call__(self, rows: Sequence[Mapping[str, object]]) -> dict[str, torch.Tensor]:
        """Tokenize a batch.

        Args:
            rows: each with `query`, `query_language`, `document`, `document_language`, the columns in `keep`, and
                optionally `negative` ("" for none), in the document's language.

        Returns:
            `query_input_ids` and `query_attention_mask` (batch, query tokens); `document_input_ids` and
            `document_attention_mask` (batch, document tokens); `query_key` and `document_key` (batch,) int64,
            equal if the texts differ only in white space; and the columns in `keep`, (batch, …). With hard
            negatives also `negative_input_ids`, `negative_attention_mask` (negatives, tokens) and `negative_key`
            (negatives,).

        Raises:
            ValueError: the batch is empty, or a row lacks a column.
        """
        self._check_rows(rows)

        batch: dict[str, torch.Tensor] = {}
        for side in self._sides(rows):
            # One generator per side: the number of negatives does not influence the other sides.
            generator = torch.Generator().manual_seed(self._seed_of(rows, side.name))
            batch[f"{side.name}_key"] = torch.tensor([_text_key(text) for text in side.texts], dtype=torch.long)
            encoded = self._encode(side, generator)
            batch |= {f"{side.name}_{name}": encoded[name] for name in ("input_ids", "attention_mask")}
        return batch | {name: torch.tensor([row[name] for row in rows]) for name in self.keep}

    def _check_rows(self, rows: Sequence[Mapping[str, object]]) -> None:
        if not rows:
            raise ValueError("The batch is empty. Pass at least one row.")
        required = ("query", "query_language", "document", "document_language", *self.keep)
        if missing := [name for name in required if any(name not in row for row in rows)]:
            raise ValueError(f"rows must have {', '.join(missing)}; they have {', '.join(rows[0])}.")

    def _sides(self, rows: Sequence[Mapping[str, object]]) -> Iterator[_BatchSide]:
        queries = [str(row["query"]) for row in rows]
        yield _BatchSide(
            "query", queries, [str(row["query_language"] or "") for row in rows], self.max_query_length
        )

        sides = {"document": rows}
        if "negative" in rows[0]:
            sides["negative"] = [row for row in rows if str(row["negative"] or "").strip()]
        for name, side_rows in sides.items():
            # A document is code, even if its language is not known.
            languages = [str(row["document_language"] or "") or UNKNOWN_LANGUAGE for row in side_rows]
            yield _BatchSide(name, [str(row[name]) for row in side_rows], languages, self.max_document_length)

    def _seed_of(self, rows: Sequence[Mapping[str, object]], side: str) -> int:
        checksum = zlib.crc32(f"{self.seed} {side}".encode())
        for row in rows:
            checksum = zlib.crc32(f"{row['query']}\0{row['document']}\0".encode(), checksum)
        return checksum

    def _encode(self, side: _BatchSide, generator: torch.Generator) -> Mapping[str, torch.Tensor]:
        """Augment and tokenize a side: `input_ids` and `attention_mask`, (texts, tokens)."""
        if not side.texts:
            empty = torch.zeros(0, 1, dtype=torch.long)
            return {"input_ids": empty, "attention_mask": empty}

        texts = self._replace_words(side, generator)
        prompts = self._draw_prompts(side.languages, generator)
        parts = input_parts(self.tokenizer, texts, prompts, side.max_length)
        ids = [[*opening, *content, *closing] for opening, content, closing in parts]
        if self.token_dropout:
            for index, (opening, content, closing) in enumerate(parts):
                droppable = [False] * len(opening) + [True] * len(content) + [False] * len(closing)
                remaining = self._draw_remaining(torch.tensor(droppable), generator)
                ids[index] = torch.tensor(ids[index])[remaining].tolist()

        return self.tokenizer.pad({"input_ids": ids}, return_tensors="pt")

    def _replace_words(self, side: _BatchSide, generator: torch.Generator) -> list[str]:
        if not self.word_replacement:
            return side.texts

        code = [index for index, language in enumerate(side.languages) if language]
        replaced = replace_frequent_words(
            [side.texts[index] for index in code],
            [side.languages[index] for index in code],
            self.word_replacement,
            generator,
        )
        by_index = dict(zip(code, replaced, strict=True))
        return [by_index.get(index, text) for index, text in enumerate(side.texts)]

    def _draw_prompts(self, languages: list[str], generator: torch.Generator) -> list[str]:
        draws = torch.rand(len(languages), generator=generator).tolist()
        prompts = []
        for language, draw in zip(languages, draws, strict=True):
            if draw < self.instruction_dropout / 2:
                prompts.append("")
            elif not language:
                prompts.append(text_prompt())
            elif language == UNKNOWN_LANGUAGE or draw < self.instruction_dropout:
                prompts.append(code_prompt())
            else:
                prompts.append(code_prompt(language))

        return prompts

    def _draw_remaining(self, droppable: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return which tokens remain, (tokens,) bool: all that are not droppable, and at least one that is."""
        draws = torch.rand(len(droppable), generator=generator)
        dropped = droppable & (draws < self.token_dropout)
        if droppable.any() and torch.equal(dropped, droppable):
            # Keep the token with the highest draw: it is the last to go as dropout increases.
            dropped[draws.masked_fill(~droppable, -1.0).argmax()] = False
        return ~dropped


def _text_key(text: str) -> int:
    """Return a 63-bit hash of a text that ignores differences in white space."""
    digest = hashlib.blake2b(" ".join(text.split()).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
