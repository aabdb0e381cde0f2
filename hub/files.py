"""The files beside the weights: what makes a folder a repository that is whole, and which files may go out."""

import json
import re
import shutil
from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path

from mose.hub.weights import WEIGHT_FILE
from mose.tokenization.prompts import LANGUAGES, code_prompt, text_prompt

#: The project's root, which is a repository of this kind itself.
ROOT = Path(__file__).parent.parent
#: What runs where `mose` is not installed: the model, and the Hub's inference entry point.
CODE = ("configuration_mose.py", "modeling_mose.py", "handler.py")
#: What is published beside the weights, where it is there.
PUBLISHED = (
    "config.json",
    "generation_config.json",
    "adapter_config.json",
    "adapter_model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "README.md",
    "LICENSE",
    "CITATION.cff",
    "training_summary.json",
    *CODE,
    "onnx/*.onnx",
    "onnx/*.onnx_data",
    "onnx/*.json",
)
#: What is never published, whoever asks: pickles, states of a run, caches, secrets.
FORBIDDEN = (
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.pkl",
    "*.pickle",
    "*.joblib",
    "*.msgpack",
    "*.npy",
    "*.npz",
    "*.pyc",
    "optimizer*",
    "scheduler*",
    "rng_state*",
    "trainer_state.json",
    "checkpoint-*",
    ".*",
    "__pycache__",
)


def forbidden(path: str) -> str | None:
    """The pattern of `FORBIDDEN` that a path in a repository matches, in any of its parts; None for none."""
    return next((p for p in FORBIDDEN for part in path.split("/") if fnmatch(part, p)), None)


def publishable(folder: Path, include: Iterable[str] = ()) -> dict[str, Path]:
    """Path in the repository → file, of what lies in `folder` beside the weights.

    Args:
        folder: a model's folder.
        include: patterns of further files, relative to it.

    Raises:
        ValueError: a pattern finds nothing, leads out of the folder or finds what is never published.
    """
    found = {}
    for pattern in PUBLISHED:
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and forbidden(path.relative_to(folder).as_posix()) is None:
                found[path.relative_to(folder).as_posix()] = path
    for pattern in include:
        if ".." in re.split(r"[/\\]", pattern) or Path(pattern).is_absolute():
            raise ValueError(f"--include {pattern}: it leads out of {folder}")
        paths = [path for path in sorted(folder.glob(pattern)) if path.is_file()]
        if not paths:
            raise ValueError(f"--include {pattern}: {folder} holds no such file")
        for path in paths:
            name = path.relative_to(folder).as_posix()
            if WEIGHT_FILE.fullmatch(name):
                raise ValueError(
                    f"--include {pattern}: {name} is not published as it is; the weights go in shards cut at the "
                    "exits, without being named"
                )
            if reason := forbidden(name):
                raise ValueError(f"--include {pattern}: {name} is never published (it matches {reason!r})")
            found[name] = path
    return found


def complete(folder: Path, sentence_transformers: bool = True) -> None:
    """Adds what a model's folder lacks to be a repository: code, sentence-transformers files, licence.

    What is there stays as it is: code goes with the weights that it was saved with.
    """
    for name in (*CODE, "LICENSE"):
        if (ROOT / name).is_file() and not (folder / name).exists():
            shutil.copyfile(ROOT / name, folder / name)
    if sentence_transformers and not (folder / "modules.json").exists():
        write_sentence_transformers_files(folder)


def sentence_transformers_files() -> dict[str, dict | list]:
    """File names and their JSON: modules, the transformer's settings, prompts.

    The forward pass pools already; sentence-transformers takes `pooler_output`, hands `exit_layer` through from
    `encode`, and puts the paper's instructions before queries and documents.
    """
    prompts = {"query": text_prompt(), "document": code_prompt()}
    prompts |= {language: code_prompt(language) for language in LANGUAGES}
    return {
        "modules.json": [
            {
                "idx": 0,
                "name": "0",
                "path": "",
                "type": "sentence_transformers.models.Transformer",
                "kwargs": ["exit_layer"],
            },
            {"idx": 1, "name": "1", "path": "1_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
            "module_output_name": "sentence_embedding",
        },
        "config_sentence_transformers.json": {
            "model_type": "SentenceTransformer",
            "prompts": prompts,
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }


def write_sentence_transformers_files(folder: Path) -> None:
    """Writes those files into `folder`, beside the weights and the tokenizer that lie there."""
    for name, content in sentence_transformers_files().items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
