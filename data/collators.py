"""From rows to the tensors that training takes."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from mose.data.pairs import UNKNOWN_LANGUAGE
from mose.tokenization.prompts import LANGUAGES, code_prompt, text_prompt


@dataclass
class PairCollator:
    """Rows of `mose.data.pairs.load_pairs` to token ids, each side behind its instruction.

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
        keep: Names of number columns to stack and pass on.
        seed: Of the random choices.
    """

    tokenizer: PreTrainedTokenizerBase
    max_query_length: int = 128
    max_document_length: int = 256
    instruction_dropout: float = 0.0
    token_dropout: float = 0.0
    keep: Sequence[str] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("instruction_dropout", "token_dropout"):
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
            rows: Each with `query`, `query_language`, `document`, `document_language` and those to keep.

        Returns:
            `query_input_ids` and `query_attention_mask` (batch, query tokens), `document_input_ids` and
            `document_attention_mask` (batch, document tokens), int64, and the columns kept, (batch, …).

        Raises:
            ValueError: The batch is empty, or a row lacks a column.
        """
        if not rows:
            raise ValueError("empty batch: a batch has one row or more")
        needed = ("query", "query_language", "document", "document_language", *self.keep)
        if missing := [name for name in needed if any(name not in row for row in rows)]:
            raise ValueError(f"rows lack {', '.join(missing)}; they have {', '.join(rows[0])}")
        batch: dict[str, torch.Tensor] = {}
        for side, length in (("query", self.max_query_length), ("document", self.max_document_length)):
            generator = torch.Generator().manual_seed(self._seed_of(rows, side))
            texts = [str(row[side]) for row in rows]
            languages = [str(row[f"{side}_language"] or "") for row in rows]
            if side == "document":  # a document is code, whether its language is known or not
                languages = [language or UNKNOWN_LANGUAGE for language in languages]
            encoded = self._encode(texts, self._prompts(languages, generator), length, generator)
            batch |= {f"{side}_{name}": encoded[name] for name in ("input_ids", "attention_mask")}
        return batch | {name: torch.tensor([row[name] for row in rows]) for name in self.keep}

    def _seed_of(self, rows: Sequence[Mapping[str, object]], side: str) -> int:
        checksum = zlib.crc32(f"{self.seed} {side}".encode())
        for row in rows:
            checksum = zlib.crc32(f"{row['query']}\0{row['document']}\0".encode(), checksum)
        return checksum

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
        self, texts: list[str], prompts: list[str], max_length: int, generator: torch.Generator
    ) -> Mapping[str, torch.Tensor]:
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
