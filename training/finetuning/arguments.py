"""Arguments of `train_hf.py finetune` and `merge`."""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from mose.training import arguments as shared
from mose.training.arguments import REQUIRED, Values, check_fields, flag
from mose.training.finetuning.objective import DISTILLATIONS, TEACHER_LOSSES

#: Pairs in a batch over all processes: of the paper (section 3), and of an adapter.
BATCH_SIZE, LORA_BATCH_SIZE = 2048, 64
#: The paper's settings (section 3). `mini_batch_size` is ours: the paper has none.
PAPER_DEFAULTS = {
    "output_dir": "runs/finetune",
    "learning_rate": 1e-5,
    "max_steps": 20_000,
    "num_train_epochs": 0.0,
    "warmup_steps": 0,
    "mini_batch_size": 32,
    "bf16": False,
}
#: Settings of an adapter for a source tree; docs/lora.md has the measurements.
LORA_DEFAULTS = PAPER_DEFAULTS | {
    "output_dir": "runs/lora",
    "learning_rate": 1e-3,
    "num_train_epochs": 8.0,
    "warmup_steps": 0.05,
    "mini_batch_size": LORA_BATCH_SIZE,  # the whole batch, so that nothing is computed twice
}
EXIT_WEIGHTS = ("depth", "equal")
#: Share of a source tree's functions that an adapter run holds out.
LORA_HELD_OUT_SHARE = 0.1


def supports_bf16() -> bool:
    """Return whether the device multiplies bfloat16 in hardware; without that it is slower than float32."""
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)

    # Older versions of torch have no `get_capabilities`.
    capabilities: dict = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16"))


def resolve_finetuning(values: Values) -> Values:
    """Return final values for `FineTuningArguments`: what was not given is the paper's, or the adapter's.

    Raises:
        ValueError: neither steps nor epochs to train for.
    """
    defaults = PAPER_DEFAULTS
    if values.get("lora"):
        defaults = LORA_DEFAULTS | {"bf16": not values.get("fp16") and supports_bf16()}
    if values.get("max_steps") is not None:
        # Given steps win over default epochs.
        defaults = defaults | {"num_train_epochs": 0.0}

    resolved = shared.fill_unset(values, defaults)
    if resolved["num_train_epochs"] > 0:
        resolved["max_steps"] = -1
    elif resolved["max_steps"] < 1:
        raise ValueError(f"max_steps must be at least 1, got {resolved['max_steps']}. Or pass num_train_epochs.")
    return resolved


@dataclass
class ModelArguments(shared.PresetSource, shared.ModelSource):
    """Parameters that control where the model comes from and how it is initialised."""

    grow_to: int | None = flag(
        "Deepen the model to this exit first. New blocks start as the identity, new exits as copies of the last."
    )
    start_exits_alike: bool = flag(
        "Initialise every exit's projection from the deepest exit's. Use with --align-exits when projections are "
        "untrained; alignment then starts from a shared space.",
        False,
    )
    init_embeddings_from: str | None = flag(
        "Initialise token embeddings from this sentence-transformers model's embedding of each token string."
    )


@dataclass
class DataArguments(shared.CodeSources, shared.ValidationColumns):
    """Parameters that control the training pairs."""

    validation_dataset: list[str] = flag(
        "As --dataset: pairs to measure every exit's loss on.", [], action="extend"
    )
    held_out_share: float | None = flag(
        "Share of the source trees' functions to hold out. They are searched for among all functions before and "
        "after training; MRR at every exit is written to held_out.json. Default: 0, with --lora 0.1."
    )
    mine_classes: bool = flag(
        "Mine documented classes beside functions: their headers, fields and signatures of members.",
        False,
    )
    max_query_length: int = flag("Maximum tokens of a query, instruction and <cls> included.", 128)
    max_document_length: int = flag("Maximum tokens of a document, instruction and <cls> included.", 256)
    instruction_dropout: float = flag("Share of texts whose instruction is left out or names no language.", 0.0)
    token_dropout: float = flag("Share of each text's tokens to leave out.", 0.0)
    word_replacement: float = flag(
        "Probability of replacing each word that a snippet has twice or more by another, keywords excepted.", 0.3
    )

    def __post_init__(self):
        super().__post_init__()
        share = self.held_out_share
        if share is not None and not 0 <= share < 1:
            raise ValueError(f"held_out_share must be in [0, 1), got {share}.")
        if share and not self.source_tree:
            raise ValueError(f"held_out_share={share} holds out functions of source trees. Pass --source-tree.")


@dataclass
class LoRAArguments:
    """Parameters that control low-rank adapters."""

    lora: bool = flag(
        "Train low-rank adapters on embeddings and blocks, and the exits and the similarity scale in full; save "
        "them as a peft adapter. Changes defaults: learning rate 1e-3, 8 epochs, batch 64 in one pass, warm-up "
        "over 0.05 of the steps, 0.1 of the source trees' functions held out.",
        False,
    )
    lora_r: int = flag("Rank of the adapters.", 16)
    lora_alpha: int = flag("Scale of the update: alpha / rank.", 32)
    lora_dropout: float = flag("Dropout of the adapters' input.", 0.0)
    lora_merge: bool = flag("Also save the merged model, in merged/ in the output folder.", False)

    def check_lora(self) -> None:
        """Raise ValueError for a value that is not allowed."""
        check_fields(self, ("lora_r", "lora_alpha"), lambda value: value >= 1, "at least 1")
        check_fields(self, ("lora_dropout",), lambda value: 0 <= value < 1, "in [0, 1)")
        if self.lora_merge and not self.lora:
            raise ValueError("lora_merge needs an adapter to merge. Pass --lora.")


@shared.resolve_with(resolve_finetuning)
@dataclass
class FineTuningArguments(LoRAArguments, shared.RunArguments):
    """`TrainingArguments` and the losses at the exits. Defaults are the paper's (section 3) without `lora`."""

    LEAST_BATCH_SIZE: ClassVar[int] = 0

    bf16: bool = flag("Compute in bfloat16. Default: with --lora, if the device multiplies it in hardware.")
    per_device_train_batch_size: int = flag(
        "Pairs in a batch of one process; 0: the paper's 2,048 (--lora: 64) over all processes, or all pairs if "
        "there are fewer. Any size fits in memory, see --mini-batch-size.",
        0,
    )
    per_device_eval_batch_size: int = flag(
        "Pairs in a validation batch; 0: as many as in training, so that losses compare, or all if fewer.", 0
    )
    dataloader_drop_last: bool = flag(
        "Drop the last batch of an epoch if it is smaller: its loss has fewer negatives.", True
    )
    mini_batch_size: int = flag(
        "Texts in one forward pass; default 32. Memory grows with this and not with the batch, at the price of a "
        "second forward pass. A batch that fits needs only one."
    )
    graph_memory: int = flag(
        "Megabytes for mini-batches that need no second forward pass, as long as gradients are not synchronised "
        "between processes. 0 saves the memory.",
        2048,
    )
    learning_rate_multipliers: dict | str | None = flag(
        "JSON object from part of a parameter name to a learning rate multiplier: "
        '\'{"gate": 10, "embed_tokens": 0.5}\'. The first match counts.'
    )
    exit_weights: str = flag(
        "Weights of the exits in the loss: depth (the paper's, exit over blocks), or equal, which serves "
        "early exits better (docs/depth.md).",
        "depth",
        choices=list(EXIT_WEIGHTS),
    )
    contrastive_weight: float = flag("Weight of the CLIP loss.", 1.0)
    distillation: str = flag(
        "How deeper exits teach each shallower one: none, kl (between in-batch rankings) or cosine (between "
        "embeddings). The teacher gets no gradient.",
        "none",
        choices=list(DISTILLATIONS),
    )
    distillation_weight: float = flag("Weight of the self-distillation loss.", 1.0)
    distillation_temperature: float = flag("Temperature of --distillation kl, in units of cosine.", 0.05)
    align_exits: bool = flag(
        "Put all exits into one space: queries at any exit find documents at any other.", False
    )
    align_weight: float = flag("Weight of the CLIP loss across exits.", 1.0)
    matryoshka_dims: list[int] = flag("Truncated embedding sizes to train for, beside the full one: 128 64.", [])
    teacher: list[str] = flag(
        "Sentence-transformers models whose similarities and vectors the exits learn from, in addition to the "
        "CLIP loss; of several, their mean similarity. The paper has none.",
        [],
        action="extend",
    )
    teacher_cache: str | None = flag(
        "Folder for the teachers' embeddings. Default: teacher/ in the output folder."
    )
    teacher_max_length: int = flag("Maximum tokens of a teacher's input.", 128)
    teacher_kl_weight: float = flag("Weight of the KL between the in-batch rankings of teacher and exit.", 1.0)
    teacher_relational_weight: float = flag(
        "Weight of the KL between the rankings of all other texts of the batch, of both sides.", 0.0
    )
    teacher_cosine_weight: float = flag("Weight of 1 - cosine between the vectors of teacher and exit.", 1.0)
    teacher_temperature: float = flag("Temperature of the teacher's KL, in units of cosine.", 0.05)

    def __post_init__(self):
        super().__post_init__()
        self.multipliers: dict[str, float] = shared.json_object(
            "learning_rate_multipliers", self.learning_rate_multipliers
        )
        # The collator builds the model's inputs from columns that `forward` does not take.
        self.remove_unused_columns = False

        # Batch sizes that nobody chose may shrink to the number of pairs. `world_size` is only known now.
        self.batch_size_is_open = not self.per_device_train_batch_size
        self.eval_batch_size_is_open = not self.per_device_eval_batch_size
        pairs = (LORA_BATCH_SIZE if self.lora else BATCH_SIZE) // self.device_count
        self.per_device_train_batch_size = self.per_device_train_batch_size or pairs
        self.per_device_eval_batch_size = self.per_device_eval_batch_size or self.per_device_train_batch_size

        self.check_lora()
        self._check_losses()

    @property
    def device_count(self) -> int:
        """Devices that share a batch: those of all processes."""
        return self.world_size * max(1, self.n_gpu)

    def _check_losses(self) -> None:
        check_fields(
            self,
            ("per_device_train_batch_size", "per_device_eval_batch_size"),
            lambda size: size >= 1 and size * self.device_count >= 2,
            "at least 2 over all devices",
            "A contrastive loss needs at least 2 pairs.",
        )
        check_fields(self, ("mini_batch_size", "teacher_max_length"), lambda value: value >= 1, "at least 1")
        check_fields(self, ("graph_memory",), lambda value: value >= 0, "at least 0")

        temperatures = ("teacher_temperature", "distillation_temperature")
        weights = ("contrastive", "align", "distillation", *TEACHER_LOSSES)
        check_fields(self, [f"{loss}_weight" for loss in weights], _is_weight, "a finite number >= 0")
        check_fields(self, temperatures, lambda value: value > 0, "positive")
        check_fields(self, ("exit_weights",), EXIT_WEIGHTS.__contains__, f"one of {', '.join(EXIT_WEIGHTS)}")
        check_fields(self, ("distillation",), DISTILLATIONS.__contains__, f"one of {', '.join(DISTILLATIONS)}")

        for part, value in self.multipliers.items():
            if not _is_weight(value):
                message = f"learning_rate_multipliers: {part} must be a finite number >= 0, got {value!r}."
                raise ValueError(message)


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


@dataclass
class MergeArguments:
    """Parameters of `merge`."""

    adapter: str = flag("Folder of the adapter, as finetune --lora saves it.", REQUIRED)
    output_dir: str = flag("Folder for the merged model; must not exist yet, or be empty.", REQUIRED)
    model: str | None = flag("Folder or Hub id of the base. Default: the base that the adapter names.")
    exit_layer: int | None = flag("Merge up to this exit only. Default: the adapter's deepest.")
