"""What can be set about a classification run, as dataclasses that `HfArgumentParser` turns into flags."""

from dataclasses import dataclass, field

from mose.training.arguments import RunArguments, json_object

#: The paper's clone detection (section 4), and what holds where neither it nor a flag says otherwise.
BIGCLONEBENCH = {
    "learning_rate": 1e-5,
    "warmup_steps": 2000,
    "per_device_train_batch_size": 64,
    "max_steps": 14_000,
    "num_train_epochs": 0.0,
}
DEFAULTS = {
    "learning_rate": 1e-4,
    "warmup_steps": 0.05,
    "per_device_train_batch_size": 32,
    "max_steps": -1,
    "num_train_epochs": 3.0,
}


@dataclass
class ClassificationModelArguments:
    """Parameters that control where the model comes from."""

    model: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of the MoSE to start from; by default the shipped one."},
    )
    tokenizer: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the tokenizer; by default the model's own."}
    )
    exit_layer: int | None = field(
        default=None,
        metadata={
            "help": "Classify at this exit alone: nothing deeper is built, no other exit trained or saved. "
            "By default at every exit but 0, each loss weighed by its depth."
        },
    )


@dataclass
class ClassificationDataArguments:
    """Parameters that control the examples."""

    train_file: str = field(
        metadata={
            "help": "A .jsonl, .json, .parquet or .csv file, a folder or a Hub id with a column label and "
            "columns code_a and code_b, or text and code, or one of text and code; or train.txt of "
            "CodeXGLUE's BigCloneBench, beside its data.jsonl."
        }
    )
    validation_file: str | None = field(
        default=None,
        metadata={"help": "The same, to measure every exit on: after training and as --eval-strategy."},
    )
    train_split: str = field(
        default="train", metadata={"help": "What to read of a --train-file that has several splits."}
    )
    validation_split: str = field(
        default="validation", metadata={"help": "What to read of a --validation-file that has several splits."}
    )
    column_mapping: dict | str | None = field(
        default=None,
        metadata={
            "help": "JSON object from the columns' names in both files to those above: "
            '\'{"func1": "code_a", "func2": "code_b"}\'.'
        },
    )
    max_length: int = field(
        default=512,
        metadata={"help": "Tokens of an input, at most; of a pair that is longer, the longer side is cut first."},
    )
    positive_label: str | None = field(
        default=None,
        metadata={"help": "Of two classes the one that precision, recall and F1 are of; by default the second."},
    )

    def __post_init__(self):
        self.columns: dict[str, str] = json_object("column_mapping", self.column_mapping)


@dataclass
class ClassificationArguments(RunArguments):
    """TrainingArguments, with the paper's settings for BigCloneBench at hand."""

    output_dir: str | None = field(
        default=None, metadata={"help": "Folder for checkpoints and result; by default runs/classify."}
    )
    bigclonebench: bool = field(
        default=False,
        metadata={
            "help": "The paper's settings for clone detection: learning rate 1e-5, 2,000 steps of warm-up, "
            "batches of 64, 14,000 steps. Flags beside it override it."
        },
    )
    # None until `__post_init__`, which knows the preset; numbers from then on.
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Peak learning rate; by default 1e-4."}
    )
    max_steps: int | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Optimizer steps; where given, it overrides --num-train-epochs."}
    )
    num_train_epochs: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Passes over the examples; by default 3."}
    )
    per_device_train_batch_size: int | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Examples in a batch of one device; by default 32."}
    )
    per_device_eval_batch_size: int = field(
        default=64, metadata={"help": "Examples in a batch of the validation."}
    )
    warmup_steps: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Steps of warm-up, or below 1 their share of all; by default 0.05."}
    )
    logging_steps: float = field(default=50, metadata={"help": "Steps between two lines of the log."})
    resume: bool = field(
        default=False, metadata={"help": "Go on from the last whole checkpoint in the output folder."}
    )

    def __post_init__(self):
        defaults = dict(BIGCLONEBENCH if self.bigclonebench else DEFAULTS)
        if self.max_steps is not None or self.num_train_epochs is not None:  # the one asked for counts
            defaults |= {"max_steps": -1, "num_train_epochs": 0.0}
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        assert self.max_steps is not None and self.num_train_epochs is not None
        if self.max_steps < 1 and self.num_train_epochs <= 0:
            raise ValueError(
                f"max_steps={self.max_steps}, num_train_epochs={self.num_train_epochs}: one must be above 0"
            )
        self.output_dir = self.output_dir or "runs/classify"
        super().__post_init__()
        # The collator makes the model's inputs out of columns that `forward` does not know.
        self.remove_unused_columns = False
        self.label_names = ["labels"]
