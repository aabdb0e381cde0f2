"""The Trainer of fine-tuning: it wires model, objective and logging."""

import dataclasses
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from mose.modeling_mose import SIMILARITY_SCALE_RANGE, MoSEModel
from mose.training.arguments import select_fields
from mose.training.finetuning.arguments import FineTuningArguments
from mose.training.finetuning.gradcache import Ranks, embed, gather, gather_ranks, graph_tokens
from mose.training.finetuning.objective import TEACHER_LOSSES, Batch, Objective, project_teacher
from mose.training.trainer import MoSETrainer

SIDES = ("query", "document", "negative")


class ClampSimilarityScale(TrainerCallback):
    """A callback that clamps the learned scale to its range after every step.

    `forward` clamps it, too, but the gradient of a clamp is zero beyond its bounds: a scale outside would never
    come back.
    """

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        """Clamp the scale of `model` in place."""
        for name, parameter in model.named_parameters():
            if "similarity_scale" in name:
                parameter.data.clamp_(*SIMILARITY_SCALE_RANGE)

    on_train_begin = on_optimizer_step


class FineTuningTrainer(MoSETrainer):
    """A Trainer that minimises the `Objective` of a `MoSEModel` on pairs, at every exit.

    The batch is embedded in mini-batches (`mose.training.finetuning.gradcache`), so any batch size fits. The
    pairs of all processes are each other's negatives. The configuration records `aligned_exits` and
    `matryoshka_dims`. The log has each term of the objective per exit, such as `contrastive_loss_exit_9`.

    Args:
        teacher_vectors: (n, dim) vectors of an outer teacher, at least as wide as the model's. Batches then have
            their row numbers (batch,) as `teacher_query` and `teacher_document` (`attach_teacher`).
        args, kwargs: as in `Trainer`; `data_collator` is a `mose.data.retrieval.collator.PairCollator`.

    Raises:
        ValueError: all loss weights are 0, the model has only one exit where several are needed, a size is not
            the model's, or `args.learning_rate_multipliers` matches no parameter.
    """

    args: FineTuningArguments
    model: MoSEModel
    task = "fine-tuning for retrieval"

    def __init__(self, *args, teacher_vectors: Tensor | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher_vectors = self.teacher_targets = None
        if teacher_vectors is not None:
            self.teacher_vectors = teacher_vectors.to(self.args.device)
            self.teacher_targets = project_teacher(self.teacher_vectors, self.model.config.embedding_size)
        self._check_arguments()
        self.objective: Objective = self._build_objective()

        # Terms are means over the batch, so Trainer must divide by its accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.add_callback(ClampSimilarityScale())

    def _check_arguments(self) -> None:
        args, config = self.args, self.model.config
        total_weight = args.contrastive_weight + (args.align_weight if args.align_exits else 0.0)
        if self.teacher_vectors is not None:
            total_weight += sum(getattr(args, f"{loss}_weight") for loss in TEACHER_LOSSES)
        if total_weight == 0:
            raise ValueError("All loss weights are 0. Set contrastive_weight, or use align_exits or a teacher.")

        if config.truncate_dim is not None:
            raise ValueError(
                f"truncate_dim must be None for training, got {config.truncate_dim}. Load the full model."
            )
        if len(config.built_exit_layers) < 2 and (args.align_exits or args.distillation != "none"):
            raise ValueError(
                f"align_exits={args.align_exits} and distillation={args.distillation!r} need several exits; the "
                f"model has only exit {config.built_exit_layers[0]}. Build it deeper."
            )

        for part in args.multipliers:
            if not any(part in name for name, _ in self.model.named_parameters()):
                raise ValueError(f"learning_rate_multipliers: {part!r} must be part of a parameter's name.")

    def _build_objective(self) -> Objective:
        """Return the objective of the arguments, and record its space in the configuration."""
        args, config = self.args, self.model.config
        full_size = config.resolve_truncate_dim()
        truncated = {config.resolve_truncate_dim(dim) for dim in args.matryoshka_dims} - {full_size}
        dims = sorted(truncated, reverse=True)
        model: Any = self.model
        base: MoSEModel = model.get_base_model() if hasattr(model, "get_base_model") else model
        base.describe_space(args.align_exits and args.align_weight > 0, dims or None)

        options = select_fields(args, [field.name for field in dataclasses.fields(Objective)])
        options["matryoshka_dims"] = (full_size, *dims) if dims else ()
        if not args.align_exits:
            options["align_weight"] = 0.0
        if self.teacher_vectors is None:
            options |= {f"{loss}_weight": 0.0 for loss in TEACHER_LOSSES}
        return Objective(**options)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Return this process's part of the loss: a scalar whose mean over processes is that of all pairs."""
        sides = [side for side in SIDES if f"{side}_input_ids" in inputs]
        token_ids = [(inputs[f"{side}_input_ids"], inputs[f"{side}_attention_mask"]) for side in sides]
        length = max(ids.shape[1] for ids, _ in token_ids)
        config = self.accelerator.unwrap_model(self.model).config
        tokens = graph_tokens(config, length, self.args.graph_memory)
        exits, scale = embed(model, token_ids, self.args.mini_batch_size, tokens)
        embeddings = dict(zip(sides, exits, strict=True))

        batch, share = self._gather_batch(embeddings, inputs, scale)
        loss, metrics = self.objective(batch, self._exit_weights(batch))

        self.averages.add(self.model.training, list(metrics), torch.stack(list(metrics.values())) * share)
        self.averages.add(self.model.training, ["similarity_scale"], scale.mean()[None])
        loss = loss * share
        return (loss, (embeddings["query"], embeddings["document"])) if return_outputs else loss

    def _exit_weights(self, batch: Batch) -> Mapping[int, float]:
        """Return exit -> weight of its loss."""
        if self.args.exit_weights == "equal":
            return dict.fromkeys(batch.queries, 1.0)
        return self.accelerator.unwrap_model(self.model).config.exit_weights

    def _gather_batch(
        self, embeddings: dict[str, dict[int, Tensor]], inputs: dict, scale: Tensor
    ) -> tuple[Batch, float]:
        """Return the batch of all processes, and the weight of this process's loss in their mean."""
        device = scale.device
        pairs = gather_ranks(len(inputs["query_input_ids"]), device)

        def gather_exits(side: str, ranks: Ranks) -> dict[int, Tensor]:
            exits = embeddings[side]
            stacked = torch.stack(list(exits.values()), 1)  # one collective for all exits
            return dict(zip(exits, gather(stacked, ranks).unbind(1), strict=True))

        batch = Batch(gather_exits("query", pairs), gather_exits("document", pairs), scale, pairs.rows)
        if "query_key" in inputs:
            batch.keys = gather(torch.stack((inputs["query_key"], inputs["document_key"]), 1), pairs)

        if "negative" in embeddings:
            negatives = gather_ranks(len(inputs["negative_input_ids"]), device)
            if sum(negatives.lengths):
                batch.hard_negatives = gather_exits("negative", negatives)
                batch.hard_negative_keys = gather(inputs["negative_key"], negatives)

        if self.teacher_vectors is not None and self.teacher_targets is not None:
            queries, documents = (gather(inputs[f"teacher_{side}"], pairs) for side in ("query", "document"))
            batch.teacher = self.teacher_vectors[queries], self.teacher_vectors[documents]
            batch.teacher_targets = self.teacher_targets[queries], self.teacher_targets[documents]
        return batch, pairs.share

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return the loss alone: embeddings need no gathering."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """Create the optimizer as `Trainer` does, with `args.multipliers` on the learning rates."""
        if self.optimizer is not None or not self.args.multipliers:
            return super().create_optimizer(model)

        optimizer = super().create_optimizer(model)
        names = {id(p): name for name, p in (self.model if model is None else model).named_parameters()}
        groups = []
        for group in optimizer.param_groups:
            by_multiplier = defaultdict(list)
            for parameter in group["params"]:
                by_multiplier[self._multiplier(names[id(parameter)])].append(parameter)
            groups += [
                {**group, "params": parameters, "lr": group["lr"] * multiplier}
                for multiplier, parameters in by_multiplier.items()
            ]
        optimizer.param_groups[:] = groups
        return optimizer

    def _multiplier(self, name: str) -> float:
        return next((value for part, value in self.args.multipliers.items() if part in name), 1.0)
