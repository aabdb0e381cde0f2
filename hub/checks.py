"""Checks that `publish` runs on a folder before it writes or uploads anything.

A check takes the folder and the files that would be published. It raises FileNotFoundError if a file is missing
and ValueError for anything else. To add one, write a function with one reason and append it to `CHECKS`.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

from mose.hub.card import adapter_base, validate_card
from mose.hub.checkpoints import read_checkpoint, read_config
from mose.hub.contents import check_contents, check_finite, check_prompts, check_tokenizer
from mose.hub.files import WEIGHT_FILE, forbidden_pattern, refuse_link
from mose.hub.weights import read_safetensors

#: Path in the repository -> file.
Files = Mapping[str, Path]


def check_model_exists(folder: Path, files: Files) -> None:
    """Check that the folder holds a model or an adapter."""
    if not {"config.json", "adapter_config.json"} & files.keys():
        raise FileNotFoundError(f"{folder}: no config.json. Pass the folder of a saved model.")


def check_no_unsafe_file(folder: Path, files: Files) -> None:
    """Check that no pickle, training state, cache, hidden file or uncut weight file is published."""
    for name in files:
        if pattern := forbidden_pattern(name):
            raise ValueError(f"{name} is never published (it matches {pattern!r}). Remove it from --include.")
        if WEIGHT_FILE.fullmatch(name):
            raise ValueError(
                f"{name} is not published as it is: weights are always published, as shards cut at the exits. "
                "Remove it from --include."
            )


def check_files(folder: Path, files: Files) -> None:
    """Check that no file is empty, damaged or a pickle under another name."""
    check_contents(files)


def check_adapter(folder: Path, files: Files) -> None:
    """Check that an adapter's weights are stored as safetensors, and that others can load its base."""
    if "adapter_config.json" not in files:
        return
    if "adapter_model.safetensors" not in files:
        raise FileNotFoundError(
            f"{folder}: adapter_model.safetensors is missing beside adapter_config.json. Save the adapter as "
            "safetensors; pickles are not published."
        )
    adapter_base(folder)
    check_finite(folder, read_safetensors(files["adapter_model.safetensors"]))


def check_weights(folder: Path, files: Files) -> None:
    """Check that a model's weights are complete and finite, and have the shapes of its configuration."""
    if "adapter_config.json" in files:
        return
    for path in folder.iterdir():
        if WEIGHT_FILE.fullmatch(path.name):
            refuse_link(folder, path)
    check_finite(folder, read_checkpoint(folder, read_config(folder)))


def check_texts(folder: Path, files: Files) -> None:
    """Check that the tokenizer works and goes with the model, and that the prompts are complete."""
    check_prompts(folder, files)
    if "adapter_config.json" not in files:
        check_tokenizer(folder, read_config(folder))


def check_existing_card(folder: Path, files: Files) -> None:
    """Check the front matter of the folder's own card."""
    if "README.md" in files:
        validate_card(files["README.md"].read_text(encoding="utf-8"))


CHECKS: tuple[Callable[[Path, Files], None], ...] = (
    check_model_exists,
    check_no_unsafe_file,
    check_files,
    check_adapter,
    check_weights,
    check_texts,
    check_existing_card,
)


def check_folder(folder: Path, files: Files) -> None:
    """Run all checks on a folder that is about to be published.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: any other reason not to publish the folder.
    """
    for check in CHECKS:
        check(folder, files)
