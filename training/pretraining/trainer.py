"""The Trainer of pre-training: it wires stream, model, schedule and logging; the loss is the model's own."""

import json
import time
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_callback import TrainerState

from mose.data.pretraining.stream import PreTrainingStream
from mose.modeling_mose import MoSEForPreTraining
from mose.training.hub import HubTrainer
from mose.training.pretraining.arguments import PreTrainingArguments
from mose.training.pretraining.flops import peak_flops, training_flops

TASKS = ("mlm", "icc")
#: Parts of the trunk that only embeddings go through: they learn in fine-tuning.
EMBEDDING_ONLY = ("similarity_scale", ".gate.", ".projection.")


class ShareOfSteps(TrainerCallback):
    """A stream has no epochs: what is logged as the epoch is the share of the steps, also in a resumed run."""

    def on_step_end(self, args, state, control, **kwargs):
        state.epoch = state.global_step / state.max_steps


class PreTrainingTrainer(HubTrainer):
    """Pre-trains a `MoSEForPreTraining` on a stream: L = Σ_i w_i (MLM_i + ICC_i) over the exits i.

    MLM is a mean over the masked tokens and ICC over the examples of a whole step, whatever it is split into:
    processes, or batches whose gradients are accumulated.

    Args:
        train_dataset: a `PreTrainingStream`, sharded for this process.
        eval_dataset: a list of examples, the same in every process; each takes its share.
        data_collator: a `mose.data.pretraining.masking.MLMCollator`.
        Others as in `Trainer`.
    """

    task = "pre-training"
    args: PreTrainingArguments
    model: MoSEForPreTraining

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.add_callback(ShareOfSteps())
        for name, parameter in self.model.named_parameters():
            if any(part in f".{name}." for part in EMBEDDING_ONLY):
                parameter.requires_grad_(False)  # or DDP would wait for their gradients
        self._sums: dict[bool, dict[str, Tensor]] = {True: {}, False: {}}
        self._step: dict[str, Tensor] = {}
        self._tokens, self._sequences, self._since = 0, 0, time.perf_counter()
        self._stream_start = (0, 0)

    # --- data ----------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> DataLoader:
        return self._loader(self.train_dataset, self.args.train_batch_size)

    def get_eval_dataloader(self, eval_dataset=None) -> DataLoader:
        examples = cast(list, self.eval_dataset if eval_dataset is None else eval_dataset)
        ranks = self.args.world_size
        # As many in each process, or one would wait for the others: up to ranks - 1 are left out.
        own = examples[self.args.process_index :: ranks][: max(1, len(examples) // ranks)]
        return self._loader(own, self.args.eval_batch_size)

    def _loader(self, data: Any, batch_size: int) -> DataLoader:
        # Not prepared by accelerate: the stream is sharded already. The generator keeps the loader from drawing
        # its seed from the one that dropout uses, which a resumed run would do once more than an unbroken one.
        return DataLoader(
            data,
            batch_size,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers if data is self.train_dataset else 0,
            pin_memory=self.args.dataloader_pin_memory and self.args.device.type == "cuda",
            generator=torch.Generator().manual_seed(self.args.seed),
        )

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        counts = torch.tensor(
            [[len(batch["input_ids"]), int(batch["attention_mask"].sum())] for batch in batches]
        ).sum(dim=0)
        if self.args.world_size > 1:
            counts = self.accelerator.reduce(counts.to(device), "sum").cpu()
        examples, tokens = counts.tolist()
        self._step = {"num_examples_in_batch": torch.tensor(examples, device=device)}
        self._tokens += tokens
        self._sequences += examples
        return batches, items

    # --- going on ------------------------------------------------------------------------------------------

    def train(self, resume_from_checkpoint=None, **kwargs):
        if resume_from_checkpoint is not None:
            state = TrainerState.load_from_json(str(Path(resume_from_checkpoint) / "trainer_state.json"))
            self._load_stream(Path(resume_from_checkpoint), state.global_step)
            if state.global_step >= self.args.max_steps:
                self._load_from_checkpoint(str(resume_from_checkpoint))
                self.state = state
                return None
        self._since = time.perf_counter()  # what was made ready before is no training
        return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _examples_used(self, step: int) -> int:
        """How many examples all processes have used after so many steps."""
        start_step, start_examples = self._stream_start
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return start_examples + (step - start_step) * per_step

    def save_more(self, checkpoint: Path) -> None:
        state = cast(PreTrainingStream, self.train_dataset).state_dict(
            self._examples_used(self.state.global_step)
        )
        (checkpoint / f"stream-{self.args.process_index}.json").write_text(json.dumps(state))

    def _load_stream(self, checkpoint: Path, step: int) -> None:
        """Each process knows the places of the lanes that it read; together they know them all."""
        states = [json.loads(path.read_text()) for path in sorted(checkpoint.glob("stream-*.json"))]
        if not states:
            raise ValueError(f"{checkpoint} holds no stream-*.json: it is no checkpoint of a pre-training run")
        marks = {lane: mark for state in states for lane, mark in state["marks"].items()}
        cast(PreTrainingStream, self.train_dataset).load_state_dict({**states[0], "marks": marks})
        self._stream_start = (step, states[0]["examples"])

    # --- loss and schedule ---------------------------------------------------------------------------------

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        loss, outputs = super().compute_loss(model, {**inputs, **self._step}, True, num_items_in_batch)
        self._note(outputs, inputs)
        return (loss, outputs) if return_outputs else loss

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(**inputs)
        self._note(outputs, inputs)
        return outputs.loss.detach(), None, None

    def create_scheduler(self, num_training_steps: int, optimizer=None):
        if self.args.lr_drop_steps and not getattr(self, "lr_scheduler", None):
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, partial(self.args.multi_step))
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    # --- logging -------------------------------------------------------------------------------------------

    def _note(self, outputs: Any, inputs: dict[str, Tensor]) -> None:
        """Adds up a batch's losses and accuracies, on the device: reading them would wait for the step."""
        sums = self._sums[self.model.training]
        counts = {"mlm": (inputs["labels"] != -100).sum(), "icc": torch.tensor(len(inputs["labels"]))}
        for task in TASKS:
            losses, accuracies = (getattr(outputs, f"{task}_{kind}") for kind in ("losses", "accuracies"))
            if losses is None:
                continue
            count = counts[task].to(losses)
            part = torch.cat((losses.double() * count, accuracies.double() * count, count.double()[None]))
            sums[task] = sums[task] + part if task in sums else part

    def _parts(self, training: bool) -> tuple[dict[str, float], float]:
        """The figures of each exit since they were last asked for, over all processes; and L."""
        model = self.accelerator.unwrap_model(self.model)
        exits, weights = model.model.exit_layers, model.config.exit_weights
        figures: dict[str, float] = {}
        total = 0.0
        for task, sums in self._sums[training].items():
            if self.args.world_size > 1:
                sums = self.accelerator.reduce(sums, "sum")
            *values, count = sums.tolist()
            means = [value / max(count, 1) for value in values]
            for at, depth in enumerate(exits):
                figures[f"{task}_loss_exit_{depth}"] = means[at]
                figures[f"{task}_accuracy_exit_{depth}"] = means[len(exits) + at]
                total += weights[depth] * means[at]
        self._sums[training] = {}
        return figures, total

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            logs |= self._parts(training=True)[0] | self._speed()
        elif "eval_loss" in logs:
            figures, total = self._parts(training=False)
            logs |= {"eval_loss": total} | {f"eval_{name}": value for name, value in figures.items()}
        super().log(logs, start_time)

    def _speed(self) -> dict[str, float]:
        """Tokens per second of all processes, without evaluations; MFU where the devices' peak is known."""
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        tokens, sequences, self._tokens, self._sequences = self._tokens, self._sequences, 0, 0
        if not sequences:
            return {}
        speed = {"tokens_per_second": tokens / seconds, "mean_length": tokens / sequences}
        peak = peak_flops(self.args.device_name())
        if peak is not None:
            config = self.accelerator.unwrap_model(self.model).config
            cost = training_flops(
                config, round(tokens / sequences), mlm_probability=self.data_collator.mlm_probability
            )
            speed["mfu"] = speed["tokens_per_second"] * cost / (peak * self.args.world_size)
        return speed

    def evaluate(self, *args, **kwargs):
        start = time.perf_counter()
        try:
            return super().evaluate(*args, **kwargs)
        finally:
            self._since += time.perf_counter() - start
