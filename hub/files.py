"""Files of a repository beside its weights: those that are published, and those that a saved model lacks."""

import json
import re
import shutil
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mose.tokenization.prompts import LANGUAGES, code_prompt, text_prompt
from mose.utils.files import atomic_write_json
from mose.utils.locations import package_folder

#: Code that runs without an installed `mose`: the model, and the Hub's inference entry point.
CODE = ("configuration_mose.py", "modeling_mose.py", "handler.py")
#: Files that are published beside the weights if they exist.
PUBLISHED = (
    *("config.json", "generation_config.json", "adapter_config.json", "adapter_model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "chat_template.jinja"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json"),
    *("README.md", "LICENSE", "CITATION.cff", "training_summary.json", *CODE),
    *("onnx/*.onnx", "onnx/*.onnx_data", "onnx/*.json"),
)
#: Files that are never published: pickles, training states, caches, hidden files.
FORBIDDEN = (
    *("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib", "*.msgpack", "*.npy", "*.npz"),
    *("optimizer*", "scheduler*", "rng_state*", "trainer_state.json", "checkpoint-*"),
    *("*.pyc", "__pycache__", ".*"),
)
#: Weight files and their indices in the root of a repository.
WEIGHT_FILE = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index(\.exit\d+)?\.json")
PROMPTS_FILE = "config_sentence_transformers.json"


#: Suffixes of compressed files, which are judged by the name without them.
COMPRESSED = re.compile(r"(\.(gz|bz2|xz|zst|lz4|zip|7z|tar|tgz))+$")


def forbidden_pattern(path: str) -> str | None:
    """Return the pattern of `FORBIDDEN` that any part of a path matches, whatever its case; None for none."""
    parts = [COMPRESSED.sub("", part.casefold().rstrip(". ")) for part in path.split("/")]
    return next((pattern for pattern in FORBIDDEN for part in parts if fnmatchcase(part, pattern)), None)


def refuse_link(folder: Path, path: Path) -> None:
    """Raise ValueError if a file of a folder is reached by a symbolic link, which could lead to any other file.

    The Hub's own cache is made of such links; those to its blobs are allowed.
    """
    blobs = folder.resolve().parent.parent / "blobs"
    for part in (path, *path.parents):
        if part == folder:
            return
        if part.is_symlink() and part.resolve().parent != blobs:
            raise ValueError(f"{part} is a symbolic link, which is never followed. Put the file itself there.")


def published_files(folder: Path, include: Iterable[str] = ()) -> dict[str, Path]:
    """Return the files of a folder that are published beside the weights: path in the repository -> file.

    `include` has patterns of further files, relative to the folder.

    Raises:
        ValueError: a pattern leads out of the folder or matches no file, or a file is a symbolic link.
    """
    files = {}
    # A glob such as onnx/*.json also matches hidden files.
    for pattern in PUBLISHED:
        for name, path in _matching_files(folder, pattern).items():
            if forbidden_pattern(name) is None:
                files[name] = path

    for pattern in include:
        if ".." in re.split(r"[/\\]", pattern) or Path(pattern).is_absolute():
            raise ValueError(f"--include {pattern} leads out of {folder}. Pass a pattern relative to it.")

        matching = _matching_files(folder, pattern)
        if not matching:
            raise ValueError(f"--include {pattern} matches no file in {folder}")
        files |= matching

    for path in files.values():
        refuse_link(folder, path)
    return files


def _matching_files(folder: Path, pattern: str) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.glob(pattern)) if path.is_file()}


def add_missing_files(folder: Path, sentence_transformers: bool = True) -> None:
    """Add code, licence and, on request, sentence-transformers files to a model's folder.

    Existing files stay as they are, because code belongs to the weights that it was saved with.
    """
    for name in (*CODE, "LICENSE"):
        source = package_folder() / name
        if source.is_file() and not (folder / name).exists():
            shutil.copyfile(source, folder / name)

    if sentence_transformers and not (folder / "modules.json").exists():
        write_sentence_transformers_files(folder)


def default_prompts() -> dict[str, str]:
    """Return the paper's instructions by prompt name: "query", "document", and each language."""
    by_language = {language: code_prompt(language) for language in LANGUAGES}
    return {"query": text_prompt(), "document": code_prompt()} | by_language


def stored_prompts(folder: Path) -> dict[str, str]:
    """Return the prompts of a model's folder, or the paper's if it has none."""
    path = folder / PROMPTS_FILE
    if not path.is_file():
        return default_prompts()
    return default_prompts() | json.loads(path.read_text(encoding="utf-8")).get("prompts", {})


def sentence_transformers_files(
    embedding_size: int, prompts: Mapping[str, str] | None = None, normalize: bool = True
) -> dict[str, dict[str, Any] | list[Any]]:
    """Return the files that sentence-transformers needs: path in the folder -> content as JSON.

    The model pools, and returns the embedding as the state of the last token. From there sentence-transformers'
    own pooling takes it, so that its token embeddings and its losses over layers work, too.

    Args:
        embedding_size: dimensions of an embedding.
        prompts: by name; None means `default_prompts()`.
        normalize: add a module that scales embeddings to unit norm.
    """
    classes = "sentence_transformers.models"
    modules: list[dict[str, Any]] = [
        # `encode` passes `exit_layer` on.
        {"idx": 0, "name": "0", "path": "", "type": f"{classes}.Transformer", "kwargs": ["exit_layer"]},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{classes}.Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{classes}.Normalize"},
    ]
    forward = {"method": "token_and_text_embeddings", "method_output_name": "token_embeddings"}

    return {
        "modules.json": modules if normalize else modules[:2],
        "sentence_bert_config.json": {
            "transformer_task": "feature-extraction",
            "modality_config": {"text": forward},
            "module_output_name": "token_embeddings",
        },
        "1_Pooling/config.json": {"embedding_dimension": embedding_size, "pooling_mode": "lasttoken"},
        PROMPTS_FILE: {
            "model_type": "SentenceTransformer",
            "prompts": dict(prompts or default_prompts()),
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }


def write_sentence_transformers_files(folder: Path, embedding_size: int | None = None, **options: Any) -> None:
    """Write `sentence_transformers_files` into a model's folder.

    Args:
        folder: of the model.
        embedding_size: dimensions of an embedding; None means those of the folder's configuration.
        options: other arguments of `sentence_transformers_files`.
    """
    if embedding_size is None:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        embedding_size = config.get("truncate_dim") or config["hidden_size"]

    for name, content in sentence_transformers_files(embedding_size, **options).items():
        (folder / name).parent.mkdir(exist_ok=True)
        atomic_write_json(folder / name, content, ensure_ascii=False)
