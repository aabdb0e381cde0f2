"""What the `Trainer`s share when they save and push: complete repositories, without pickles."""

import dataclasses
import json
import logging
from collections.abc import Mapping, Sequence, Sized
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import HubStrategy

from mose.hub.card import SUMMARY, adapter_card, model_card
from mose.hub.files import write_sentence_transformers_files
from mose.hub.publish import PublishError, publish
from mose.training.checkpoints import WholeCheckpoints

logger = logging.getLogger("mose.train")
#: Of `TrainingArguments`, what a reader needs to repeat a run.
RECIPE = (
    "learning_rate",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lr_scheduler_type",
    "warmup_steps",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "bf16",
    "fp16",
    "seed",
)


class HubTrainer(WholeCheckpoints):
    """A `Trainer` whose pushes, `--push-to-hub` among them, are complete repositories (`mose.hub.publish`).

    Each push is one commit with shards cut at the exits, code, tokenizer, sentence-transformers files and a card
    made of the run. Optimizer states and other pickles stay where they are.

    Raises:
        ValueError: `args.hub_strategy` asks to push checkpoints with their optimizer states.
    """

    #: What the run trains for, in the card's words; the data sets that it read, of which a card names the Hub's.
    task = "training"
    datasets: Sequence[str] = ()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        strategy = HubStrategy(self.args.hub_strategy)
        if self.args.push_to_hub and strategy not in (HubStrategy.END, HubStrategy.EVERY_SAVE):
            raise ValueError(
                f"hub_strategy={strategy.value!r}: optimizer states are not published; allowed are "
                "'end', 'every_save'"
            )

    def summary(self) -> dict[str, Any]:
        """What a card says of the run, as `training_summary.json` keeps it: no paths of this machine."""
        names = [name for name in self.datasets if not Path(name).exists()]
        return training_summary(self, self.task) | {"datasets": names}

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            folder = Path(str(output_dir or self.args.output_dir))
            if type(self.accelerator.unwrap_model(self.model)).__name__ in ("MoSEModel", "LoRAModel"):
                write_sentence_transformers_files(folder)
            summary = json.dumps(self.summary(), indent=2, ensure_ascii=False)
            (folder / SUMMARY).write_text(summary + "\n", encoding="utf-8")

    def create_model_card(  # type: ignore[override]
        self, language: str | None = None, license: str | None = None, *args, **kwargs
    ) -> None:
        """Writes the run's card to `args.output_dir`; other arguments of `Trainer`'s are not needed here."""
        if not self.is_world_process_zero():
            return
        folder = Path(str(self.args.output_dir))
        adapter = (folder / "adapter_config.json").exists()
        options: dict[str, Any] = {"license": license} if license else {}
        if language and not adapter:
            options["language"] = language
        make = adapter_card if adapter else model_card
        card = make(folder, repo_id=self.hub_model_id, summary=self.summary(), **options)
        (folder / "README.md").write_text(card, encoding="utf-8")

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ):
        """Saves, writes the card and publishes; arguments as in `Trainer`.

        Returns:
            `mose.hub.publish.Published`, or its future where not `blocking`; None on other processes than the
            first.

        Raises:
            PublishError: the Hub refused or could not be reached; what was saved is in `args.output_dir`.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        self.create_model_card(**kwargs)
        options = {"commit_message": commit_message, "token": token, "revision": revision}
        if blocking:
            return self._publish(str(self.args.output_dir), **options)
        return HfApi().run_as_future(self._publish, str(self.args.output_dir), **options)

    def _publish(self, folder: str, token: str | None = None, revision: str | None = None, **options):
        return publish(
            folder,
            self.hub_model_id,
            private=self.args.hub_private_repo,
            revision=revision or self.args.hub_revision,
            token=token or self.args.hub_token,
            **options,
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        # At once, not behind the training's back: the folder may be gone when the next one is saved.
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        try:
            self._publish(
                checkpoint_folder, commit_message=f"Training in progress, step {self.state.global_step}"
            )
        except PublishError as error:  # the run is worth more than this push, and the next save pushes again
            logger.warning("step %d was not pushed: %s", self.state.global_step, error)


def training_summary(trainer: Trainer, task: str) -> dict[str, Any]:
    """The figures of a run: task, base, data, steps, the arguments of `RECIPE` and our own, last losses."""
    args, state = trainer.args, trainer.state
    data, ours = trainer.train_dataset, {field.name for field in dataclasses.fields(args)}
    ours -= {field.name for field in dataclasses.fields(TrainingArguments)}
    chosen = {name: getattr(args, name) for name in (*RECIPE, *sorted(ours))}
    losses: dict[str, float] = {}
    for entry in state.log_history:
        losses |= {name: value for name, value in entry.items() if name.endswith("loss") or "_loss_" in name}
    seconds = [entry["train_runtime"] for entry in state.log_history if "train_runtime" in entry]
    return {
        "task": task,
        "base_model": _base(trainer),
        "examples": len(data) if isinstance(data, Sized) else None,
        "steps": state.global_step,
        "epochs": None if state.epoch is None else round(state.epoch, 4),
        "seconds": seconds[-1] if seconds else None,
        "processes": args.world_size,
        "device": args.device.type,
        "arguments": _plain(chosen),
        "losses": losses,
    }


def _base(trainer: Trainer) -> str | None:
    name = getattr(getattr(trainer.model, "config", None), "_name_or_path", None)
    return Path(name).name if name and Path(name).exists() else name or None


def _plain(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What JSON can hold and what is set, without paths."""
    found = {}
    for name, value in arguments.items():
        value = getattr(value, "value", value)
        if isinstance(value, str) and "/" in value:
            continue
        if isinstance(value, int | float | str | list | tuple) and value is not False and value != "":
            found[name] = value
    return found
