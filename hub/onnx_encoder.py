"""Embedding with an exported exit: onnxruntime, tokenizers and numpy, without torch."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: Tokens of one batch, padding included.
TOKEN_BUDGET = 4_096


def model_file(folder: Path, exit_layer: int, int8: bool = False) -> Path:
    """Where `python -m mose.hub export` puts an exit."""
    return folder / "onnx" / f"model_exit{exit_layer}{'_int8' if int8 else ''}.onnx"


class OnnxEncoder:
    """What `python -m mose.hub export` wrote, ready to embed.

    Args:
        folder: the export.
        exit_layer: one of those that it holds.
        int8: the quantized version.
        threads: that onnxruntime computes with; None: its own choice.

    Raises:
        FileNotFoundError: the folder holds no such export.

    Example:
        encoder = OnnxEncoder("exported", exit_layer=3)
        query = encoder.encode(["parse an ISO date"], prompt_name="query")  # (1, 256), float32, unit norm
    """

    def __init__(self, folder: str | Path, exit_layer: int, int8: bool = False, threads: int | None = None):
        import onnxruntime
        from tokenizers import Tokenizer

        folder = Path(folder)
        path = model_file(folder, exit_layer, int8)
        if not path.is_file():
            found = ", ".join(sorted(p.name for p in path.parent.glob("*.onnx"))) or "no exports"
            raise FileNotFoundError(f"{path}: no such export; {path.parent} holds {found}")
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self.session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(min(settings["model_max_length"], config["max_position_embeddings"]))
        self.pad_token_id = config.get("pad_token_id") or 0
        prompts = folder / "config_sentence_transformers.json"
        self.prompts = json.loads(prompts.read_text(encoding="utf-8"))["prompts"] if prompts.is_file() else {}

    def encode(self, texts: Sequence[str], prompt_name: str | None = None) -> np.ndarray:
        """Embeddings of texts, (texts, dim), float32, as the model gives them.

        Args:
            texts: at least one.
            prompt_name: what stands before each of them, a name in `prompts`; None: nothing.

        Raises:
            ValueError: no texts, or no such prompt.
        """
        if isinstance(texts, str) or not len(texts):
            raise ValueError("texts must be a list of at least one text")
        if prompt_name is not None and prompt_name not in self.prompts:
            raise ValueError(f"prompt_name={prompt_name!r}: there are {', '.join(self.prompts) or 'none'}")
        prompt = self.prompts[prompt_name] if prompt_name is not None else ""
        ids = [found.ids for found in self.tokenizer.encode_batch([prompt + text for text in texts])]
        order = sorted(range(len(ids)), key=lambda at: -len(ids[at]))
        result: list[Any] = [None] * len(ids)
        while order:
            longest = len(ids[order[0]])
            size = max(1, TOKEN_BUDGET // longest)
            chosen, order = order[:size], order[size:]
            rows = np.full((len(chosen), longest), self.pad_token_id, dtype=np.int64)
            mask = np.zeros_like(rows)
            for row, at in enumerate(chosen):
                rows[row, : len(ids[at])] = ids[at]
                mask[row, : len(ids[at])] = 1
            (vectors,) = self.session.run(None, {"input_ids": rows, "attention_mask": mask})
            for at, vector in zip(chosen, vectors, strict=True):
                result[at] = vector
        return np.stack(result)
