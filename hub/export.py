"""`mose hub export`: exits as ONNX files, and as int8 for CPUs, beside the files needed to run them.

Each ONNX file is one exit: token ids and attention mask in, embeddings out, for any batch size and length. Every
file is compared with the model before the command succeeds.
"""

import argparse
import contextlib
import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mose.hub.files import refuse_link
from mose.hub.onnx_encoder import model_file
from mose.utils.command_line import ArgumentError
from mose.utils.locations import is_local_folder

#: Largest difference between an embedding of an export and the model's, in any dimension.
TOLERANCE = 1e-5
#: Files of the model that are copied beside the exports, if they exist.
COMPANIONS = ("config.json", "tokenizer.json", "tokenizer_config.json", "config_sentence_transformers.json")
#: An ONNX file can hold 2 GB; larger weights go into a second file.
INLINE_BYTES = 1_800_000_000


@dataclass(frozen=True)
class Exported:
    """An exported exit."""

    exit_layer: int
    path: Path  # of the float32 file
    difference: float  # largest one to the model's embeddings, in any dimension
    int8_path: Path | None = None  # of the quantized file, if there is one
    int8_cosine: float | None = None  # smallest one of its embeddings to the model's


def export(
    model: Any, source: str | Path, output_dir: Path, exit_layers: Sequence[int], int8: bool = False
) -> list[Exported]:
    """Export exits of a model, and compare the files with it.

    Args:
        model: a `MoSEModel` in float32 on the CPU, built as deep as the deepest of `exit_layers`.
        source: the model's folder or Hub id, for tokenizer and prompts.
        output_dir: receives `onnx/model_exitK.onnx` and the companions. Files of other exits stay.
        exit_layers: exits to export.
        int8: also write `onnx/model_exitK_int8.onnx`: 8-bit weights, activations quantized at run time
            (onnxruntime's dynamic quantization).

    Raises:
        ValueError: the model has no such exit, a weight is not finite, or a file beside it is damaged or a link.
        FileNotFoundError: there is no tokenizer.
        RuntimeError: an export differs from the model by more than `TOLERANCE`.
    """
    from mose.hub.contents import check_contents, check_prompts, check_tokenizer  # imports torch

    exit_layers = [model.config.resolve_exit_layer(exit_layer) for exit_layer in exit_layers]
    check_parameters(model, str(source))
    companions = _companions(source)
    check_contents(companions)
    check_prompts(Path(source), companions)
    if "tokenizer.json" not in companions:
        raise FileNotFoundError(f"{source}: tokenizer.json is missing. Save the tokenizer beside the model.")
    check_tokenizer(companions["tokenizer.json"].parent, model.config)
    is_new = not output_dir.exists()
    output_dir.mkdir(parents=True, exist_ok=True)
    try:
        # Nothing reaches `output_dir` before all exits were compared.
        with tempfile.TemporaryDirectory(dir=output_dir, prefix=".export-") as temporary:
            staging = Path(temporary)
            results = [_export_exit(model, exit_layer, staging, output_dir, int8) for exit_layer in exit_layers]
            _copy_companions(companions, staging, output_dir)

            # In this order, weights in a second file are there before the file that names them.
            (output_dir / "onnx").mkdir(exist_ok=True)
            for path in sorted((staging / "onnx").iterdir(), reverse=True):
                path.replace(output_dir / "onnx" / path.name)
    finally:
        if is_new:
            with contextlib.suppress(OSError):  # it has content: all went well
                output_dir.rmdir()
    return results


def _copy_companions(companions: Mapping[str, Path], staging: Path, output_dir: Path) -> None:
    """Copy files beside the exports: all or, on a full disk, none."""
    # MODEL and OUT may be the same folder.
    others = [name for name, path in companions.items() if path.resolve() != (output_dir / name).resolve()]
    for name in others:
        shutil.copyfile(companions[name], staging / name)
    for name in others:
        (staging / name).replace(output_dir / name)


def check_parameters(model: Any, name: str) -> None:
    """Raise ValueError if a parameter of the model that was loaded from `name` is not finite."""
    for parameter, values in model.named_parameters():
        if not bool(values.isfinite().all()):
            raise ValueError(f"{name}: the weight {parameter} has NaN or infinite values. Export another model.")


def _export_exit(model: Any, exit_layer: int, staging: Path, output_dir: Path, int8: bool) -> Exported:
    path = model_file(staging, exit_layer)
    path.parent.mkdir(exist_ok=True)
    _write_onnx(model, exit_layer, path)
    difference, _ = _compare(model, exit_layer, path)
    if not difference <= TOLERANCE:  # NaN is no agreement
        raise RuntimeError(f"exit {exit_layer}: the export differs from the model by {difference:.1e}")
    if not int8:
        return Exported(exit_layer, model_file(output_dir, exit_layer), difference)

    # Rounded weights differ by more than any tolerance: the cosine is reported instead.
    quantized = model_file(staging, exit_layer, int8=True)
    _quantize(path, quantized, external=_parameter_bytes(model) // 4 > INLINE_BYTES)
    _, cosine = _compare(model, exit_layer, quantized)
    int8_path = model_file(output_dir, exit_layer, int8=True)
    return Exported(exit_layer, model_file(output_dir, exit_layer), difference, int8_path, cosine)


def _companions(source: str | Path) -> dict[str, Path]:
    from transformers.utils import cached_file  # slow to import

    paths = {}
    for name in COMPANIONS:
        with contextlib.suppress(OSError):  # the model has no such file
            paths[name] = Path(str(cached_file(str(source), name)))
    for path in paths.values():
        refuse_link(path.parent, path)
    return paths


def _parameter_bytes(model: Any) -> int:
    return sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())


def _write_onnx(model: Any, exit_layer: int, path: Path) -> None:
    # Slow to import, or of the extra [onnx].
    import onnx_ir
    import torch
    from torch import nn

    class Exit(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask):
            return self.model(input_ids, attention_mask, exit_layer=exit_layer).pooler_output

    mask = torch.ones(3, 7, dtype=torch.long)
    mask[0, :3] = 0
    dims = {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens")}

    # The exporter warns about its own internals.
    with warnings.catch_warnings(), torch.no_grad(), _quiet_logger("torch.onnx"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Exit().eval(),
            (mask * 5, mask),
            dynamo=True,
            dynamic_shapes=(dims, dims),
            opset_version=18,
            input_names=["input_ids", "attention_mask"],
            output_names=["sentence_embedding"],
            verbose=False,
        )
    assert program is not None  # only the older exporter returns None
    external_data = f"{path.name}_data" if _parameter_bytes(model) > INLINE_BYTES else None
    onnx_ir.save(program.model, path, external_data=external_data)


def _quantize(path: Path, quantized: Path, external: bool) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic  # of the extra [onnx]

    # It recommends a pre-processing step that changes nothing here.
    with _quiet_logger(None):
        options = {"weight_type": QuantType.QInt8, "per_channel": True, "use_external_data_format": external}
        quantize_dynamic(path, quantized, **options)


@contextlib.contextmanager
def _quiet_logger(name: str | None) -> Iterator[None]:
    """Let a logger pass errors only; None means the root logger."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _compare(model: Any, exit_layer: int, path: Path) -> tuple[float, float]:
    """Return the largest difference and the smallest cosine between a file's embeddings and the model's."""
    # Slow to import, or of the extra [onnx].
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
            (output,) = session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})
            vectors = torch.from_numpy(output)
            # `max` of Python would drop NaN.
            difference = torch.tensor([difference, (vectors - expected).abs().max()]).max().item()
            cosine = min(cosine, torch.nn.functional.cosine_similarity(vectors, expected).min().item())
    return difference, cosine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mose hub export`."""
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a MoSE")
    exits = "exits to export, as the number of blocks run (default: all)"
    parser.add_argument("--exit-layer", nargs="+", type=int, metavar="K", help=exits)
    output = "receives onnx/model_exitK.onnx and the tokenizer"
    parser.add_argument("--output-dir", required=True, type=Path, metavar="OUT", help=output)
    int8 = "also write onnx/model_exitK_int8.onnx, a quarter of the size, for CPUs"
    parser.add_argument("--int8", action="store_true", help=int8)
    trust = "run the code stored beside the weights, in place of the installed one"
    parser.add_argument("--trust-remote-code", action="store_true", help=trust)


def run(options: argparse.Namespace) -> None:
    """Run `mose hub export`."""
    # Of the extra [onnx], whose absence is reported before the model is loaded; and slow to import.
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401
    import torch
    from transformers import AutoModel

    from mose.modeling_mose import MoSEModel

    try:
        is_local_folder(options.model)
        deepest = max(options.exit_layer) if options.exit_layer else None
        loading: dict[str, Any] = {"dtype": torch.float32, "exit_layer": deepest}
        if options.trust_remote_code:
            model = AutoModel.from_pretrained(options.model, trust_remote_code=True, **loading).eval()
        else:
            model = MoSEModel.from_pretrained(options.model, **loading).eval()
        exit_layers = options.exit_layer or model.exit_layers
        results = export(model, options.model, options.output_dir, exit_layers, options.int8)
    except (ValueError, FileNotFoundError) as error:
        raise ArgumentError(str(error)) from error

    for result in results:
        size = result.path.stat().st_size
        print(f"{result.path}: {size:,} bytes, within {result.difference:.0e} of the model")
        if result.int8_path:
            size = result.int8_path.stat().st_size
            print(f"{result.int8_path}: {size:,} bytes, cosine to the model at least {result.int8_cosine:.4f}")
