"""Checks of what files hold, before they are published, sliced or exported: every fault names its file.

Other checks, and their order, are in `mose.hub.checks`.
"""

import importlib.util
import json
import logging
import pickletools
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from mose.configuration_mose import MoSEConfig
from mose.hub.checkpoints import model_class
from mose.hub.files import PROMPTS_FILE
from mose.hub.shards import TensorSource

logger = logging.getLogger("mose.hub")

#: Encoded by every tokenizer, and embedded by source and result to compare them.
PROBE = "def add(first, second):\n    return first + second  # Σ, naïve, 中"
#: Largest difference between an embedding of a copy and the source's, in any dimension.
COPY_TOLERANCE = 1e-6
#: Between an ONNX file and the model; and the smallest cosine of an int8 file.
ONNX_TOLERANCE, INT8_COSINE = 1e-4, 0.9
#: Prompts of every embedding model.
REQUIRED_PROMPTS = ("query", "document")
#: Modules of sentence-transformers that have a configuration, and weights, of their own.
_CONFIGURED = re.compile(r"\.(Pooling|Dense)$")
#: Larger files are no pickles that anyone would slip in as text.
_LARGEST_PICKLE = 64_000_000


def check_contents(files: Mapping[str, Path]) -> None:
    """Check that no file is empty, damaged, or a pickle under another name.

    Raises:
        ValueError: names the file and the fault.
    """
    for name, path in files.items():
        if not path.stat().st_size:
            raise ValueError(f"{name} is empty. Restore it, or remove it.")
        if is_pickle(path):
            raise ValueError(f"{name} is a pickle, which can run any code. Remove it.")
        try:
            _parse(path)
        except (ValueError, SyntaxError, RecursionError) as error:
            raise ValueError(f"{name} is damaged: {error}. Restore it.") from error


def _parse(path: Path) -> None:
    """Read a text file to its end in its own format; raises ValueError or SyntaxError."""
    if path.suffix == ".json":
        if not isinstance(json.loads(path.read_text(encoding="utf-8")), dict | list):
            raise ValueError("it holds no JSON object")
    elif path.suffix == ".py":
        # Not ast.parse: in Python 3.11 it fails at times while another thread prints a traceback, which parses.
        compile(path.read_bytes(), path.name, "exec", dont_inherit=True)
    elif path.suffix in (".md", ".txt", ".cff", ".jinja", ""):
        path.read_text(encoding="utf-8")


def is_pickle(path: Path) -> bool:
    """Return whether a file is a pickle or an archive with one, whatever its name is."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return any(Path(name).suffix.lower() in (".pkl", ".pickle") for name in archive.namelist())
    if path.stat().st_size > _LARGEST_PICKLE:
        with path.open("rb") as file:
            return re.match(rb"\x80[\x01-\x05]", file.read(2)) is not None

    data = path.read_bytes()
    if not data.rstrip().endswith(b"."):
        return False
    try:
        # Every opcode up to STOP: prose never parses as that.
        return sum(1 for _ in pickletools.genops(data)) > 1
    except Exception:  # it raises many types
        return False


def check_prompts(folder: Path, files: Mapping[str, Path]) -> None:
    """Check the files of sentence-transformers, if a folder has any: all are there, with all prompts.

    Raises:
        FileNotFoundError: one of them is missing.
        ValueError: prompts are missing, or are no texts.
    """
    if "modules.json" in files:
        modules = json.loads(files["modules.json"].read_text(encoding="utf-8"))
        configured = [m for m in modules if _CONFIGURED.search(str(m.get("type")))]
        needed = [f"{module.get('path')}/config.json" for module in configured]
        for name in ("sentence_bert_config.json", PROMPTS_FILE, *needed):
            if name not in files:
                raise FileNotFoundError(f"{folder}: {name} is missing beside modules.json. Restore it.")

    if PROMPTS_FILE in files:
        settings = json.loads(files[PROMPTS_FILE].read_text(encoding="utf-8"))
        prompts = settings.get("prompts") if isinstance(settings, dict) else None
        if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
            raise ValueError(f"{PROMPTS_FILE}: prompts must be an object of texts, got {prompts!r}. Restore it.")
        if missing := [name for name in REQUIRED_PROMPTS if name not in prompts]:
            raise ValueError(f"{PROMPTS_FILE}: prompts must have {', '.join(missing)}. Restore it.")


def check_tokenizer(folder: Path, config: MoSEConfig) -> PreTrainedTokenizerFast:
    """Return a folder's tokenizer, after it has encoded a text and was compared with the configuration.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it does not load, has more tokens than the model, or other special tokens.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: tokenizer.json is missing. Save the tokenizer beside the model.")
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        ids = tokenizer(PROBE)["input_ids"]
    except Exception as error:  # the library raises bare exceptions
        raise ValueError(f"{path} does not load: {error}. Restore it.") from error

    if not set(ids) - set(tokenizer.all_special_ids):
        raise ValueError(f"{path} encodes a text as special tokens alone. Restore it.")
    if max(len(tokenizer), max(ids) + 1) > config.vocab_size:
        raise ValueError(f"{path} must have at most vocab_size={config.vocab_size} tokens, got {len(tokenizer)}.")
    for name in ("pad", "sep", "cls"):
        expected, actual = getattr(config, f"{name}_token_id"), getattr(tokenizer, f"{name}_token_id")
        if expected != actual:
            raise ValueError(f"{path}: {name}_token_id must be the configuration's {expected}, got {actual}.")
    return tokenizer


def check_finite(folder: Path, tensors: Mapping[str, TensorSource]) -> None:
    """Check that no weight is NaN or infinite; ValueError names the first that is."""
    for name, source in tensors.items():
        tensor = source.read()
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise ValueError(
                f"{folder}: the weight {name} has NaN or infinite values. Restore an older checkpoint."
            )


def probe_embeddings(folder: Path, config: MoSEConfig, tokenizer: Any, **options: Any) -> dict[int, torch.Tensor]:
    """Return the probe's embedding at every exit of a folder's model, (1, dim) each, in float32.

    `options` are further arguments of `from_pretrained`.
    """
    model: Any = model_class(config).from_pretrained(folder, dtype=torch.float32, **options)
    batch = tokenizer(PROBE, return_tensors="pt", truncation=True, max_length=config.max_position_embeddings)
    with torch.no_grad():
        inputs = (batch["input_ids"], batch["attention_mask"])
        output = model.eval().base_model(*inputs, output_all_exits=True)
    return dict(zip(model.base_model.exit_layers, output.exit_embeddings, strict=True))


def check_copy(source: Mapping[int, torch.Tensor], copy: Mapping[int, torch.Tensor], name: str) -> None:
    """Compare the probe's embeddings by a copy with the source's, at the exits of the copy.

    Raises:
        RuntimeError: they differ, or are not finite.
    """
    for exit_layer, embedding in copy.items():
        difference = (embedding - source[exit_layer]).abs().max().item()
        # Written so that NaN fails.
        if not difference <= COPY_TOLERANCE:
            raise RuntimeError(f"{name} differs from its source by {difference:.1e} at exit {exit_layer}.")


def check_onnx(files: Mapping[str, Path], tokenizer: Any, expected: Mapping[int, torch.Tensor]) -> None:
    """Compare the probe's embeddings by the ONNX files with `expected`, by exit.

    Raises:
        ValueError: a file does not load, is of no exit of the model, or returns something else.
    """
    exports = {name: path for name, path in files.items() if path.suffix == ".onnx"}
    if not exports:
        return
    if importlib.util.find_spec("onnxruntime") is None:
        logger.warning("%s are not checked: pip install 'mose[onnx]'", ", ".join(exports))
        return

    import onnxruntime  # of the extra [onnx]

    batch = tokenizer(PROBE, return_tensors="np")
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    for name, path in exports.items():
        match = re.fullmatch(r"model_exit(\d+)(_int8)?\.onnx", path.name)
        if match is None or int(match[1]) not in expected:
            raise ValueError(
                f"{name} must be of an exit of the model: {', '.join(map(str, expected))}. Remove it."
            )
        try:
            (vectors,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)
        except Exception as error:  # of no documented type
            raise ValueError(f"{name} does not run: {error}. Export it again.") from error

        wanted, actual = expected[int(match[1])], torch.from_numpy(vectors)
        is_near = (actual - wanted).abs().max() <= ONNX_TOLERANCE
        if match[2]:
            is_near = torch.nn.functional.cosine_similarity(actual, wanted).min() >= INT8_COSINE
        if not bool(is_near):
            raise ValueError(f"{name} returns other embeddings than the model. Export it again.")
