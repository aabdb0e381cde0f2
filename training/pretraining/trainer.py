"""The Trainer of pre-training: it wires stream, model, schedule and logging. The loss is the model's own."""

import json
import time
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState

from mose.data.pretraining.masking import MLMCollator
from mose.data.pretraining.stream import PreTrainingStream
from mose.modeling_mose import MoSEForPreTraining
from mose.training.pretraining.arguments import PreTrainingArguments
from mose.training.pretraining.flops import ThroughputMeter, peak_flops
from mose.training.trainer import MoSETrainer

TASKS = ("mlm", "icc")
#: Parts of the trunk that only embeddings use: fine-tuning trains them.
EMBEDDING_ONLY = ("similarity_scale", ".gate.", ".projection.")


class EpochAsShareOfSteps(TrainerCallback):
    """A callback that logs the share of the steps as the epoch, since a stream has no epochs."""

    def on_step_end(self, args, state, control, **kwargs):
        """Set the epoch from the step, which a resumed run also knows."""
        state.epoch = state.global_step / state.max_steps


class PreTrainingTrainer(MoSETrainer):
    """A Trainer that pre-trains a `MoSEForPreTraining` on a stream: L = Σ_i w_i (MLM_i + ICC_i) over the exits i.

    MLM_i is a mean over the masked tokens of a step and ICC_i over its examples (paper, section 3), however the
    step is split: over processes, or into batches whose gradients are accumulated.

    Args:
        train_dataset: a `PreTrainingStream`, sharded for this process.
        eval_dataset: list of examples, the same in every process; each takes its share.
        data_collator: a `mose.data.pretraining.masking.MLMCollator`.
        args, kwargs: as in `Trainer`.
    """

    task = "pre-training"
    args: PreTrainingArguments
    model: MoSEForPreTraining

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(EpochAsShareOfSteps())
        for name, parameter in self.model.named_parameters():
            if any(part in f".{name}." for part in EMBEDDING_ONLY):
                # DistributedDataParallel would wait for their gradients.
                parameter.requires_grad_(False)

        peak = peak_flops(self.args.device_name())
        total_peak = None if peak is None else peak * self.args.world_size
        self.throughput = ThroughputMeter(total_peak, cast(MLMCollator, self.data_collator).mlm_probability)
        #: Examples of a step over all processes, which the model divides the ICC loss by.
        self._examples_in_step: dict[str, Tensor] = {}
        #: Step and number of examples at which the stream started.
        self._stream_start = (0, 0)

    def get_train_dataloader(self) -> DataLoader:
        """Return a loader of this process's part of the stream."""
        return self._loader(self.train_dataset, self.args.train_batch_size)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        """Return a loader of this process's share of the evaluation examples."""
        examples = cast(list, self.eval_dataset if eval_dataset is None else eval_dataset)
        ranks = self.args.world_size
        # Equally many in each process, or one would wait for the others: up to ranks - 1 are left out.
        own = examples[self.args.process_index :: ranks][: max(1, len(examples) // ranks)]
        return self._loader(own, self.args.eval_batch_size)

    def _loader(self, data: Any, batch_size: int) -> DataLoader:
        # Not prepared by accelerate: the stream is sharded already. With a generator of its own, the loader does
        # not draw its seed from the one of dropout, which a resumed run would do once more than an unbroken one.
        return DataLoader(
            data,
            batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers if data is self.train_dataset else 0,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Return the batches of a step, and count its examples and tokens over all processes."""
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.tensor(
            [[len(batch["input_ids"]), int(batch["attention_mask"].sum())] for batch in batches]
        ).sum(dim=0)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts.to(device), "sum").cpu()

        examples, tokens = counts.tolist()
        self._examples_in_step = {"num_examples_in_batch": torch.tensor(examples, device=device)}
        self.throughput.add(examples, tokens)
        return batches, items

    def train(self, resume_from_checkpoint=None, **kwargs):  # type: ignore[override]
        """Train as `Trainer` does; a finished run that is resumed only loads its weights and returns None."""
        if resume_from_checkpoint is not None:
            checkpoint = Path(resume_from_checkpoint)
            state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
            self._load_stream(checkpoint, state.global_step)
            if state.global_step >= self.args.max_steps:
                self._load_from_checkpoint(str(checkpoint))
                self.state = state
                return None

        self.throughput.restart()
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def save_extra_state(self, checkpoint: Path) -> None:
        """Save this process's position in the stream, from the examples that all processes have used."""
        start_step, start_examples = self._stream_start
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        examples = start_examples + (self.state.global_step - start_step) * per_step
        state = cast(PreTrainingStream, self.train_dataset).state_dict(examples)

        # The checkpoint's manifest comes last, so this file need not be atomic.
        (checkpoint / f"stream-{self.args.process_index}.json").write_text(json.dumps(state))

    def _load_stream(self, checkpoint: Path, step: int) -> None:
        """Restore the stream: each process saved the positions of its own lanes, together they have all."""
        states = [json.loads(path.read_text()) for path in sorted(checkpoint.glob("stream-*.json"))]
        if not states:
            raise ValueError(f"{checkpoint} has no stream-*.json. Resume a checkpoint of a pre-training run.")

        marks = {lane: mark for state in states for lane, mark in state["marks"].items()}
        cast(PreTrainingStream, self.train_dataset).load_state_dict({**states[0], "marks": marks})
        self._stream_start = (step, states[0]["examples"])

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return the model's loss of a batch, divided by the masked tokens and examples of the whole step."""
        inputs = {**inputs, **self._examples_in_step}
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        self._add_metrics(outputs, inputs)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return the loss alone: logits over the vocabulary are large."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        self._add_metrics(outputs, inputs)
        return outputs.loss.detach(), None, None

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        """Create the schedule of `args.lr_drop_steps`, or that of `Trainer` without drops."""
        if self.args.lr_drop_steps and not getattr(self, "lr_scheduler", None):
            self.lr_scheduler = LambdaLR(optimizer or cast(Optimizer, self.optimizer), self.args.multi_step)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _add_metrics(self, outputs: Any, inputs: dict[str, Tensor]) -> None:
        """Add a batch's losses and accuracies per exit, weighted by what each is a mean over."""
        labels = inputs["labels"]
        weights: dict[str, Tensor | float] = {"mlm": (labels != -100).sum(), "icc": float(len(labels))}
        exits = self.accelerator.unwrap_model(self.model).model.exit_layers

        for task in TASKS:
            losses, accuracies = (getattr(outputs, f"{task}_{kind}") for kind in ("losses", "accuracies"))
            if losses is not None:
                names = [f"{task}_{kind}_exit_{e}" for kind in ("loss", "accuracy") for e in exits]
                self.averages.add(self.model.training, names, torch.cat((losses, accuracies)), weights[task])

    def pop_metrics(self, prefix: str) -> dict[str, float]:
        """Return the metrics per exit with, while training, the throughput; else the loss over all batches."""
        metrics = super().pop_metrics(prefix)
        config = self.accelerator.unwrap_model(self.model).config
        if not prefix:
            return metrics | self.throughput.read(config)

        # Trainer's own `eval_loss` averages over batches of different sizes.
        losses = {name: value for name, value in metrics.items() if "_loss_exit_" in name}
        total = sum(config.exit_weights[int(name.rpartition("_")[2])] * loss for name, loss in losses.items())
        return {f"{prefix}loss": total} | metrics

    def evaluate(self, *args, **kwargs):
        """Evaluate as `Trainer` does, outside the throughput."""
        start = time.perf_counter()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self.throughput.start += time.perf_counter() - start
