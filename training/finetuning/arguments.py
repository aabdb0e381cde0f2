"""What can be set about a run of `finetune`."""

import math
from dataclasses import dataclass, field

from mose.training.arguments import RunArguments, json_object
from mose.training.finetuning.lora_arguments import LORA_BATCH_SIZE, LORA_DEFAULTS, LoRAArguments, multiplies_bf16
from mose.training.finetuning.objective import DISTILLATIONS

#: Pairs of a batch in the paper (section 3).
BATCH_SIZE = 2048
#: What holds where nothing is said, an adapter aside.
PAPER_DEFAULTS = {
    "learning_rate": 1e-5,
    "max_steps": 20_000,
    "num_train_epochs": 0.0,
    "warmup_steps": 0,
    "mini_batch_size": 32,  # ours: the paper has no mini-batches
}


@dataclass
class FineTuningArguments(LoRAArguments, RunArguments):
    """TrainingArguments and the parameters that control the losses at the exits; the defaults are the paper's
    (section 3): learning rate 1e-5, 20,000 steps of 2,048 pairs, no teacher."""

    output_dir: str | None = field(
        default=None,
        metadata={"help": "Folder for checkpoints and result; by default runs/finetune, with --lora runs/lora."},
    )
    # None until `__post_init__`, which knows whether there is an adapter; numbers from then on.
    learning_rate: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Peak learning rate; by default 1e-5."}
    )
    max_steps: int | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Optimizer steps; by default 20,000."}
    )
    num_train_epochs: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Passes over the pairs; where given, it overrides --max-steps."}
    )
    warmup_steps: float | None = field(  # type: ignore[assignment]
        default=None, metadata={"help": "Steps of warm-up, or below 1 their share of all; by default 0."}
    )
    bf16: bool | None = field(  # type: ignore[assignment]
        default=None,
        metadata={
            "help": "Compute in bfloat16; by default for an adapter, where the processor multiplies it in "
            "hardware. Say --bf16 false against that.",
            "nargs": "?",  # or a flag alone would not be enough
            "const": True,
        },
    )
    logging_steps: float = field(default=50, metadata={"help": "Steps between two lines of the log."})
    per_device_train_batch_size: int = field(
        default=0,
        metadata={
            "help": "Pairs in a batch of one process; 0: the paper's 2,048 over all processes, or all where "
            "there are fewer. Any size fits: see --mini-batch-size."
        },
    )
    per_device_eval_batch_size: int = field(
        default=0,
        metadata={
            "help": "Pairs in a batch of the validation; 0: as many as in training, so that the losses compare, "
            "or all where there are fewer."
        },
    )
    dataloader_drop_last: bool = field(
        default=True,
        metadata={
            "help": "Leave out an epoch's last batch where it is smaller than the others: its loss has fewer "
            "negatives, and with one pair it has none."
        },
    )
    mini_batch_size: int | None = field(
        default=None,
        metadata={
            "help": "Texts in one forward pass, by default 32; texts of like length go together, so less is "
            "padded. Memory grows with this, not with the batch, at the price of a second forward pass; a batch "
            "that fits into it needs none."
        },
    )
    learning_rate_multipliers: dict | str | None = field(
        default=None,
        metadata={
            "help": "JSON object from a part of a parameter's name to what multiplies its learning rate: "
            '\'{"gate": 10, "embed_tokens": 0.5}\'. The first that fits counts.'
        },
    )
    contrastive_weight: float = field(default=1.0, metadata={"help": "Weight of the CLIP loss."})
    distillation: str = field(
        default="none",
        metadata={
            "help": "How deeper exits teach each shallower one: none, kl (between their in-batch rankings) or "
            "cosine (between their embeddings). The teacher gets no gradient.",
            "choices": list(DISTILLATIONS),
        },
    )
    distillation_weight: float = field(default=1.0, metadata={"help": "Weight of that distillation."})
    distillation_temperature: float = field(
        default=0.05, metadata={"help": "Temperature of --distillation kl, in units of cosine."}
    )
    align_exits: bool = field(
        default=False,
        metadata={
            "help": "Put all exits into one space, so that queries embedded at any exit find documents embedded "
            "at any other: one index, made deep, for queries of every depth."
        },
    )
    align_weight: float = field(default=1.0, metadata={"help": "Weight of the CLIP loss across exits."})
    matryoshka_dims: list[int] = field(
        default_factory=list,
        metadata={
            "help": "Lengths at which embeddings are to serve when cut to their first dimensions, beside the "
            "full one: 128 64."
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "A sentence-transformers model whose similarities and vectors the exits learn from, beside "
            "the CLIP loss. The paper has none."
        },
    )
    teacher_cache: str | None = field(
        default=None,
        metadata={"help": "Folder for the teacher's embeddings; by default teacher/ in the output folder."},
    )
    teacher_max_length: int = field(
        default=128, metadata={"help": "Tokens after which the teacher's input is cut."}
    )
    teacher_kl_weight: float = field(
        default=1.0, metadata={"help": "Weight of the KL between the in-batch rankings of teacher and exit."}
    )
    teacher_cosine_weight: float = field(
        default=1.0, metadata={"help": "Weight of 1 - cosine between the teacher's vectors and the exit's."}
    )
    teacher_temperature: float = field(
        default=0.05, metadata={"help": "Temperature of that KL, in units of cosine."}
    )
    resume: bool = field(
        default=False, metadata={"help": "Go on from the last whole checkpoint in the output folder."}
    )

    def __post_init__(self):
        self.check_lora()
        self._fill_in_defaults()
        assert self.num_train_epochs is not None and self.max_steps is not None
        assert self.mini_batch_size is not None
        if self.num_train_epochs > 0:
            self.max_steps = -1
        elif self.max_steps < 1:
            raise ValueError(f"max_steps={self.max_steps}: must be at least 1, or give num_train_epochs")
        super().__post_init__()
        #: Whether batches may be made smaller, as nobody has said how large they are to be.
        self.batch_size_is_open = not self.per_device_train_batch_size
        self.eval_batch_size_is_open = not self.per_device_eval_batch_size
        if self.batch_size_is_open:
            pairs = LORA_BATCH_SIZE if self.lora else BATCH_SIZE
            self.per_device_train_batch_size = pairs // (self.world_size * max(1, self.n_gpu))
        if self.eval_batch_size_is_open:
            self.per_device_eval_batch_size = self.per_device_train_batch_size
        # The collator makes the model's inputs out of columns that `forward` does not know.
        self.remove_unused_columns = False
        self.multipliers: dict[str, float] = json_object(
            "learning_rate_multipliers", self.learning_rate_multipliers
        )
        for part, multiplier in self.multipliers.items():
            if not isinstance(multiplier, int | float) or not 0 <= multiplier < math.inf:
                raise ValueError(f"learning_rate_multipliers: {part}: {multiplier!r} must be a number from 0 on")
        if self.mini_batch_size < 1:
            raise ValueError(f"mini_batch_size={self.mini_batch_size}: must be at least 1")
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size"):
            if getattr(self, name) < 1 or getattr(self, name) * self.world_size * max(1, self.n_gpu) < 2:
                raise ValueError(f"{name}={getattr(self, name)}: a contrastive loss needs at least 2 pairs")
        for name in (
            *("contrastive_weight", "align_weight", "distillation_weight"),
            *("teacher_kl_weight", "teacher_cosine_weight"),
        ):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)}: a weight is a number from 0 on")
        for name in ("teacher_temperature", "distillation_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name}={getattr(self, name)}: must be positive")
        if self.distillation not in DISTILLATIONS:
            raise ValueError(f"distillation={self.distillation!r}: allowed are {', '.join(DISTILLATIONS)}")

    def _fill_in_defaults(self) -> None:
        defaults = PAPER_DEFAULTS | (LORA_DEFAULTS if self.lora else {})
        if self.max_steps is not None and self.num_train_epochs is None:
            defaults["num_train_epochs"] = 0.0  # an adapter's epochs must not override the steps asked for
        for name, value in defaults.items():
            if getattr(self, name) is None:
                setattr(self, name, value)
        if self.bf16 is None:
            self.bf16 = self.lora and not self.fp16 and multiplies_bf16()
        self.output_dir = self.output_dir or ("runs/lora" if self.lora else "runs/finetune")
