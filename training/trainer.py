"""Thin subclasses of `Trainer`: they wire model, losses and logging."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from mose.hub.files import write_sentence_transformers_files
from mose.modeling_mose import MoSEModel
from mose.training.arguments import FineTuningArguments
from mose.training.losses import clip_loss, cosine_loss, similarities, similarity_kl_loss, weighted_sum


def embed(
    model: Any, input_ids: Tensor, attention_mask: Tensor, mini_batch_size: int
) -> tuple[dict[int, Tensor], Tensor]:
    """Every exit's embeddings of a batch, computed in mini-batches of texts of like length.

    Args:
        model: A `MoSEModel`, perhaps wrapped.
        input_ids, attention_mask: (batch, tokens), padded on either side.
        mini_batch_size: Texts in one forward pass.

    Returns:
        (batch, hidden) for each exit, in the order of the batch, and the similarity scale (1,).
    """
    order = attention_mask.sum(dim=1).argsort(descending=True)
    parts: list[tuple[Tensor, ...]] = []
    for rows in order.split(mini_batch_size):
        mask = attention_mask[rows]
        used = mask.any(dim=0)
        output = model(input_ids=input_ids[rows][:, used], attention_mask=mask[:, used], output_all_exits=True)
        parts.append(output.exit_embeddings)
    places = order.argsort()
    exits = getattr(model, "module", model).exit_layers
    embeddings = {e: torch.cat(chunks)[places] for e, chunks in zip(exits, zip(*parts, strict=True), strict=True)}
    return embeddings, output.similarity_scale


class FineTuningTrainer(Trainer):
    """Fine-tunes a `MoSEModel` on pairs: the CLIP loss at every exit, weighed by its depth.

    L = Σ_i w_i (c · CLIP_i + k · KL_i + v · COS_i) over the exits i, with w_i = `config.exit_weights`; KL and COS
    only where there is a teacher.

    Args:
        teacher_vectors: (n, hidden), where a teacher is wanted. Batches then carry `teacher_query` and
            `teacher_document`, rows of it (`mose.training.teacher.attach_teacher`).
        Others as in `Trainer`; `data_collator` is a `mose.data.collators.PairCollator`.

    Raises:
        ValueError: the CLIP loss has no weight and there is no teacher, or `args.learning_rate_multipliers`
            names no parameter.
    """

    args: FineTuningArguments
    model: MoSEModel

    def __init__(self, *args, teacher_vectors: Tensor | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        if teacher_vectors is None and self.args.contrastive_weight == 0:
            raise ValueError("contrastive_weight=0: without a teacher nothing is left to learn from")
        for part in self.args.multipliers:
            if not any(part in name for name, _ in self.model.named_parameters()):
                raise ValueError(f"learning_rate_multipliers: no parameter's name holds {part!r}")
        # Each part is a mean over the batch; Trainer is to divide by its accumulation steps.
        self.model_accepts_loss_kwargs = False
        self.teacher_vectors = None if teacher_vectors is None else teacher_vectors.to(self.args.device)
        self._parts: dict[bool, dict[str, list[Tensor]]] = {True: defaultdict(list), False: defaultdict(list)}

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        size = self.args.mini_batch_size
        queries, scale = embed(model, inputs["query_input_ids"], inputs["query_attention_mask"], size)
        documents, _ = embed(model, inputs["document_input_ids"], inputs["document_attention_mask"], size)
        taught = None
        if self.teacher_vectors is not None:
            taught = (
                self.teacher_vectors[inputs["teacher_query"]],
                self.teacher_vectors[inputs["teacher_document"]],
            )
        losses = {e: self._exit_loss(e, queries[e], documents[e], scale, taught) for e in queries}
        loss = weighted_sum(losses, self._weights())
        self._note("similarity_scale", scale.mean())
        return (loss, (queries, documents)) if return_outputs else loss

    def _weights(self) -> dict[int, float]:
        return self.accelerator.unwrap_model(self.model).config.exit_weights

    def _exit_loss(
        self,
        exit_layer: int,
        queries: Tensor,
        documents: Tensor,
        scale: Tensor,
        taught: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        parts = {"contrastive": (self.args.contrastive_weight, clip_loss(queries, documents, scale))}
        if taught is not None:
            kl = similarity_kl_loss(
                similarities(queries, documents),
                similarities(*taught),
                self.args.teacher_temperature,
            )
            cosine = (cosine_loss(queries, taught[0]) + cosine_loss(documents, taught[1])) / 2
            parts["teacher_kl"] = (self.args.teacher_kl_weight, kl)
            parts["teacher_cosine"] = (self.args.teacher_cosine_weight, cosine)
        for name, (_, part) in parts.items():
            self._note(f"{name}_loss_exit_{exit_layer}", part)
        return torch.stack([weight * part for weight, part in parts.values()]).sum()

    def _note(self, name: str, value: Tensor) -> None:
        """Keeps a figure for the next line of the log, on the device: reading it would wait for the step."""
        self._parts[self.model.training][name].append(value.detach())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # "loss" while training, "eval_loss" after an evaluation; "train_loss" ends the run and is none of these.
        losses = [key for key in logs if key.endswith("loss") and key != "train_loss"]
        if losses:
            prefix = losses[0].removesuffix("loss")
            parts = self._parts[not prefix]
            logs |= {prefix + name: torch.stack(values).mean().item() for name, values in parts.items()}
            parts.clear()
        super().log(logs, start_time)

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

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.args.should_save:
            write_sentence_transformers_files(Path(str(output_dir or self.args.output_dir)))
