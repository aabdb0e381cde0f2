"""The Trainer that all training commands share."""

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, rotate_checkpoints

from mose.hub.card import SUMMARY, write_folder_card
from mose.hub.errors import PublishError
from mose.hub.files import write_sentence_transformers_files
from mose.training.checkpoints import MANIFEST, write_manifest
from mose.training.hub import publish_run, run_summary
from mose.training.metric_logging import MetricAverages
from mose.utils.files import atomic_write_json

logger = logging.getLogger("mose.train")

#: Classes whose folders sentence-transformers can load.
EMBEDDING_MODELS = ("MoSEModel", "LoRAModel")


class MoSETrainer(Trainer):
    """A `Trainer` that logs per-exit metrics, verifies its checkpoints and pushes complete repositories.

    - Metrics in `averages` are averaged between log steps and added to the log; those of an evaluation are
      prefixed `eval_`.
    - A checkpoint gets a manifest once every process has written its part. Older checkpoints are deleted only
      then, so that a kill at any moment leaves a complete one.
    - A push (`push_to_hub`) is one commit with shards cut at the exits, code, tokenizer, sentence-transformers
      files and a card made from the run. Optimizer states and other pickles stay local.

    Raises:
        ValueError: `args.hub_strategy` asks to push checkpoints with their optimizer states.
    """

    model: torch.nn.Module
    #: For the card: what the run trains for, and the data sets that it read.
    task = "training"
    datasets: Sequence[str] = ()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.averages = MetricAverages()

        strategy = HubStrategy(self.args.hub_strategy)
        if self.args.push_to_hub and strategy not in (HubStrategy.END, HubStrategy.EVERY_SAVE):
            raise ValueError(
                f"hub_strategy must be 'end' or 'every_save', got {strategy.value!r}: only these push "
                "no optimizer states, which are pickles."
            )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log `logs` and, in a line with a loss, the metrics since the last such line."""
        # "loss" while training, "eval_loss" after an evaluation. "train_loss" ends a run and is neither.
        losses = [key for key in logs if key.endswith("loss") and key != "train_loss"]
        if losses:
            logs |= self.pop_metrics(prefix=losses[0].removesuffix("loss"))
        super().log(logs, start_time)

    def pop_metrics(self, prefix: str) -> dict[str, float]:
        """Return the averaged metrics, named with `prefix`: "" while training, else that of the evaluation."""
        means = self.averages.pop(not prefix, lambda sums: self.accelerator.reduce(sums, "sum"))
        return {prefix + name: mean for name, mean in means.items()}

    def save_extra_state(self, checkpoint: Path) -> None:
        """Write further state of a subclass into a checkpoint; called in every process."""

    def _save_checkpoint(self, model, trial) -> None:
        run_folder = Path(self._get_output_dir(trial=trial))
        checkpoint = run_folder / f"checkpoint-{self.state.global_step}"
        if self.args.should_save:
            # A damaged checkpoint of the same step may exist: it must not look complete meanwhile.
            (checkpoint / MANIFEST).unlink(missing_ok=True)

        # Keep transformers from deleting older checkpoints before this one is complete.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit

        self.save_extra_state(checkpoint)
        self.accelerator.wait_for_everyone()

        if self.args.should_save:
            write_manifest(checkpoint)
            rotate_checkpoints(
                output_dir=str(run_folder),
                save_total_limit=limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if not self.args.should_save:
            return

        folder = Path(str(output_dir or self.args.output_dir))
        if type(self.accelerator.unwrap_model(self.model)).__name__ in EMBEDDING_MODELS:
            write_sentence_transformers_files(folder)
        atomic_write_json(folder / SUMMARY, self.summary(), ensure_ascii=False)

    def summary(self) -> dict[str, Any]:
        """Return what a card shows of the run."""
        return run_summary(self, self.task, self.datasets)

    def create_model_card(  # type: ignore[override]
        self, language: str | None = None, license: str | None = None, *args, **kwargs
    ) -> None:
        """Write the run's card to `args.output_dir`; further arguments of `Trainer`'s are ignored."""
        if self.is_world_process_zero():
            given = {"license": license, "language": language}
            options = {name: value for name, value in given.items() if value}
            self._write_card(str(self.args.output_dir), **options)

    def _write_card(self, folder: str, **options: Any) -> None:
        write_folder_card(Path(folder), repo_id=self.hub_model_id, summary=self.summary(), **options)

    def push_to_hub(  # type: ignore[override]
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs,
    ):
        """Save, write the card and publish; arguments as in `Trainer`. Returns `Published` or its future.

        Raises:
            PublishError: the Hub refused or could not be reached. The saved files are in `args.output_dir`.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        if self.hub_model_id is None:
            self.init_hf_repo(token=token, private=private)

        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None

        self.create_model_card(**kwargs)
        run = (self.args, str(self.args.output_dir), str(self.hub_model_id))
        push = partial(publish_run, *run, commit_message=commit_message, token=token, revision=revision)
        return push() if blocking else HfApi().run_as_future(push)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return

        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        message = f"Training in progress, step {self.state.global_step}"
        self._write_card(checkpoint_folder)
        try:
            # Not in the background: the next save may delete the folder.
            publish_run(self.args, checkpoint_folder, str(self.hub_model_id), commit_message=message)
        except PublishError as error:
            # A failed push must not end the run. The next save pushes again.
            logger.warning("step %d was not pushed: %s", self.state.global_step, error)
