"""Embedding with an exported exit: onnxruntime, tokenizers and numpy, without torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mose.tokenization.backend import BackendTokenizer
from mose.tokenization.inputs import input_ids

#: Largest number of tokens in a batch, padding included.
TOKEN_BUDGET = 4_096


def model_file(folder: Path, exit_layer: int, int8: bool = False) -> Path:
    """Return the path of an exit that `mose hub export` wrote to `folder`."""
    return folder / "onnx" / f"model_exit{exit_layer}{'_int8' if int8 else ''}.onnx"


class OnnxEncoder:
    """An exported exit that embeds texts.

    Args:
        folder: written by `mose hub export`.
        exit_layer: one of the exported exits.
        int8: use the quantized version.
        threads: of onnxruntime; None means its default.

    Raises:
        FileNotFoundError: the folder holds no such export.

    Example:
        encoder = OnnxEncoder("exported", exit_layer=3)
        query = encoder.encode(["parse an ISO date"], prompt_name="query")  # (1, 384), float32, unit norm
    """

    def __init__(self, folder: str | Path, exit_layer: int, int8: bool = False, threads: int | None = None):
        # Of the extra [onnx].
        import onnxruntime

        folder = Path(folder)
        path = model_file(folder, exit_layer, int8)
        if not path.is_file():
            exports = ", ".join(sorted(file.name for file in path.parent.glob("*.onnx"))) or "no exports"
            raise FileNotFoundError(f"{path}: no such export. {path.parent} holds {exports}.")

        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self.session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

        settings = _read_json(folder / "tokenizer_config.json")
        config = _read_json(folder / "config.json")
        self.tokenizer = BackendTokenizer(folder / "tokenizer.json", settings)
        self.max_length = min(settings["model_max_length"], config["max_position_embeddings"])
        self.pad_token_id = config.get("pad_token_id") or 0
        prompts = folder / "config_sentence_transformers.json"
        self.prompts = _read_json(prompts)["prompts"] if prompts.is_file() else {}

    def encode(self, texts: Sequence[str], prompt_name: str | None = None) -> np.ndarray:
        """Return the embeddings of texts, (texts, dim), float32, equal to the model's.

        Args:
            texts: at least one.
            prompt_name: key of `prompts`, whose text is put before each of `texts`; None means no prompt.

        Raises:
            ValueError: no texts, or no such prompt.
        """
        if isinstance(texts, str) or not len(texts):
            raise ValueError("texts must be a list of at least one text")
        if prompt_name is not None and prompt_name not in self.prompts:
            allowed = ", ".join(self.prompts) or "none"
            raise ValueError(f"prompt_name must be one of {allowed}, got {prompt_name!r}")

        prompt = self.prompts[prompt_name] if prompt_name is not None else ""
        ids = input_ids(self.tokenizer, texts, prompt, self.max_length)
        remaining = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        embeddings: list[Any] = [None] * len(ids)

        # Longest first: a batch's first text sets its width.
        while remaining:
            width = len(ids[remaining[0]])
            size = max(1, TOKEN_BUDGET // width)
            batch, remaining = remaining[:size], remaining[size:]

            padded = np.full((len(batch), width), self.pad_token_id, dtype=np.int64)
            mask = np.zeros_like(padded)
            for row, i in enumerate(batch):
                padded[row, : len(ids[i])] = ids[i]
                mask[row, : len(ids[i])] = 1

            (vectors,) = self.session.run(None, {"input_ids": padded, "attention_mask": mask})
            for i, vector in zip(batch, vectors, strict=True):
                embeddings[i] = vector
        return np.stack(embeddings)


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
