"""From rows to the tensors that training takes."""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from mose.data.retrieval.augmentation import replace_frequent_words
from mose.tokenization.prompts import LANGUAGES, UNKNOWN_LANGUAGE, code_prompt, text_prompt


@dataclass
class PairCollator:
    """Rows of `mose.data.retrieval.pairs.load_pairs` to token ids, each side behind its instruction.

    The random choices depend on `seed` and on the rows of the batch alone: a run that is resumed makes them
    again as they were, however many batches its loader had read ahead, and however many workers it has.

    Attributes:
        tokenizer: A fast tokenizer that writes its own special tokens.
        max_query_length: Most tokens of a query, instruction and special tokens included.
        max_document_length: The same of a document.
        instruction_dropout: In this part of the sides the instruction is changed: half of them get none, the
            others one that names no language.
        token_dropout: The part of the tokens that is left out, special tokens and instructions aside. One is
            always kept.
        word_replacement: With this probability each frequent word of a snippet is replaced, as
            `mose.data.retrieval.augmentation.replace_frequent_words` does it.
        keep: Names of number columns to stack and pass on.
        seed: Of the random choices.
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
                raise ValueError(f"{name}={getattr(self, name)}: a probability is between 0 and 1")
        if not self.tokenizer.is_fast:
            raise ValueError(f"{type(self.tokenizer).__name__} is not a fast tokenizer")
        prompts = {"max_document_length": [code_prompt(), *map(code_prompt, LANGUAGES)]}
        prompts["max_query_length"] = [text_prompt(), *prompts["max_document_length"]]
        for name, before in prompts.items():
            taken = max(map(len, self.tokenizer(before)["input_ids"]))
            if getattr(self, name) <= taken:
                raise ValueError(f"{name}={getattr(self, name)}: the instruction alone takes {taken}")

    def __call__(self, rows: Sequence[Mapping[str, object]]) -> dict[str, torch.Tensor]:
        """Tokenize a batch.

        Args:
            rows: Each with `query`, `query_language`, `document`, `document_language`, those to keep and, where
                there are hard negatives, `negative` ("" for none), in the document's language.

        Returns:
            `query_input_ids` and `query_attention_mask` (batch, query tokens), `document_input_ids` and
            `document_attention_mask` (batch, document tokens), `query_key` and `document_key` (batch,), int64,
            equal where texts are equal but for white space, and the columns kept, (batch, …). With hard
            negatives `negative_input_ids`, `negative_attention_mask` and `negative_key` of those that there are.

        Raises:
            ValueError: The batch is empty, or a row lacks a column.
        """
        if not rows:
            raise ValueError("empty batch: a batch has one row or more")
        needed = ("query", "query_language", "document", "document_language", *self.keep)
        if missing := [name for name in needed if any(name not in row for row in rows)]:
            raise ValueError(f"rows lack {', '.join(missing)}; they have {', '.join(rows[0])}")
        sides = [
            ("query", "query_language", rows, self.max_query_length),
            ("document", "document_language", rows, self.max_document_length),
        ]
        if "negative" in rows[0]:
            with_negative = [row for row in rows if str(row["negative"] or "").strip()]
            sides.append(("negative", "document_language", with_negative, self.max_document_length))
        batch: dict[str, torch.Tensor] = {}
        for side, language_column, of_side, length in sides:
            generator = torch.Generator().manual_seed(self._seed_of(rows, side))
            texts = [str(row[side]) for row in of_side]
            languages = [str(row[language_column] or "") for row in of_side]
            if side != "query":  # a document is code, whether its language is known or not
                languages = [language or UNKNOWN_LANGUAGE for language in languages]
            batch[f"{side}_key"] = torch.tensor([_key(text) for text in texts], dtype=torch.long)
            encoded = self._encode(self._augmented(texts, languages, generator), languages, length, generator)
            batch |= {f"{side}_{name}": encoded[name] for name in ("input_ids", "attention_mask")}
        return batch | {name: torch.tensor([row[name] for row in rows]) for name in self.keep}

    def _seed_of(self, rows: Sequence[Mapping[str, object]], side: str) -> int:
        checksum = zlib.crc32(f"{self.seed} {side}".encode())
        for row in rows:
            checksum = zlib.crc32(f"{row['query']}\0{row['document']}\0".encode(), checksum)
        return checksum

    def _augmented(self, texts: list[str], languages: list[str], generator: torch.Generator) -> list[str]:
        if not self.word_replacement:
            return texts
        code = [at for at, language in enumerate(languages) if language]
        changed = replace_frequent_words(
            [texts[at] for at in code], [languages[at] for at in code], self.word_replacement, generator
        )
        augmented = dict(zip(code, changed, strict=True))
        return [augmented.get(at, text) for at, text in enumerate(texts)]

    def _prompts(self, languages: list[str], generator: torch.Generator) -> list[str]:
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

    def _encode(
        self, texts: list[str], languages: list[str], max_length: int, generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
        if not texts:
            empty = torch.zeros(0, 1, dtype=torch.long)
            return {"input_ids": empty, "attention_mask": empty}
        prompts = self._prompts(languages, generator)
        encoded = self.tokenizer(
            [prompt + text for prompt, text in zip(prompts, texts, strict=True)],
            truncation=True,
            max_length=max_length,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
        )
        rows = encoded["input_ids"]
        if self.token_dropout:
            for index, (ids, offsets, special) in enumerate(
                zip(rows, encoded["offset_mapping"], encoded["special_tokens_mask"], strict=True)
            ):
                snippet = [
                    start >= len(prompts[index]) and not mark
                    for (start, _), mark in zip(offsets, special, strict=True)
                ]
                rows[index] = torch.tensor(ids)[self._kept(torch.tensor(snippet), generator)].tolist()
        return self.tokenizer.pad({"input_ids": rows}, return_tensors="pt")

    def _kept(self, snippet: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Which tokens stay, (tokens,) bool: all that are not the snippet's, and at least one that is."""
        draws = torch.rand(len(snippet), generator=generator)
        dropped = snippet & (draws < self.token_dropout)
        if snippet.any() and torch.equal(dropped, snippet):
            dropped[draws.masked_fill(~snippet, -1.0).argmax()] = False
        return ~dropped


def _key(text: str) -> int:
    """A number of 63 bits that stands for a text, whatever its white space."""
    digest = hashlib.blake2b(" ".join(text.split()).encode(errors="surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest) >> 1
