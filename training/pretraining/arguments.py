"""What can be set about a pre-training run, as dataclasses that `HfArgumentParser` turns into flags."""

import importlib.util
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import SchedulerType

from mose.configuration_mose import PRESETS
from mose.data.pretraining.contexts import OBJECTIVES
from mose.training.arguments import RunArguments, json_object

#: What a preset's run takes where nothing else is said. The paper gives the optimizer, the warm-up, the steps and
#: the places of the drops; the peak rate and the size of a drop are choices of this project.
RECIPES: dict[str, dict[str, Any]] = {
    "mose-1b": {
        "learning_rate": 6e-4,
        "warmup_steps": 4000,
        "max_steps": 245_000,
        "max_length": 2048,
        "lr_drop_steps": [120_000, 185_000, 220_000, 230_000, 240_000],
        "lr_scheduler_type": "constant_with_warmup",
        "per_device_train_batch_size": 4,
    },
    "mose-nano": {
        "learning_rate": 1e-3,
        "warmup_steps": 0.05,
        "max_steps": 5000,
        "max_length": 512,
        "lr_drop_steps": [],
        "lr_scheduler_type": "cosine",
        "per_device_train_batch_size": 16,
    },
}


@dataclass
class PreTrainingModelArguments:
    """Parameters that control where model and tokenizer come from."""

    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the MoSE to start from. Or give --preset."}
    )
    preset: str | None = field(
        default=None, metadata={"help": "Start untrained, with the sizes of mose-1b or mose-nano."}
    )
    config_overrides: dict | str | None = field(
        default=None,
        metadata={
            "help": "JSON object of configuration fields that differ from the preset's: "
            '\'{"num_hidden_layers": 6, "exit_layers": [2, 4, 6]}\'.'
        },
    )
    tokenizer: str | None = field(
        default=None,
        metadata={
            "help": "Folder or Hub id of the tokenizer; StarCoder-2's gets the special tokens that it lacks. By "
            "default the --model's own, or for --preset mose-nano one trained on the corpus."
        },
    )
    vocab_size: int | None = field(
        default=None,
        metadata={"help": "Tokens of a tokenizer that is trained on the corpus; by default the preset's."},
    )
    tokenizer_files: int = field(
        default=20_000, metadata={"help": "Files of the corpus that such a tokenizer is trained on."}
    )
    exit_layer: int | None = field(
        default=None,
        metadata={"help": "Build and train up to this exit only; by default the deepest that there is."},
    )

    def __post_init__(self):
        self.overrides: dict[str, Any] = json_object("config_overrides", self.config_overrides)
        if (self.model is None) == (self.preset is None):
            raise ValueError("give either --model or --preset")
        if self.preset is not None and self.preset not in PRESETS:
            raise ValueError(f"preset={self.preset!r}: there are {', '.join(PRESETS)}")
        if self.model is not None and self.overrides:
            raise ValueError("config_overrides: only with --preset; a trained --model keeps its sizes")


@dataclass
class PreTrainingDataArguments:
    """Parameters that control the corpus and the examples."""

    source_tree: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Folders of source code, each a repository or a folder of packages, of which each is one; "
            "may be given several times.",
            "action": "extend",
        },
    )
    dataset: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Hub ids, folders, or .jsonl, .json and .parquet files in The Stack v2's shape: a text and "
            "its repository, or a repository and its files; streamed. May be given several times.",
            "action": "extend",
        },
    )
    train_split: str = field(
        default="train", metadata={"help": "What to read of a --dataset that has several splits."}
    )
    column_mapping: dict | str | None = field(
        default=None,
        metadata={
            "help": "JSON object from a dataset's column names to text, repository, language, path and files."
        },
    )
    near_duplicates: bool = field(
        default=False, metadata={"help": "Leave out near-duplicate files (MinHash LSH, Jaccard 0.7)."}
    )
    files_per_repository: int | None = field(
        default=None,
        metadata={
            "help": "Take at most so many files of each repository of a --source-tree, drawn by a hash of their "
            "paths; all by default."
        },
    )
    held_out: float = field(
        default=0.05, metadata={"help": "Share of the repositories to evaluate on, never trained on; 0: none."}
    )
    eval_examples: int = field(
        default=256, metadata={"help": "Examples of held-out repositories that an evaluation takes."}
    )
    shuffle_buffer: int = field(
        default=1024,
        metadata={"help": "Files held at a time, among which examples are put together and shuffled."},
    )
    lanes: int = field(
        default=1,
        metadata={
            "help": "Independent parts of the corpus; with a multiple of the number of processes, each reads its "
            "own alone. Belongs to the data order: keep it when going on with another number of processes."
        },
    )
    context_objective: str = field(
        default="icc",
        metadata={
            "help": "What is asked of the context: icc (all from one repository?), nsp (does the second snippet "
            "continue the first?) or none."
        },
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Tokens of a context, special tokens included; by default 2048 (mose-1b) or 512."},
    )
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens that is predicted."})

    def __post_init__(self):
        self.columns: dict[str, str] = json_object("column_mapping", self.column_mapping)
        if not self.source_tree and not self.dataset:
            raise ValueError("nothing to train on: give --source-tree, --dataset or both")
        if self.context_objective not in OBJECTIVES:
            raise ValueError(f"context_objective={self.context_objective!r}: there are {', '.join(OBJECTIVES)}")
        if self.eval_examples < 1:
            raise ValueError(f"eval_examples={self.eval_examples}: must be at least 1; --held-out 0 for none")


@dataclass
class PreTrainingArguments(RunArguments):
    """TrainingArguments with the paper's optimizer (AdamW 0.9, 0.95, eps 1e-6, weight decay 0.1) and schedule;
    what depends on the size of the model comes from `RECIPES` where it is not given."""

    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Peak learning rate; by default 6e-4 (mose-1b) or 1e-3."}
    )
    max_steps: int | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Optimizer steps; by default 245,000 (mose-1b) or 5,000."}
    )
    warmup_steps: float | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Steps, or if below 1 share of the steps, of warm-up; by default 4,000 (mose-1b) or 0.05."
        },
    )
    lr_drop_steps: list[int] | None = field(
        default=None,
        metadata={
            "help": "Steps at which the learning rate is multiplied by --lr-drop-factor; by default 120000 "
            "185000 220000 230000 240000 (mose-1b), or none: then --lr-scheduler-type says how it decays."
        },
    )
    lr_drop_factor: float = field(
        default=10**-0.5, metadata={"help": "What the learning rate is multiplied by at a drop."}
    )
    lr_scheduler_type: str | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "As in TrainingArguments, where there are no drops; by default cosine."}
    )
    per_device_train_batch_size: int | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Contexts in a process's batch; by default 4 (mose-1b) or 16."}
    )
    adam_beta2: float = field(default=0.95, metadata={"help": "AdamW's second decay rate."})
    adam_epsilon: float = field(default=1e-6, metadata={"help": "AdamW's epsilon."})
    weight_decay: float = field(default=0.1, metadata={"help": "AdamW's weight decay."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two lines of the log."})
    report_to: None | str | list[str] = field(
        default=None,
        metadata={"help": "Where the log goes; by default tensorboard, and trackio where it is installed."},
    )
    dataloader_num_workers: int = field(
        default=0,
        metadata={
            "help": "Processes that read ahead, 0 or 1 by preference. With none, a resumed run finds its place "
            "in the corpus at once; with workers it reads the corpus again up to there."
        },
    )
    recipe: str | None = field(
        default=None,
        metadata={
            "help": "Preset whose defaults apply to what is not given; by default the --preset, or mose-1b for a "
            "--model."
        },
    )
    resume: bool = field(
        default=False, metadata={"help": "Go on from the last whole checkpoint in the output folder."}
    )

    def __post_init__(self):
        if self.report_to is None:
            self.report_to = ["tensorboard"] + ["trackio"] * (importlib.util.find_spec("trackio") is not None)
        # What is not given yet waits for `fill`; the checks of TrainingArguments need a number meanwhile.
        self._open = [name for name in RECIPES["mose-1b"] if getattr(self, name, 0) is None]
        for name in self._open:
            setattr(self, name, RECIPES["mose-nano"][name])
        self._check()
        super().__post_init__()
        # The stream finds its own place again, and the collator makes the model's inputs.
        self.ignore_data_skip = True
        self.remove_unused_columns = False

    def fill(self, preset: str | None) -> dict[str, Any]:
        """Takes what was not given from the recipe of a preset; returns that recipe.

        Raises:
            ValueError: there is no such recipe.
        """
        name = self.recipe or preset or "mose-1b"
        if name not in RECIPES:
            raise ValueError(f"recipe={name!r}: there are {', '.join(RECIPES)}")
        for field_name in self._open:
            setattr(self, field_name, RECIPES[name][field_name])
        if "lr_scheduler_type" in self._open:
            self.lr_scheduler_type = SchedulerType(RECIPES[name]["lr_scheduler_type"])  # type: ignore[assignment]
        return RECIPES[name]

    def _check(self) -> None:
        # All are numbers by now.
        steps, warmup, drops = self.max_steps or 0, self.warmup_steps or 0.0, self.lr_drop_steps or []
        if steps < 1:
            raise ValueError(f"max_steps={steps}: must be at least 1; a stream has no epochs")
        if drops != sorted(set(drops)) or any(step < 1 for step in drops):
            raise ValueError(f"lr_drop_steps={drops}: must be positive and rise")
        if not 0 < self.lr_drop_factor <= 1:
            raise ValueError(f"lr_drop_factor={self.lr_drop_factor}: must be above 0 and at most 1")
        if not 0 <= warmup < math.inf:
            raise ValueError(f"warmup_steps={warmup}: must be from 0 on")

    def multi_step(self, step: int) -> float:
        """What the peak learning rate is multiplied by at a step: linear warm-up, then the drops so far."""
        warmup = self.get_warmup_steps(self.max_steps or 0)
        if step < warmup:
            return step / max(1, warmup)
        return self.lr_drop_factor ** sum(step >= drop for drop in self.lr_drop_steps or ())

    def device_name(self) -> str:
        """What the device calls itself, "cpu" for a CPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
