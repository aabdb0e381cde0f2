"""The Trainer that all training commands share."""

import logging
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError
from transformers import Trainer
from transformers.trainer_utils import HubStrategy, rotate_checkpoints

from mose.hub.card import SUMMARY, write_folder_card
from mose.hub.errors import PublishError
from mose.hub.files import write_sentence_transformers_files
from mose.hub.weights import order_by_exit
from mose.training.checkpoints import MANIFEST, last_whole_checkpoint, write_manifest
from mose.training.hub import publish_run, run_summary
from mose.training.interruption import SaveOnSignal
from mose.training.metric_logging import MetricAverages
from mose.training.nonfinite import concerned, nonfinite_step, require_finite_weights
from mose.utils.command_line import InterruptedBySignal
from mose.utils.files import atomic_write_json

logger = logging.getLogger("mose.train")

#: Classes whose folders sentence-transformers can load.
EMBEDDING_MODELS = ("MoSEModel", "LoRAModel")
#: Steps in a row that loss scaling of fp16 may skip while it looks for its scale.
SCALING_STEPS = 30


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or not be read."""


class MoSETrainer(Trainer):
    """A `Trainer` that logs per-exit metrics, verifies its checkpoints and pushes complete repositories.

    - Metrics in `averages` are averaged between log steps and added to the log; those of an evaluation are
      prefixed `eval_`.
    - A checkpoint gets a manifest once every process has written its part. Older checkpoints are deleted only
      then, so that a kill at any moment leaves a complete one.
    - A loss or gradient that is not finite stops the run before it reaches the weights, or skips the step
      (`on_nonfinite`). Older checkpoints are deleted only after a finite step from the newest.
    - Ctrl-C and SIGTERM finish the step, save a checkpoint and raise `InterruptedBySignal`.
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
        #: Sum of the losses of the step so far, on the device; and the metrics before it.
        self._step_loss: torch.Tensor | None = None
        self._metrics_before = self.averages.snapshot()
        self.skipped_steps = 0
        self._scaled_steps = 0
        self._rotation_is_due = False
        self._signals = SaveOnSignal()
        self.add_callback(self._signals)
        # The filter logs a mean in place of what is not finite, and waits for the device in every batch.
        self.args.logging_nan_inf_filter = False

        strategy = HubStrategy(self.args.hub_strategy)
        if self.args.push_to_hub and strategy not in (HubStrategy.END, HubStrategy.EVERY_SAVE):
            raise ValueError(
                f"hub_strategy must be 'end' or 'every_save', got {strategy.value!r}: only these push "
                "no optimizer states, which are pickles."
            )

    def train(self, *args, **kwargs):
        """Train as `Trainer` does.

        Raises:
            InterruptedBySignal: SIGINT or SIGTERM came; a checkpoint was saved.
            NonFiniteError: a loss, a gradient or a weight is not finite.
            CheckpointError: a checkpoint could not be written.
        """
        with self._signals.catch():
            output = super().train(*args, **kwargs)

            if number := self._signals.signal_number:
                checkpoint = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
                saved = f"{checkpoint} is saved. Pass --resume to continue from it."
                if not checkpoint.is_dir():
                    saved = f"interrupted after step {self.state.global_step}, which was not saved."
                raise InterruptedBySignal(number, saved)

            require_finite_weights(self.model, self.state.global_step, Path(str(self.args.output_dir)))
            self._rotate()
        return output

    def _load_optimizer_and_scheduler(self, checkpoint) -> None:
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except Exception as error:  # readers of pickles raise many types
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise CheckpointError(
                f"{checkpoint}: the state of the optimizer or the schedule does not load: {reason}. Delete this "
                "checkpoint to resume from the one before."
            ) from error

    def _run_epoch(self, *args, **kwargs) -> None:
        # A finished run that is resumed has nothing to do. transformers looks after a step, and within an epoch
        # would train one too many.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        """Train on a batch as `Trainer` does, and note its loss; the one returned is for the log."""
        if self._step_loss is None:
            self._metrics_before = self.averages.snapshot()
        loss = super().training_step(*args, **kwargs)
        self._step_loss = loss if self._step_loss is None else self._step_loss + loss
        return torch.nan_to_num(loss, 0.0, 0.0, 0.0)

    def _get_grad_norm(self, model, grad_norm=None):
        """Return the norm of the step's gradient, after checking it and the loss: the weights change next."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        step_norm = torch.as_tensor(norm, device=self.args.device)
        loss, self._step_loss = self._step_loss, None
        norm_is_bad = ~step_norm.isfinite()
        loss_is_bad = torch.zeros_like(norm_is_bad) if loss is None else ~loss.to(norm_is_bad.device).isfinite()
        faults = torch.stack((norm_is_bad, loss_is_bad)).int()
        if self.args.world_size > 1:
            # All processes must decide alike.
            faults = self.accelerator.reduce(faults, "sum")

        # The only wait for the device in a step.
        norm_faults, loss_faults = faults.tolist()
        if not norm_faults and not loss_faults:
            self._scaled_steps = 0
            self._rotate()
            return norm
        self._handle_nonfinite(loss_is_finite=not loss_faults)
        return None

    def _handle_nonfinite(self, loss_is_finite: bool) -> None:
        """Skip the step, or raise NonFiniteError. `loss_is_finite` speaks of all processes."""
        step, folder = self.state.global_step + 1, Path(str(self.args.output_dir))
        where = concerned(self.averages.nonfinite())
        scaler = getattr(self.accelerator, "scaler", None)
        if scaler is not None and loss_is_finite and self._scaled_steps < SCALING_STEPS:
            # Overflow of scaled gradients is how the scale is found; the scaler skips such steps itself.
            self._scaled_steps += 1
            return

        # A Trainer may have plain `TrainingArguments`.
        may_skip = getattr(self.args, "on_nonfinite", "stop") == "skip"
        limit = getattr(self.args, "max_skipped_steps", 0)
        if not may_skip or self.skipped_steps >= limit:
            raise nonfinite_step(step, where, folder, self.skipped_steps)

        self.skipped_steps += 1
        logger.warning(
            "step %d is skipped (%d of at most %d): %s is not finite", step, self.skipped_steps, limit, where
        )
        self.averages.restore(self._metrics_before)
        if scaler is None:
            # An optimizer leaves parameters without a gradient as they are.
            self.model.zero_grad(set_to_none=True)

    def _rotate(self) -> None:
        """Delete checkpoints over the limit, once a step from the newest was finite or the run has ended."""
        if not self._rotation_is_due:
            return
        self._rotation_is_due = False
        rotate_checkpoints(
            output_dir=str(self.args.output_dir),
            save_total_limit=self.args.save_total_limit,
            best_model_checkpoint=self.state.best_model_checkpoint,
            use_mtime=True,
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log `logs` and, in a line with a loss, the metrics since the last such line."""
        # "loss" while training, "eval_loss" after an evaluation. "train_loss" ends a run and is neither.
        losses = [key for key in logs if key.endswith("loss") and key != "train_loss"]
        if losses:
            logs |= self.pop_metrics(prefix=losses[0].removesuffix("loss"))
        if self.skipped_steps and "loss" in logs:
            logs["skipped_steps"] = self.skipped_steps
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
        require_finite_weights(self.model, self.state.global_step, run_folder)
        if self.args.should_save:
            # A damaged checkpoint of the same step may exist: it must not look complete meanwhile.
            (checkpoint / MANIFEST).unlink(missing_ok=True)

        # Keep transformers from deleting older checkpoints before this one is complete.
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
            self.save_extra_state(checkpoint)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                write_manifest(checkpoint)
        except (OSError, RuntimeError, SafetensorError) as error:
            raise _checkpoint_error(checkpoint, error) from error
        finally:
            self.args.save_total_limit = limit

        # Until a step from this checkpoint was finite, the older ones are kept.
        self._rotation_is_due = self.args.should_save

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        # `training_args.bin` is for everyone who gets the model.
        token, self.args.hub_token = self.args.hub_token, None
        try:
            super()._save(output_dir, state_dict)
        finally:
            self.args.hub_token = token
        if not self.args.should_save:
            return

        folder = Path(str(output_dir or self.args.output_dir))
        model = self.accelerator.unwrap_model(self.model)
        # Checkpoints are only resumed from, as a whole.
        if folder.absolute() == Path(str(self.args.output_dir)).absolute():
            order_by_exit(folder, model.config.built_exit_layers)
        if type(model).__name__ in EMBEDDING_MODELS:
            write_sentence_transformers_files(folder, model.config.resolve_truncate_dim())
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


def _checkpoint_error(checkpoint: Path, error: Exception) -> CheckpointError:
    """Delete the unfinished checkpoint, for it may fill the disk, and return the error in one line."""
    free = shutil.disk_usage(checkpoint.parent).free / 1e6
    shutil.rmtree(checkpoint, ignore_errors=True)
    before = last_whole_checkpoint(checkpoint.parent)
    left = f"{before} is intact" if before else "There is none before it"
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    # torch's writer of archives has no word for it.
    if free < 1 and not isinstance(error, OSError):
        reason = f"No space left on device ({reason})"
    return CheckpointError(
        f"{checkpoint} could not be written: {reason} ({free:,.0f} MB free). {left}. Make room, then pass "
        "--resume."
    )
