"""`python -m mose.hub export`: exits as ONNX, and as int8 for CPUs, with what is needed to run them.

Each file is one exit: token ids and mask in, embeddings out, any batch and length. What was written is run beside
the model before the command succeeds.
"""

import argparse
import contextlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mose.hub.commands import ArgumentError

logger = logging.getLogger("mose.hub")

#: What an export may differ from the model by.
TOLERANCE = 1e-5
#: Copied beside the exports, where the model has them.
COMPANIONS = ("config.json", "tokenizer.json", "tokenizer_config.json", "config_sentence_transformers.json")
#: A file of ONNX may hold 2 GB; larger weights lie beside it.
INLINE_BYTES = 1_800_000_000


@dataclass(frozen=True)
class Exported:
    """One exit, as it was written.

    Args:
        path: of the float32 model.
        difference: largest difference to the model in any dimension of the embeddings that were compared.
        int8_path: of the quantized model, where it was asked for.
        int8_cosine: smallest cosine between its embeddings and the model's.
    """

    exit_layer: int
    path: Path
    difference: float
    int8_path: Path | None = None
    int8_cosine: float | None = None


def export(
    model: Any, source: str | Path, output_dir: Path, exit_layers: Sequence[int], int8: bool = False
) -> list[Exported]:
    """Exports exits of a model, and checks what was written against it.

    Args:
        model: a `MoSEModel` in float32, on the CPU, built at least as deep as the deepest of `exit_layers`.
        source: the model's folder or Hub id, for tokenizer and prompts.
        output_dir: gets `onnx/model_exitK.onnx` and the companions; files of other exits stay.
        exit_layers: which.
        int8: also write `onnx/model_exitK_int8.onnx`, with weights as 8-bit integers and activations quantized
            as they come (onnxruntime's dynamic quantization).

    Raises:
        ValueError: an exit that the model has not.
        RuntimeError: an export differs from the model by more than `TOLERANCE`.
    """
    from mose.hub.onnx_encoder import model_file

    exits = [model.config.resolve_exit_layer(e) for e in exit_layers]
    output_dir.mkdir(parents=True, exist_ok=True)
    done = []
    with tempfile.TemporaryDirectory(dir=output_dir, prefix=".export-") as temporary:
        for e in exits:
            path = model_file(Path(temporary), e)
            path.parent.mkdir(exist_ok=True)
            _write(model, e, path)
            difference = _compare(model, e, path)[0]
            if difference > TOLERANCE:
                raise RuntimeError(f"exit {e}: the export differs from the model by {difference:.1e}")
            quantized, cosine = None, None
            if int8:
                quantized = model_file(Path(temporary), e, int8=True)
                _quantize(path, quantized, large=_size(model) // 4 > INLINE_BYTES)
                cosine = _compare(model, e, quantized)[1]
            done.append(
                Exported(
                    e,
                    model_file(output_dir, e),
                    difference,
                    model_file(output_dir, e, int8=True) if quantized else None,
                    cosine,
                )
            )
        for name, path in _companions(source).items():
            if path.resolve() != (output_dir / name).resolve():
                shutil.copyfile(path, output_dir / name)
        (output_dir / "onnx").mkdir(exist_ok=True)
        for path in sorted((Path(temporary) / "onnx").iterdir(), reverse=True):  # data before what names it
            path.replace(output_dir / "onnx" / path.name)
    return done


def _companions(source: str | Path) -> dict[str, Path]:
    from transformers.utils import cached_file

    found = {}
    for name in COMPANIONS:
        with contextlib.suppress(OSError):  # the model has none
            found[name] = Path(str(cached_file(str(source), name)))
    return found


def _size(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _write(model: Any, exit_layer: int, path: Path) -> None:
    import onnx_ir
    import torch
    from torch import nn

    class Exit(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(
                input_ids=input_ids, attention_mask=attention_mask, exit_layer=exit_layer
            ).pooler_output

    mask = torch.ones(3, 7, dtype=torch.long)
    mask[0, :3] = 0
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of torch about itself
        torch_logger = logging.getLogger("torch.onnx")
        level = torch_logger.level
        torch_logger.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                Exit().eval(),
                (mask * 5, mask),
                dynamo=True,
                opset_version=18,
                dynamic_shapes=(dims, dims),
                input_names=["input_ids", "attention_mask"],
                output_names=["sentence_embedding"],
                verbose=False,
            )
        finally:
            torch_logger.setLevel(level)
    assert program is not None  # only the older exporter gives None
    beside = f"{path.name}_data" if _size(model) > INLINE_BYTES else None
    onnx_ir.save(program.model, path, external_data=beside)


def _quantize(path: Path, quantized: Path, large: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends a pre-processing that fuses nothing here
    try:
        quantize_dynamic(
            path,
            quantized,
            weight_type=QuantType.QInt8,
            per_channel=True,
            use_external_data_format=large,
        )
    finally:
        root.setLevel(level)


def _compare(model: Any, exit_layer: int, path: Path) -> tuple[float, float]:
    """Largest difference and smallest cosine between a file's embeddings and the model's."""
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    difference, cosine = 0.0, 1.0
    longest = model.config.max_position_embeddings
    for batch, tokens in ((1, 1), (2, 3), (5, 17), (1, min(129, longest))):
        ids = torch.randint(0, model.config.vocab_size, (batch, tokens), generator=generator)
        for side in ("none", "left", "right"):
            mask = torch.ones_like(ids)
            if side != "none":
                mask[0, : tokens // 2] = 0
            mask = mask.flip(1) if side == "right" else mask
            with torch.no_grad():
                expected = model(ids, mask, exit_layer=exit_layer).pooler_output
            (found,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
            difference = max(difference, (torch.from_numpy(found) - expected).abs().max().item())
            similar = torch.nn.functional.cosine_similarity(torch.from_numpy(found), expected)
            cosine = min(cosine, similar.min().item())
    return difference, cosine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m mose.hub export`."""
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a MoSE")
    parser.add_argument(
        "--exit-layer",
        nargs="+",
        type=int,
        metavar="K",
        help="exits to export, in blocks run (default: all that the model has)",
    )
    parser.add_argument(
        "--output-dir",
        required=True,
        type=Path,
        metavar="OUT",
        help="gets onnx/model_exitK.onnx and the tokenizer",
    )
    parser.add_argument(
        "--int8",
        action="store_true",
        help="also write onnx/model_exitK_int8.onnx, a quarter as large, for CPUs",
    )


def run(options: argparse.Namespace) -> None:
    """Runs `python -m mose.hub export`."""
    try:
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise ArgumentError(
            "exporting needs onnxruntime and onnxscript: in a clone, pip install -c constraints.txt -e '.[onnx]'"
        ) from None
    import torch
    from transformers import AutoModel

    from mose.utils.locations import is_local_folder

    try:
        is_local_folder(options.model)
        model = AutoModel.from_pretrained(
            options.model,
            trust_remote_code=True,
            exit_layer=max(options.exit_layer) if options.exit_layer else None,
            dtype=torch.float32,
        ).eval()
        exits = options.exit_layer or model.exit_layers
        done = export(model, options.model, options.output_dir, exits, options.int8)
    except (ValueError, FileNotFoundError) as error:
        raise ArgumentError(str(error)) from error
    for one in done:
        line = f"{one.path}: {one.path.stat().st_size:,} bytes, within {one.difference:.0e} of the model"
        print(line)
        if one.int8_path:
            size = one.int8_path.stat().st_size
            print(f"{one.int8_path}: {size:,} bytes, cosine to the model at least {one.int8_cosine:.4f}")
