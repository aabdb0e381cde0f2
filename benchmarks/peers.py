"""Other models beside a MoSE in one run: MiniLM in torch and as ONNX int8, model2vec, and the tokenizer alone.

A peer whose library is not installed is left out, and named with the reason.
"""

import importlib.util
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from tokenizers import Tokenizer

from mose.benchmarks.encode import EncodeFunctions
from mose.eval.baselines import MINILM, BaselineError, SentenceTransformerBaseline
from mose.inference.encoding import length_sorted_batches

MODEL2VEC, ONNX_INT8 = "model2vec", f"{MINILM}, ONNX int8"
#: Texts and tokens of the batches of a peer in ONNX.
ONNX_BATCH_TOKENS = 2_048


def load_peers(
    model: Any, backend: Any, max_length: int, dtype: torch.dtype | None, device: str, folder: Path
) -> tuple[dict[str, EncodeFunctions], dict[str, str]]:
    """Return how to encode with each peer, and name -> reason for those that are left out.

    Args:
        model: the MoSE, whose token vectors the model2vec peer has.
        backend: its tokenizer, of the library `tokenizers`.
        max_length: tokens after which texts are truncated.
        dtype: compute type of peers in torch, by autocast.
        device: of peers in torch.
        folder: where the exported peer is written.
    """
    tokenizing = partial(backend.encode_batch_fast, add_special_tokens=False)
    rows: dict[str, EncodeFunctions] = {"tokenizer alone": EncodeFunctions(tokenizing, tokenizing)}
    left_out: dict[str, str] = {}

    if importlib.util.find_spec("model2vec"):
        rows[MODEL2VEC] = EncodeFunctions(*(static_model(model, backend, max_length),) * 2)
    else:
        left_out[MODEL2VEC] = "the package model2vec is not installed"

    try:
        minilm = SentenceTransformerBaseline(MINILM, max_length, dtype, device)
    except (BaselineError, ImportError) as error:
        reason = str(error).partition("\n")[0]
        return rows, left_out | {MINILM: reason, ONNX_INT8: reason}
    rows[MINILM] = EncodeFunctions(minilm.encode_documents, minilm.encode_queries)

    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if not importlib.util.find_spec(name)]
    if missing:
        left_out[ONNX_INT8] = f"{', '.join(missing)} not installed"
    else:
        rows[ONNX_INT8] = EncodeFunctions(*(_onnx_int8(minilm, max_length, folder),) * 2)
    return rows, left_out


def static_model(model: Any, backend: Any, max_length: int) -> Callable[..., Any]:
    """Return the encoding function of a model2vec model of the same tokens, vectors and tokenizer."""
    # An optional peer, which the project does not need.
    from model2vec import StaticModel

    # It changes its tokenizer, so it gets its own.
    vectors = model.embed_tokens.weight.detach().float().cpu().numpy()
    peer = StaticModel(vectors, Tokenizer.from_str(backend.to_str()))
    return partial(peer.encode, max_length=max_length, show_progress_bar=False, use_multiprocessing=False)


def _onnx_int8(
    baseline: SentenceTransformerBaseline, max_length: int, folder: Path
) -> Callable[[Sequence[str]], np.ndarray]:
    """Export a sentence-transformers model with mean pooling, quantize it, and return its encoding function."""
    # Of the extra [onnx].
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exact, quantized = folder / "peer.onnx", folder / "peer_int8.onnx"
    trunk: Any = cast(Any, baseline.model[0]).auto_model
    trunk.cpu().float().eval()
    _write_onnx(trunk, exact)
    quantize_dynamic(exact, quantized, weight_type=QuantType.QInt8, per_channel=True)
    trunk.to(baseline.device)

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(quantized), options, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_str(baseline.model.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_padding()
    tokenizer.enable_truncation(min(max_length, baseline.model.max_seq_length or max_length))

    def encode(texts: Sequence[str]) -> np.ndarray:
        encodings = tokenizer.encode_batch(list(texts))
        result = np.empty((len(texts), trunk.config.hidden_size), dtype=np.float32)

        for rows in length_sorted_batches([len(encoding) for encoding in encodings], ONNX_BATCH_TOKENS):
            width = len(encodings[rows[0]])
            ids, mask = np.zeros((2, len(rows), width), dtype=np.int64)
            for row, position in enumerate(rows):
                own = encodings[position].ids
                ids[row, : len(own)], mask[row, : len(own)] = own, 1
            (result[rows],) = session.run(None, {"input_ids": ids, "attention_mask": mask})
        return result

    return encode


def _write_onnx(trunk: torch.nn.Module, path: Path) -> None:
    class MeanPooled(torch.nn.Module):
        """The trunk, the mean of its states over real tokens, and unit norm."""

        def __init__(self):
            super().__init__()
            self.trunk = trunk

        def forward(self, input_ids, attention_mask):
            """Return (batch, hidden)."""
            states = self.trunk(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            weights = attention_mask[..., None].to(states.dtype)
            return torch.nn.functional.normalize((states * weights).sum(1) / weights.sum(1), dim=-1)

    # With padding, or the exporter would take the mask for a constant.
    mask = torch.ones(3, 7, dtype=torch.long)
    mask[0, 4:] = 0
    shapes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=512)},) * 2
    options: dict[str, Any] = {
        "dynamo": True,
        "dynamic_shapes": shapes,
        "opset_version": 18,
        "input_names": ["input_ids", "attention_mask"],
        "output_names": ["sentence_embedding"],
        "verbose": False,
    }
    # The exporter reports its steps.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(MeanPooled().eval(), (mask * 5, mask), path, **options)
