"""Arguments of `train_hf.py classify`."""

from dataclasses import dataclass

from mose.training import arguments as shared
from mose.training.arguments import REQUIRED, Values, flag

DEFAULTS = {
    "output_dir": "runs/classify",
    "learning_rate": 1e-4,
    "warmup_steps": 0.05,
    "per_device_train_batch_size": 32,
    "max_steps": -1,
    "num_train_epochs": 3.0,
}
#: The paper's clone detection (section 4).
BIGCLONEBENCH = DEFAULTS | {
    "learning_rate": 1e-5,
    "warmup_steps": 2000,
    "per_device_train_batch_size": 64,
    "max_steps": 14_000,
    "num_train_epochs": 0.0,
}


def resolve_classification(values: Values) -> Values:
    """Return final values for `ClassificationArguments`: what was not given is the preset's or the default.

    Raises:
        ValueError: neither steps nor epochs to train for.
    """
    defaults = BIGCLONEBENCH if values.get("bigclonebench") else DEFAULTS
    if values.get("max_steps") is not None or values.get("num_train_epochs") is not None:
        # The one that was given counts, not the other's default.
        defaults = defaults | {"max_steps": -1, "num_train_epochs": 0.0}

    resolved = shared.fill_unset(values, defaults)
    steps, epochs = resolved["max_steps"], resolved["num_train_epochs"]
    if steps < 1 and epochs <= 0:
        raise ValueError(f"max_steps or num_train_epochs must be above 0, got {steps} and {epochs}.")
    return resolved


@dataclass
class ClassificationModelArguments(shared.ModelSource):
    """Parameters that control where the model comes from."""

    exit_layer: int | None = flag(
        "Classify at this exit only: nothing deeper is built, and no other exit is trained or saved. Default: "
        "every exit but 0, with losses weighted by depth."
    )


@dataclass(kw_only=True)
class ClassificationDataArguments(shared.ValidationColumns):
    """Parameters that control the examples."""

    train_file: str = flag(
        "A .jsonl, .json, .parquet or .csv file, a folder or a Hub id, see --column-mapping for its columns; or "
        "train.txt of CodeXGLUE's BigCloneBench, beside its data.jsonl.",
        REQUIRED,
    )
    validation_file: str | None = flag(
        "The same, to measure every exit on after training, and during it with --eval-strategy."
    )
    max_length: int | None = flag(
        "Maximum tokens of an input; of a pair that is longer, the longer side is cut first. Default: 512, or "
        "the model's context if that is shorter."
    )
    positive_label: str | None = flag(
        "With two classes, the one that precision, recall and F1 refer to. Default: the second."
    )


@shared.resolve_with(resolve_classification)
@dataclass
class ClassificationArguments(shared.RunArguments):
    """`TrainingArguments` with the paper's settings for BigCloneBench as a preset."""

    bigclonebench: bool = flag(
        "The paper's settings for clone detection: learning rate 1e-5, 2,000 steps of warm-up, batches of 64, "
        "14,000 steps. Other flags override it.",
        False,
    )
    per_device_eval_batch_size: int = flag("Examples in a validation batch of one device.", 64)

    def __post_init__(self):
        super().__post_init__()
        # The collator builds the model's inputs from columns that `forward` does not take.
        self.remove_unused_columns = False
        self.label_names = ["labels"]
