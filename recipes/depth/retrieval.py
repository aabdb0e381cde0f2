"""Reciprocal ranks of a model at its exits on the sets of `prepare.py`."""

from collections.abc import Sequence

import numpy as np
import torch
from arrays import DeviceTexts, Texts
from torch import Tensor
from training_steps import eager_blocks

from mose.modeling_mose import MoSEModel

SIZE, BATCH = 256, 512


class EvaluationSets:
    """Evaluation sets on a device: queries, documents, and which document answers which query."""

    def __init__(self, texts: dict[str, Texts], columns: dict[str, np.ndarray], device: torch.device):
        self.names = [name.removesuffix("/qrels") for name in columns]
        self.texts: dict[str, DeviceTexts] = {name: value.to(device) for name, value in texts.items()}
        self.relevant = {name: torch.from_numpy(columns[f"{name}/qrels"]).to(device) for name in self.names}

    @torch.no_grad()
    def reciprocal_ranks(self, model: MoSEModel, exits: Sequence[int]) -> dict[int, dict[str, np.ndarray]]:
        """Return exit -> set -> (queries,) reciprocal rank of the best answer among all documents."""
        ranks: dict[int, dict[str, np.ndarray]] = {e: {} for e in exits}
        was_training = model.training
        model.eval()
        with eager_blocks(model):
            for name in self.names:
                queries = self._embed(model, f"{name}/queries")
                documents = self._embed(model, f"{name}/corpus")
                for position, e in enumerate(exits):
                    ranks[e][name] = _reciprocal_ranks(
                        queries[position], documents[position], self.relevant[name]
                    )
        model.train(was_training)
        return ranks

    def _embed(self, model: MoSEModel, name: str) -> list[Tensor]:
        """Return (texts, dim) at each exit, in float32."""
        texts, parts = self.texts[name], []
        for start in range(0, len(texts), BATCH):
            rows = torch.arange(start, min(start + BATCH, len(texts)), device=texts.ids.device)
            size = min(SIZE, int(texts.lengths[rows].max()))
            ids, mask = texts.batch(rows, size)
            with torch.autocast(ids.device.type, torch.bfloat16):
                parts.append(model(ids, mask, output_all_exits=True).exit_embeddings)
        return [torch.cat(chunks).float() for chunks in zip(*parts, strict=True)]


def _reciprocal_ranks(queries: Tensor, documents: Tensor, relevant: Tensor) -> np.ndarray:
    """Return (queries,) 1 / rank of the best relevant document; `relevant` is (pairs, 2) of positions."""
    scores = queries @ documents.T
    best = torch.full((len(queries),), -torch.inf, device=scores.device)
    best = best.scatter_reduce(0, relevant[:, 0], scores[relevant[:, 0], relevant[:, 1]], "amax")
    ranks = 1 + (scores > best[:, None]).sum(dim=1)
    return (1 / ranks.double()).cpu().numpy().astype(np.float32)
