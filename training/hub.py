"""Publishing of training runs: complete repositories with a card, without pickles."""

import dataclasses
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainingArguments

from mose.hub.publish import publish
from mose.training.arguments import select_fields

#: Fields of `TrainingArguments` that a reader needs to repeat a run.
RECIPE_FIELDS = (
    *("learning_rate", "per_device_train_batch_size", "gradient_accumulation_steps", "lr_scheduler_type"),
    *("warmup_steps", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm"),
    *("bf16", "fp16", "seed"),
)


def run_summary(trainer: Trainer, task: str, datasets: Sequence[str]) -> dict[str, Any]:
    """Return the facts of a run that a card shows, without local paths: data, steps, arguments, last losses."""
    args, state, data = trainer.args, trainer.state, trainer.train_dataset
    inherited = {field.name for field in dataclasses.fields(TrainingArguments)}
    own = {field.name for field in dataclasses.fields(args)} - inherited

    losses: dict[str, float] = {}
    seconds = None
    for entry in state.log_history:
        losses |= {name: value for name, value in entry.items() if name.endswith("loss") or "_loss_" in name}
        seconds = entry.get("train_runtime", seconds)

    return {
        "task": task,
        "base_model": _base_name(trainer),
        "examples": len(data) if isinstance(data, Sized) else None,
        "steps": state.global_step,
        "epochs": None if state.epoch is None else round(state.epoch, 4),
        "seconds": seconds,
        "processes": args.world_size,
        "device": args.device.type,
        "arguments": _publishable_arguments(select_fields(args, (*RECIPE_FIELDS, *sorted(own)))),
        "losses": losses,
        "datasets": [name for name in datasets if not Path(name).exists()],
    }


def publish_run(args: TrainingArguments, folder: str, repo_id: str, **options: Any) -> Any:
    """Publish a run's folder in one commit; `options` that are None fall back to the arguments of the run."""
    return publish(
        folder,
        repo_id,
        private=args.hub_private_repo,
        revision=options.pop("revision", None) or args.hub_revision,
        token=options.pop("token", None) or args.hub_token,
        **options,
    )


def _base_name(trainer: Trainer) -> str | None:
    name = getattr(getattr(trainer.model, "config", None), "_name_or_path", None)
    return Path(name).name if name and Path(name).exists() else name or None


def _publishable_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments that are set and that JSON can hold, without paths."""

    def is_publishable(value: Any) -> bool:
        if isinstance(value, str):
            return value != "" and "/" not in value
        return isinstance(value, int | float | list | tuple) and value is not False

    values = {name: getattr(value, "value", value) for name, value in arguments.items()}
    return {name: value for name, value in values.items() if is_publishable(value)}
