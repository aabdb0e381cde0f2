"""`python -m mose.hub import`: the paper's released checkpoints as MoSE repositories.

What is where in them is in `released.py`. Here: fetching, the tokenizer, and writing a folder that is whole or is
not there.
"""

import argparse
import json
import logging
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from mose.utils.command_line import ArgumentError
from mose.utils.files import check_new_folder
from mose.utils.locations import is_local_folder

logger = logging.getLogger("mose.hub")

#: What is fetched of a repository: no code, no pickle.
WANTED = ("*.json", "*.safetensors", "*.txt", "README.md", "LICENSE*")


def import_released(
    source: str,
    output_dir: Path,
    choices: Any,
    revision: str | None = None,
    tokenizer: str | None = None,
    progress: bool = False,
) -> Any:
    """Writes a MoSE repository from a released checkpoint, reading one tensor at a time.

    Args:
        source: a folder or a Hub id.
        output_dir: must not exist, or be empty; appears when all is written.
        choices: a `mose.hub.convert.plan_parts.Choices`.
        revision: branch, tag or commit on the Hub.
        tokenizer: folder or Hub id of the tokenizer; None: the source's own.
        progress: show a bar on stderr.

    Returns:
        The `mose.hub.convert.plan_parts.Plan` that was carried out.

    Raises:
        OpenQuestions, Unaccounted, ValueError: as in `mose.hub.convert.plan.plan`; or no tokenizer, or one
            without the special tokens.
        FileExistsError: something lies in `output_dir`, or it is the current folder.
        FileNotFoundError: no checkpoint, or none in safetensors.
        OSError: the Hub does not give it.
    """
    import torch
    from tqdm import tqdm

    from mose.hub.convert.plan import plan
    from mose.hub.shards import TensorSource, write_shards
    from mose.hub.weights import read_weights

    check_new_folder(output_dir)
    folder = fetched(source, revision)
    settings = _settings(folder / "config.json")
    if settings.get("model_type") == "mose":
        raise ValueError(f"{source}: is a MoSE of this project already")
    planned = plan(settings, read_weights(folder), choices)
    words = _tokenizer(fetched(tokenizer, None) if tokenizer else folder, planned.config)

    partial = output_dir.with_name(f".{output_dir.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with tqdm(total=len(planned.tensors), unit=" tensors", disable=not progress) as bar:

            def counted(read: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
                return lambda: (bar.update(), read())[1]

            sources = {n: TensorSource(t.shape, t.dtype, counted(t.read)) for n, t in planned.tensors.items()}
            write_shards(partial, sources, planned.config.built_exit_layers)
        planned.config.architectures = ["MoSEForPreTraining" if planned.pretraining else "MoSEModel"]
        planned.config.save_pretrained(partial)
        words.save_pretrained(partial)
        # A folder by its name alone: a card that is published tells no paths of this machine.
        name = folder.resolve().name if Path(source).is_dir() else source
        _write_other_files(partial, folder, name, planned)
        if output_dir.exists():
            output_dir.rmdir()
        partial.rename(output_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return planned


def fetched(source: str, revision: str | None) -> Path:
    """The folder itself, or the Hub's files of that id in the local cache, without code and pickles.

    Raises:
        FileNotFoundError: neither a folder nor a Hub id.
        OSError: the Hub does not give it.
    """
    from huggingface_hub import snapshot_download

    if is_local_folder(source):
        return Path(source)
    return Path(snapshot_download(source, revision=revision, allow_patterns=list(WANTED)))


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent}: holds no config.json")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path}: must be a JSON object, is {type(settings).__name__}")
    return settings


def _tokenizer(folder: Path, config: Any) -> Any:
    """The checkpoint's tokenizer, with `<sep> … <cls>` moved to the post-processor, and its ids in `config`."""
    from tokenizers import Tokenizer

    from mose.tokenization.build import framed
    from mose.tokenization.prompts import CLS, MASK, SEP

    if not (folder / "tokenizer.json").is_file():
        raise ValueError(f"{folder}: holds no tokenizer.json; name a tokenizer with --tokenizer")
    backend = Tokenizer.from_file(str(folder / "tokenizer.json"))
    if backend.token_to_id(SEP) is None:  # StarCoder-2's own: the paper adds these, in this order
        backend.add_special_tokens([SEP, CLS, MASK])
    for field, token in (("sep_token_id", SEP), ("cls_token_id", CLS), ("mask_token_id", MASK)):
        found = backend.token_to_id(token)
        if found is None or found >= config.vocab_size:
            raise ValueError(
                f"{folder / 'tokenizer.json'}: {token} has id {found}; the model has {config.vocab_size}"
            )
        setattr(config, field, found)
    if backend.get_vocab_size() > config.vocab_size:
        raise ValueError(f"{backend.get_vocab_size()} tokens for a model of {config.vocab_size}")
    backend.no_truncation()
    backend.no_padding()
    return framed(backend, str(backend.id_to_token(config.pad_token_id or 0)), config.max_position_embeddings)


def _write_other_files(partial: Path, folder: Path, source: str, planned: Any) -> None:
    from huggingface_hub import ModelCard

    from mose.hub.files import CODE, sentence_transformers_files
    from mose.tokenization.prompts import LANGUAGES, code_prompt
    from mose.utils.files import atomic_write_json as write_json
    from mose.utils.locations import package_folder

    for name in CODE:
        shutil.copyfile(package_folder() / name, partial / name)
    for name, content in sentence_transformers_files().items():
        if isinstance(content, dict) and "prompts" in content:  # the released model's languages are lower-case
            for language, display in LANGUAGES.items():
                content["prompts"][language] = code_prompt(language).replace(display, display.lower())
        if name == "modules.json" and planned.config.embedding_norm != "unit":
            content = content[:1]
        write_json(partial / name, content)
    card = folder / "README.md"
    told = ModelCard(card.read_text(encoding="utf-8")).data.to_dict() if card.is_file() else {}
    kept = {k: told[k] for k in ("license", "license_name", "license_link", "language", "datasets") if k in told}
    licences = [path for path in folder.glob("LICENSE*") if path.is_file()]
    for path in licences:
        shutil.copyfile(path, partial / path.name)
    if not (partial / "LICENSE").exists():
        (partial / "LICENSE").write_text(_licence(source, kept), encoding="utf-8")
    (partial / "README.md").write_text(_card(source, folder, kept, planned), encoding="utf-8")


def _licence(source: str, told: dict[str, Any]) -> str:
    name = told.get("license_name") or told.get("license")
    link = told.get("license_link")
    return (
        f"The weights were converted from {source}, "
        + (
            f"whose model card puts them under: {name}"
            if name
            else "whose model card names no licence; ask there"
        )
        + (f"\n{link}" if link else "")
        + "\n\nThe .py files are under the Apache License 2.0, https://www.apache.org/licenses/LICENSE-2.0\n"
    )


def _card(source: str, folder: Path, kept: dict[str, Any], planned: Any) -> str:
    from huggingface_hub import ModelCardData

    config = planned.config
    described: dict[str, Any] = kept if source == folder.resolve().name else kept | {"base_model": source}
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="feature-extraction",
        tags=["code", "code-search", "embeddings", "early-exit", "sentence-transformers"],
        **described,
    )
    chosen = {
        name: getattr(config, name)
        for name in ("pooling", "projection_sizes", "projection_act", "projection_input", "embedding_norm")
    }
    lines = [f"- `{name}`: {value}" for name, value in chosen.items()]
    lines += [f"- {note}" for note in planned.notes]
    exits = ", ".join(map(str, config.built_exit_layers))
    return f"""---
{data.to_yaml()}
---
# {source}, as a MoSE repository

The weights of `{source}`, under their own licence, renamed tensor by tensor; none was changed. Exits: {exits}.

```python
from transformers import AutoModel, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(REPO, trust_remote_code=True)
model = AutoModel.from_pretrained(REPO, trust_remote_code=True, exit_layer={config.built_exit_layers[0]})
batch = tokenizer(["Represent this python code snippet for retrieval:<sep>def f(): ..."], return_tensors="pt")
embedding = model(**batch).pooler_output
```
The tokenizer writes the outer `<sep> … <cls>` itself, so that truncation keeps `<cls>`: do not write them.

Settled by the checkpoint or by whoever imported it:
{chr(10).join(lines)}
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m mose.hub import`."""
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="folder or Hub id of a released checkpoint, such as modularStarEncoder/ModularStarEncoder-finetuned",
    )
    parser.add_argument("--output-dir", required=True, type=Path, metavar="OUT", help="folder to make")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub (default: main)")
    parser.add_argument(
        "--tokenizer", metavar="DIR_OR_ID", help="where the tokenizer is (default: beside the weights)"
    )
    choice = parser.add_argument_group(
        "choices", "What the checkpoint may leave open. What is needed and not given is asked for by name."
    )
    choice.add_argument("--pooling", metavar="WORD", help="mean of the tokens, or cls, the last token")
    choice.add_argument(
        "--embedding-norm",
        metavar="WORD",
        help="unit: norms are 1; at_most_one: shorter embeddings stay as they are, as in the forerunner",
    )
    choice.add_argument(
        "--projection-act",
        metavar="NAME",
        help="activation between the layers of a projection head (leaky_relu in the forerunner)",
    )
    choice.add_argument(
        "--projection-input",
        metavar="WORD",
        help="pooled: heads read the pooled vector; tokens: they read each token, and the results are pooled",
    )
    choice.add_argument(
        "--projection-layers", nargs="+", metavar="NAME", help="linear layers of a head, in the order they run"
    )
    choice.add_argument(
        "--head-exits", nargs="+", type=int, metavar="K", help="exits that the heads belong to, in their order"
    )
    choice.add_argument(
        "--exit-layers", nargs="+", type=int, metavar="K", help="all exits of the model that was trained"
    )
    choice.add_argument(
        "--last-norm",
        metavar="WORD",
        help="of a truncated checkpoint: apply the final norm that it holds to its deepest exit, or drop it",
    )
    choice.add_argument("--rope-theta", type=float, metavar="X", help="base of the rotary positions")
    choice.add_argument(
        "--similarity-scale",
        type=float,
        metavar="X",
        help="learned scale of the similarity, where the file has none (default: 10, where the paper starts it)",
    )
    choice.add_argument(
        "--new-heads",
        default="none",
        metavar="WORD",
        help="without projection heads in the file: none (default), or identity, to be fine-tuned",
    )
    choice.add_argument(
        "--leave-out",
        action="extend",
        nargs="+",
        default=[],
        metavar="REGEX",
        help="tensors that are not wanted, by their names in the file; all others must find a place",
    )


def run(options: argparse.Namespace) -> None:
    """Runs `python -m mose.hub import`."""
    import sys

    from mose.hub.convert.plan_parts import Choices

    choices = Choices(**{field.name: getattr(options, field.name) for field in fields(Choices)})
    try:
        done = import_released(
            options.source,
            options.output_dir,
            choices,
            options.revision,
            options.tokenizer,
            progress=sys.stderr.isatty(),
        )
    except (ValueError, FileNotFoundError, FileExistsError) as error:
        raise ArgumentError(str(error)) from error
    exits = ", ".join(map(str, done.config.built_exit_layers))
    print(f"{options.output_dir}: {len(done.tensors)} tensors, exits {exits}")
    for note in done.notes:
        print(f"note: {note}")
    for name, reason in sorted(done.left_out.items()):
        print(f"left out {name}: {reason}")
