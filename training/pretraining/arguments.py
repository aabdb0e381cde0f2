"""Arguments of `train_hf.py pretrain`."""

import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import torch

from mose.configuration_mose import PRESETS
from mose.data.pretraining.contexts import OBJECTIVES
from mose.training import arguments as shared
from mose.training.arguments import Values, check_fields, fill_unset, flag

#: Settings of each preset. Optimizer, warm-up, steps and the steps of the drops are the paper's; the peak
#: learning rate and the size of a drop are choices of this project.
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
RECIPES["mose-nano-256"] = RECIPES["mose-nano"]
DEFAULT_RECIPE = "mose-1b"


def choose_recipe(values: Values) -> Values:
    """Return the command line's values with `recipe` set: as given, or the preset's, or mose-1b."""
    return values | {"recipe": values["recipe"] or values["preset"] or DEFAULT_RECIPE}


def resolve_pretraining(values: Values) -> Values:
    """Return final values for `PreTrainingArguments`: what was not given comes from the recipe.

    Raises:
        ValueError: there is no such recipe.
    """
    loggers = ["tensorboard"] + ["trackio"] * (importlib.util.find_spec("trackio") is not None)
    values = fill_unset(values, {"recipe": DEFAULT_RECIPE, "num_train_epochs": 3.0, "report_to": loggers})
    recipe = RECIPES.get(values["recipe"])
    if recipe is None:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}, got {values['recipe']!r}.")
    return fill_unset(values, {name: value for name, value in recipe.items() if name != "max_length"})


@dataclass
class PreTrainingModelArguments(shared.PresetSource, shared.ModelSource):
    """Parameters that control where model and tokenizer come from."""

    config_overrides: dict | str | None = flag(
        "JSON object of configuration fields that differ from the preset's: "
        '\'{"num_hidden_layers": 6, "exit_layers": [2, 4, 6]}\'.'
    )
    vocab_size: int | None = flag(
        "Tokens of a tokenizer that is trained on the corpus, as --preset mose-nano does without --tokenizer. "
        "Default: the preset's. StarCoder-2's tokenizer is extended by the special tokens that it lacks."
    )
    tokenizer_files: int = flag("Files of the corpus to train such a tokenizer on.", 20_000)

    def __post_init__(self):
        check_fields(self, ("tokenizer_files",), lambda value: 1 <= value < 2**63, "at least 1")
        sizes = ("vocab_size",)
        check_fields(self, sizes, lambda value: value is None or 1 <= value < 2**31, "in [1, 2^31)")
        self.overrides: dict[str, Any] = shared.json_object("config_overrides", self.config_overrides)
        if (self.model is None) == (self.preset is None):
            raise ValueError("You must specify exactly one of --model and --preset.")
        if self.preset is not None:
            check_fields(self, ("preset",), PRESETS.__contains__, f"one of {', '.join(PRESETS)}")
        if self.model is not None and self.overrides:
            raise ValueError("config_overrides needs --preset: a trained --model keeps its sizes.")


@dataclass
class PreTrainingDataArguments(shared.CodeSources):
    """Parameters that control the corpus and the examples."""

    near_duplicates: bool = flag("Leave out near-duplicate files (MinHash LSH, Jaccard 0.7).", False)
    files_per_repository: int | None = flag(
        "Maximum files of each repository of a --source-tree, drawn by a hash of their paths. Default: all."
    )
    held_out: float | None = flag(
        "Share of the repositories to evaluate on and never train on; 0: none. Default: 0.05, or none if the "
        "corpus has too few repositories."
    )
    eval_examples: int = flag("Examples of held-out repositories in an evaluation.", 256)
    shuffle_buffer: int = flag("Files in memory from which examples are built and shuffled.", 1024)
    lanes: int = flag(
        "Independent parts of the corpus. With a multiple of the number of processes, each reads only its own. "
        "Keep it when you resume with another number of processes.",
        1,
    )
    context_objective: str = flag(
        "icc (are all snippets from one repository?), nsp (does the second continue the first?) or none.", "icc"
    )
    same_language_intruders: float = flag(
        "Share of the contexts, in [0, 1], whose intruders are in the language of what they replace, if another "
        "repository has such files. 0: in any language.",
        0.0,
    )
    max_length: int | None = flag(
        "Tokens of a context, special tokens included. Default: 2048, with the recipes of mose-nano 512."
    )
    mlm_probability: float = flag("Share of the tokens to predict.", 0.15)

    def __post_init__(self):
        super().__post_init__()
        objectives = f"one of {', '.join(OBJECTIVES)}"
        check_fields(self, ("context_objective",), OBJECTIVES.__contains__, objectives)
        share = "same_language_intruders"
        check_fields(self, (share,), lambda value: 0 <= value <= 1, "in [0, 1]", "Pass a share of the contexts.")
        if self.context_objective == "none":
            check_fields(self, (share,), lambda value: value == 0, "0 with --context-objective none")
        check_fields(
            self, ("eval_examples",), lambda value: value >= 1, "at least 1", "Pass --held-out 0 for none."
        )
        check_fields(self, ("shuffle_buffer", "lanes"), lambda value: value >= 1, "at least 1")
        sizes = ("files_per_repository", "max_length")
        check_fields(self, sizes, lambda value: value is None or value >= 1, "at least 1")
        check_fields(self, ("mlm_probability",), lambda value: 0 < value <= 1, "in (0, 1]")


@shared.resolve_with(resolve_pretraining)
@dataclass
class PreTrainingArguments(shared.RunArguments):
    """`TrainingArguments` with the paper's optimizer (AdamW 0.9, 0.95, eps 1e-6, weight decay 0.1) and schedule.

    Settings that depend on the size of the model come from `RECIPES`.
    """

    lr_drop_steps: list[int] | None = flag(
        "Steps at which the learning rate is multiplied by --lr-drop-factor. Default: 120000 185000 220000 "
        "230000 240000, with the recipes of mose-nano none: then --lr-scheduler-type decays it."
    )
    lr_drop_factor: float = flag("Factor of the learning rate at a drop.", 10**-0.5)
    lr_scheduler_type: str = flag("As in TrainingArguments, if there are no drops. Default: cosine.")  # type: ignore[assignment]
    adam_beta2: float = flag("AdamW's second decay rate.", 0.95)
    adam_epsilon: float = flag("AdamW's epsilon.", 1e-6)
    weight_decay: float = flag("AdamW's weight decay.", 0.1)
    report_to: None | str | list[str] = flag("Loggers. Default: tensorboard, and trackio if it is installed.")
    dataloader_num_workers: int = flag(
        "Processes that read ahead, best 0 or 1. With them, a resumed run reads the corpus again up to there.",
        0,
    )
    recipe: str | None = flag(
        "Preset whose settings apply to what is not given. Default: the --preset; mose-1b for a --model."
    )

    def __post_init__(self):
        self._check_schedule()
        super().__post_init__()
        # The stream finds its own place again, and the collator builds the model's inputs.
        self.ignore_data_skip = True
        self.remove_unused_columns = False

    def _check_schedule(self) -> None:
        check_fields(self, ("max_steps",), lambda value: value >= 1, "at least 1", "A stream has no epochs.")
        check_fields(
            self,
            ("lr_drop_steps",),
            lambda steps: steps == sorted(set(steps)) and all(step >= 1 for step in steps),
            "positive and increasing",
        )
        check_fields(self, ("lr_drop_factor",), lambda value: 0 < value <= 1, "in (0, 1]")
        check_fields(self, ("warmup_steps",), lambda value: 0 <= value < math.inf, "at least 0")

    def multi_step(self, step: int) -> float:
        """Return the factor of the peak learning rate at a step: linear warm-up, then the drops so far."""
        warmup = self.get_warmup_steps(self.max_steps)
        if step < warmup:
            return step / max(1, warmup)
        return self.lr_drop_factor ** sum(step >= drop for drop in self.lr_drop_steps or ())

    def device_name(self) -> str:
        """Return the name of the device, "cpu" for a CPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type
