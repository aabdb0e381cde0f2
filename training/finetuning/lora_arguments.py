"""What can be set about adapters, as dataclasses that `HfArgumentParser` turns into flags."""

from dataclasses import dataclass, field

import torch

#: What an adapter run on a source tree begins with where nothing else is said: docs/lora.md has the measurements.
LORA_BATCH_SIZE = 64
LORA_DEFAULTS = {
    "learning_rate": 1e-3,
    "num_train_epochs": 8.0,
    "warmup_steps": 0.05,
    "mini_batch_size": LORA_BATCH_SIZE,  # the batch fits: nothing is computed twice
}


def multiplies_bf16() -> bool:
    """Whether what training runs on has instructions for bfloat16, without which it is slower than float32."""
    if torch.accelerator.is_available():
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities: dict = getattr(torch.cpu, "get_capabilities", dict)()  # unknown to older versions of torch
    return any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "sve_bf16", "bf16"))


@dataclass
class LoRAArguments:
    """Parameters that control low-rank adapters."""

    lora: bool = field(
        default=False,
        metadata={
            "help": "Train low-rank adapters on embeddings and blocks, and the exits and the similarity scale in "
            "full; save them as a peft adapter. Changes defaults: learning rate 1e-3, 8 epochs, batch 64 "
            "in one pass, warm-up over a twentieth of the steps, and a tenth of the source trees' functions held "
            "out."
        },
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=32, metadata={"help": "The update is scaled by this over the rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of the adapters' input."})
    lora_merge: bool = field(
        default=False,
        metadata={
            "help": "Also save the model with the adapter merged into it, in merged/ in the output folder."
        },
    )

    def check_lora(self) -> None:
        """Raises ValueError for a value that is not allowed."""
        for name in ("lora_r", "lora_alpha"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if not 0 <= self.lora_dropout < 1:
            raise ValueError(f"lora_dropout={self.lora_dropout}: a probability below 1, from 0 on")
        if self.lora_merge and not self.lora:
            raise ValueError("--lora-merge: there is no adapter to merge without --lora")


@dataclass
class MergeArguments:
    """Parameters of `merge`."""

    adapter: str = field(metadata={"help": "Folder of the adapter, as finetune --lora saves it."})
    output_dir: str = field(metadata={"help": "Folder for the merged model; must not exist yet, or be empty."})
    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of the base; by default where the adapter says it is."}
    )
    exit_layer: int | None = field(
        default=None, metadata={"help": "Merge up to this exit only; by default the deepest of the adapter."}
    )
