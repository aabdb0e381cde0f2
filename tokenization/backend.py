"""A tokenizer of the library `tokenizers`, for encoders that run without transformers."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from mose.tokenization.pieces import PieceTable, splits_into_pieces


class BackendTokenizer:
    """A tokenizer without transformers, with as much as `mose.tokenization.inputs` calls.

    Args:
        path: a tokenizer.json.
        settings: the contents of the tokenizer_config.json beside it.
    """

    def __init__(self, path: Path, settings: dict[str, Any]):
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # tokenizers raises no narrower type
            raise ValueError(f"{path} is no tokenizer: {error}. Download it again.") from error

        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        # Special tokens that a text spells are text.
        self._tokenizer.encode_special_tokens = True

        separator = settings.get("sep_token")
        self.sep_token: str | None = separator.get("content") if isinstance(separator, dict) else separator
        self.sep_token_id = self._tokenizer.token_to_id(self.sep_token) if self.sep_token else None
        self.max_length: int | None = settings.get("model_max_length")
        rules = json.loads(path.read_text(encoding="utf-8"))
        self._pieces = PieceTable(self._encode) if splits_into_pieces(rules) else None
        self._from_left = settings.get("truncation_side") == "left"
        self.special_tokens = self._tokenizer.num_special_tokens_to_add(False)
        if not self.special_tokens:
            raise ValueError(f"{path} must write special tokens around a text. Pass a MoSE's tokenizer.")

    def rules(self) -> bytes:
        """Return the rules as JSON, see `backend_rules`."""
        return backend_rules(self._tokenizer)

    def __call__(
        self, texts: str | list[str], max_length: int | None = None, **options: Any
    ) -> dict[str, list[Any]]:
        """Return the ids of texts without special tokens, or of one text with them and their mask."""
        if isinstance(texts, str):
            encoding = self._tokenizer.encode(texts)
            return {"input_ids": encoding.ids, "special_tokens_mask": encoding.special_tokens_mask}

        ids = self._pieces.ids(texts) if self._pieces else self._encode(texts)
        if max_length is None:
            return {"input_ids": ids}

        cut = slice(-max_length, None) if self._from_left else slice(max_length)
        return {"input_ids": [one[cut] for one in ids]}

    def _encode(self, texts: list[str]) -> list[list[int]]:
        return [one.ids for one in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def backend_rules(backend: Tokenizer) -> bytes:
    """Return the JSON of a tokenizer, without the settings that do not change embeddings."""
    rules = json.loads(backend.to_str())
    # Every call of a tokenizer sets these two.
    del rules["truncation"], rules["padding"]
    return json.dumps(rules, sort_keys=True).encode()
