"""Arguments that several training commands share: dataclass mixins that `HfArgumentParser` turns into flags.

Arguments of one command alone are in its own `arguments.py`.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import torch
from transformers import TrainingArguments

from mose.data.source.rules import MAX_FILE_SIZE_HELP, READING_FLAGS, VERBOSE_HELP, reading_rules
from mose.training.nonfinite import ACTIONS

#: Default of a field that the command line must set.
REQUIRED = dataclasses.MISSING

Values = dict[str, Any]
Arguments = TypeVar("Arguments", bound=type)


def flag(help: str, default: Any = None, **metadata: Any) -> Any:
    """Return a dataclass field that `HfArgumentParser` turns into a flag; a default list is copied.

    `metadata` are further keywords for `ArgumentParser.add_argument`.
    """
    metadata["help"] = help
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def resolve_with(resolve: Callable[[Values], Values]) -> Callable[[Arguments], Arguments]:
    """Return a class decorator that applies `resolve` to the arguments of a dataclass before it is built.

    Presets are resolved this way, so that `TrainingArguments` only ever sees final values. `resolve` maps given
    values to final ones. An entry that is missing or None was not given.
    """

    def decorate(cls: Arguments) -> Arguments:
        generated = cls.__init__  # type: ignore[misc]

        @functools.wraps(generated)
        def __init__(self, output_dir: str | None = None, **values: Any) -> None:
            generated(self, **resolve({"output_dir": output_dir, **values}))

        cls.__init__ = __init__  # type: ignore[misc]
        return cls

    return decorate


def fill_unset(values: Values, defaults: Mapping[str, Any]) -> Values:
    """Return `values`, with entries that are missing or None taken from `defaults`."""
    return values | {name: default for name, default in defaults.items() if values.get(name) is None}


def select_fields(arguments: Any, names: Iterable[str]) -> Values:
    """Return some fields of a dataclass by name."""
    return {name: getattr(arguments, name) for name in names}


def check_fields(
    arguments: Any, names: Iterable[str], is_valid: Callable[[Any], bool], requirement: str, remedy: str = ""
) -> None:
    """Raise ValueError for the first of the fields that is not valid: "NAME must be REQUIREMENT, got VALUE."."""
    for name in names:
        if not is_valid(value := getattr(arguments, name)):
            raise ValueError(f"{name} must be {requirement}, got {value!r}. {remedy}".rstrip())


def check_numbers(arguments: Any) -> None:
    """Raise ValueError for the first field of a dataclass that is infinite, not a number, or beyond 64 bits."""
    for field in dataclasses.fields(arguments):
        value = getattr(arguments, field.name)
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{field.name} must be a finite number, got {value!r}.")
        if isinstance(value, int) and abs(value) >= 2**63:
            raise ValueError(f"{field.name} must be below 2^63, got {value!r:.30}.")


def json_object(name: str, value: Mapping | str | None) -> dict:
    """Return the value of the flag `name` as a dict: parsed from JSON, or copied from a mapping.

    Raises:
        ValueError: it is neither a JSON object nor a mapping.
    """
    try:
        content = json.loads(value) if isinstance(value, str) else value or {}
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} must be JSON, got {value} ({error}). Quote it for the shell.") from error

    if not isinstance(content, Mapping):
        raise ValueError(f"{name} must be a JSON object, got {value}. Pass '{{\"key\": …}}'.")
    return dict(content)


@dataclass
class ModelSource:
    """Source of the model and its tokenizer."""

    model: str | None = flag("Folder or Hub id of the MoSE to start from. finetune and classify have a default.")
    tokenizer: str | None = flag("Folder or Hub id of the tokenizer. Default: the model's own.")
    exit_layer: int | None = flag("Build and train up to this exit only. Default: the deepest.")


@dataclass
class PresetSource:
    """An untrained model, in place of a trained one."""

    preset: str | None = flag(
        "Start untrained, with the sizes of mose-1b, mose-nano or mose-nano-256, instead of --model."
    )


@dataclass
class DatasetColumns:
    """Columns of the data sets; `columns` is the parsed `column_mapping`."""

    train_split: str = flag("Split to train on, if the data has several.", "train")
    column_mapping: dict | str | None = flag(
        'JSON object that renames columns: \'{"docstring": "text"}\'. finetune reads text and code, code_a and '
        "code_b, or all of text, code_a and code_b. pretrain reads text, repository, language, path and files. "
        "classify reads label with code_a and code_b, with text and code, or with one of text and code."
    )

    def __post_init__(self):
        self.columns: dict[str, str] = json_object("column_mapping", self.column_mapping)


@dataclass
class ValidationColumns(DatasetColumns):
    """Columns and splits of the data sets for training and validation."""

    validation_split: str = flag("Split to validate on, if the validation data has several.", "validation")


@dataclass
class CodeSources(DatasetColumns):
    """Source trees and data sets to train on; the attribute `rules` says which files of the trees to read."""

    source_tree: list[str] = flag(
        "Folders of source code; may be given several times. finetune mines documented functions. For pretrain, "
        "each is a repository, or a folder of packages that are one repository each.",
        [],
        action="extend",
    )
    dataset: list[str] = flag(
        "Hub ids, folders, .jsonl, .json or .parquet files; may be given several times. See --column-mapping.",
        [],
        action="extend",
    )

    include_vendored: bool = flag(READING_FLAGS["vendored"], False)
    include_generated: bool = flag(READING_FLAGS["generated"], False)
    include_minified: bool = flag(READING_FLAGS["minified"], False)
    max_file_size: str = flag(MAX_FILE_SIZE_HELP, "5MB")
    verbose: bool = flag(VERBOSE_HELP, False)

    def __post_init__(self):
        super().__post_init__()
        check_numbers(self)
        self.rules = reading_rules(self)
        if not self.source_tree and not self.dataset:
            raise ValueError("No data to train on. Pass --source-tree, --dataset or both.")


@dataclass
class RunArguments(TrainingArguments):
    """`TrainingArguments` of all commands. Subclasses fill in the fields that are None (`resolve_with`)."""

    #: 0 where it stands for a size that depends on the data.
    LEAST_BATCH_SIZE: ClassVar[int] = 1

    output_dir: str = flag(
        "Folder for checkpoints and the result. Default: runs/finetune, runs/lora, runs/classify."
    )
    learning_rate: float = flag(
        "Peak learning rate. Default: 1e-5 for finetune (--lora: 1e-3), 1e-4 for classify (--bigclonebench: "
        "1e-5), 6e-4 for pretrain (mose-nano: 1e-3)."
    )
    max_steps: int = flag(
        "Optimizer steps. Default: 20,000 for finetune, 245,000 for pretrain (mose-nano: 5,000). classify and "
        "finetune --lora count epochs instead."
    )
    num_train_epochs: float = flag(
        "Passes over the data. finetune prefers it to --max-steps, classify prefers --max-steps. Default: 3 for "
        "classify, 8 for finetune --lora."
    )
    warmup_steps: float = flag(
        "Warm-up steps; below 1, their share of all steps. Default: 0 for finetune (--lora: 0.05), 0.05 for "
        "classify (--bigclonebench: 2,000), 4,000 for pretrain (mose-nano: 0.05)."
    )
    per_device_train_batch_size: int = flag(
        "Examples in a batch of one device. Default: 32 for classify (--bigclonebench: 64), 4 for pretrain "
        "(mose-nano: 16)."
    )
    logging_steps: float = flag("Steps between two log lines.", 50)
    resume: bool = flag("Resume from the last complete checkpoint in the output folder.", False)
    overwrite_output_dir: bool = flag(
        "Begin anew in an output folder that has content: its checkpoints are deleted, other files replaced by "
        "name. A model that the run reads is never replaced.",
        False,
    )
    on_nonfinite: str = flag(
        "What to do when a loss or gradient is infinite or NaN: stop the run, or skip the step.",
        "stop",
        choices=list(ACTIONS),
    )
    max_skipped_steps: int = flag("Steps that --on-nonfinite skip may skip in all; one more stops the run.", 20)

    def __post_init__(self):
        self._check_numbers()
        # transformers refuses `bf16` on a CPU unless `use_cpu` is set.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()

    def _check_numbers(self) -> None:
        """Raise ValueError for numbers with which no step can be made."""
        check_fields(self, ("on_nonfinite",), ACTIONS.__contains__, f"one of {', '.join(ACTIONS)}")
        check_fields(self, ("gradient_accumulation_steps",), lambda value: value >= 1, "at least 1")
        sizes = ("per_device_train_batch_size", "per_device_eval_batch_size")
        least = self.LEAST_BATCH_SIZE
        check_fields(self, sizes, lambda value: value >= least, f"at least {least}")

        counts = ("max_skipped_steps", "dataloader_num_workers", "warmup_steps", "eval_delay")
        check_fields(self, counts, lambda value: value >= 0, "at least 0")
        rates = ("learning_rate", "weight_decay", "max_grad_norm")
        check_fields(self, rates, lambda value: 0 <= value < math.inf, "a finite number >= 0")
        check_fields(self, ("logging_steps", "save_steps"), lambda value: value > 0, "above 0")
        if self.resume and self.overwrite_output_dir:
            raise ValueError("resume continues a run and overwrite_output_dir begins anew. Pass one of them.")
        self._check_inherited()
        check_numbers(self)

    def _check_inherited(self) -> None:
        """Raise ValueError for fields of `TrainingArguments` that it would only stumble over while training."""
        check_fields(self, ("adam_beta1", "adam_beta2"), lambda value: 0 <= value < 1, "in [0, 1)")
        remedy = "The losses at the exits have no smoothing."
        check_fields(self, ("label_smoothing_factor",), lambda value: value == 0, "0", remedy)
        check_fields(self, ("adam_epsilon",), lambda value: value >= 0, "at least 0")
        check_fields(self, ("ddp_timeout",), lambda value: value >= 1, "at least 1")
        check_fields(
            self, ("seed", "data_seed"), lambda value: value is None or 0 <= value < 2**32, "in [0, 2^32)"
        )

        positive = ["eval_accumulation_steps", "torch_empty_cache_steps", "dataloader_prefetch_factor"]
        positive.append("ddp_bucket_cap_mb")
        check_fields(self, positive, lambda value: value is None or value >= 1, "at least 1")
        check_fields(self, ("eval_steps",), lambda value: value is None or value > 0, "above 0")
        check_fields(self, ("save_total_limit",), lambda value: value is None or value >= 0, "at least 0")
        noise = ("neftune_noise_alpha",)
        check_fields(self, noise, lambda value: value is None or 0 <= value <= 1e6, "in [0, 1e6]")
