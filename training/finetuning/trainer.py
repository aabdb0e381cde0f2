"""Thin subclasses of `Trainer`: they wire model, losses and logging."""

from collections import defaultdict

import torch
from torch import Tensor
from transformers import TrainerCallback

from mose.modeling_mose import SIMILARITY_SCALE_RANGE, MoSEModel
from mose.training.finetuning.arguments import FineTuningArguments
from mose.training.finetuning.gradcache import embed, gather, ranks
from mose.training.finetuning.objective import Batch, Objective
from mose.training.metric_logging import FigureTrainer

SIDES = ("query", "document", "negative")


class BoundSimilarityScale(TrainerCallback):
    """Puts the learned scale back into its range after every step.

    `forward` clamps it, too, and the gradient of a clamp is zero beyond its bounds: a scale that a step had
    carried across would never come back. On the bound itself the gradient passes.
    """

    def on_optimizer_step(self, args, state, control, model=None, **kwargs):
        for name, parameter in model.named_parameters():
            if "similarity_scale" in name:
                parameter.data.clamp_(*SIMILARITY_SCALE_RANGE)

    on_train_begin = on_optimizer_step


class FineTuningTrainer(FigureTrainer):
    """Fine-tunes a `MoSEModel` on pairs, at every exit; minimising the `Objective`.

    The batch is embedded in mini-batches (`mose.training.finetuning.gradcache`), so that any size fits; the
    pairs of all processes are each other's negatives. What training makes of the space goes into the config
    (`aligned_exits`, `matryoshka_dims`).

    Args:
        teacher_vectors: (n, hidden), where an outer teacher is wanted. Batches then carry `teacher_query` and
            `teacher_document`, rows of it (`mose.training.finetuning.teacher.attach_teacher`).
        Others as in `Trainer`; `data_collator` is a `mose.data.retrieval.collator.PairCollator`.

    Raises:
        ValueError: nothing is left to learn from, there is but one exit where several are wanted, a dimension is
            not the model's, or `args.learning_rate_multipliers` names no parameter.
    """

    args: FineTuningArguments
    model: MoSEModel
    task = "fine-tuning for retrieval"

    def __init__(self, *args, teacher_vectors: Tensor | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        given = self.args
        left = given.contrastive_weight + (given.align_weight if given.align_exits else 0.0)
        left += 0.0 if teacher_vectors is None else given.teacher_kl_weight + given.teacher_cosine_weight
        if left == 0:
            raise ValueError(
                "contrastive_weight=0: without a teacher or align_exits, of a weight above 0, nothing is left to "
                "learn from"
            )
        for part in self.args.multipliers:
            if not any(part in name for name, _ in self.model.named_parameters()):
                raise ValueError(f"learning_rate_multipliers: no parameter's name holds {part!r}")
        self.objective: Objective = self._objective(taught=teacher_vectors is not None)
        # Each part is a mean over the batch; Trainer is to divide by its accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.teacher_vectors = None if teacher_vectors is None else teacher_vectors.to(self.args.device)
        self.add_callback(BoundSimilarityScale())

    def _objective(self, taught: bool) -> Objective:
        """The objective that the arguments ask for; the configuration learns what comes of it."""
        args, config = self.args, self.model.config
        if config.truncate_dim is not None:
            raise ValueError(f"truncate_dim={config.truncate_dim}: load the model at its full width to train it")
        if len(config.built_exit_layers) < 2 and (args.align_exits or args.distillation != "none"):
            raise ValueError(
                f"align_exits={args.align_exits}, distillation={args.distillation!r}: the model has one exit "
                f"only, {config.built_exit_layers[0]}"
            )
        full = config.resolve_truncate_dim()
        shorter = {config.resolve_truncate_dim(dim) for dim in args.matryoshka_dims} - {full}
        config.aligned_exits = args.align_exits and args.align_weight > 0
        config.matryoshka_dims = sorted(shorter, reverse=True) or None
        return Objective(
            contrastive_weight=args.contrastive_weight,
            align_weight=args.align_weight if args.align_exits else 0.0,
            distillation=args.distillation,
            distillation_weight=args.distillation_weight,
            distillation_temperature=args.distillation_temperature,
            teacher_kl_weight=args.teacher_kl_weight if taught else 0.0,
            teacher_cosine_weight=args.teacher_cosine_weight if taught else 0.0,
            teacher_temperature=args.teacher_temperature,
            matryoshka_dims=(full, *sorted(shorter, reverse=True)) if shorter else (),
        )

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        given = [side for side in SIDES if f"{side}_input_ids" in inputs]
        sides, scale = embed(
            model,
            [(inputs[f"{side}_input_ids"], inputs[f"{side}_attention_mask"]) for side in given],
            self.args.mini_batch_size,
        )
        embeddings = dict(zip(given, sides, strict=True))
        batch, share = self._gather(embeddings, inputs, scale)
        loss, figures = self.objective(batch, self.accelerator.unwrap_model(self.model).config.exit_weights)
        for name, value in figures.items():
            self._note(name, value * share)
        self._note("similarity_scale", scale.mean())
        loss = loss * share
        return (loss, (embeddings["query"], embeddings["document"])) if return_outputs else loss

    def _gather(
        self, embeddings: dict[str, dict[int, Tensor]], inputs: dict, scale: Tensor
    ) -> tuple[Batch, float]:
        """The batch of all processes, and the share that this process's loss has in the mean of all."""
        device = scale.device
        pairs = ranks(len(inputs["query_input_ids"]), device)

        def everyone(side: str, over) -> dict[int, Tensor]:
            exits = embeddings[side]  # in one collective
            return dict(zip(exits, gather(torch.stack(list(exits.values()), 1), over).unbind(1), strict=True))

        batch = Batch(everyone("query", pairs), everyone("document", pairs), scale, pairs.rows)
        if "query_key" in inputs:
            batch.keys = gather(torch.stack((inputs["query_key"], inputs["document_key"]), 1), pairs)
        if "negative" in embeddings:
            negatives = ranks(len(inputs["negative_input_ids"]), device)
            if sum(negatives.lengths):
                batch.hard_negatives = everyone("negative", negatives)
                batch.hard_negative_keys = gather(inputs["negative_key"], negatives)
        if self.teacher_vectors is not None:
            batch.teacher = (
                self.teacher_vectors[gather(inputs["teacher_query"], pairs)],
                self.teacher_vectors[gather(inputs["teacher_document"], pairs)],
            )
        return batch, pairs.share

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        with torch.no_grad(), self.compute_loss_context_manager():
            loss = self.compute_loss(model, self._prepare_inputs(inputs))
        return loss.detach(), None, None

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """As in `Trainer`, with `args.multipliers` on the learning rates."""
        if self.optimizer is None and self.args.multipliers:
            optimizer = super().create_optimizer(model)
            names = {id(p): name for name, p in (self.model if model is None else model).named_parameters()}
            groups = []
            for group in optimizer.param_groups:
                split = defaultdict(list)
                for parameter in group["params"]:
                    split[self._multiplier(names[id(parameter)])].append(parameter)
                groups += [
                    {**group, "params": parameters, "lr": group["lr"] * multiplier}
                    for multiplier, parameters in split.items()
                ]
            optimizer.param_groups[:] = groups
        return super().create_optimizer(model)

    def _multiplier(self, name: str) -> float:
        return next((value for part, value in self.args.multipliers.items() if part in name), 1.0)
