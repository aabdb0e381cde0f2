#!/usr/bin/env python
"""Fine-tune the arms of the comparison, and write every query's reciprocal rank at every exit.

    python recipes/depth/finetune.py --trunks runs/depth --data runs/depth --output-dir runs/depth/results

`--trunks` holds the folders of `pretrain.py`, one per arm. A run that has its result is not repeated. Several
commands may share the runs: each does one at a time that no other is doing.
"""

import argparse
import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from arrays import DeviceTexts, load
from filelock import FileLock, Timeout
from retrieval import EvaluationSets
from safetensors.torch import load_file
from torch import Tensor
from training_steps import MAX_NORM, choose_device, compile_blocks, make_optimizer, set_learning_rate

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import SIMILARITY_SCALE_RANGE, MoSEModel
from mose.training.finetuning.initialization import start_from_trunk
from mose.training.finetuning.objective import Batch, Objective
from mose.training.losses import cosine_loss
from mose.utils.command_line import exit_status
from mose.utils.files import atomic_write_json

BLOCKS, EXITS = 6, (1, 2, 3, 4, 6)
SIZE = 160
MULTIPLIERS = {"gate": 10.0, "embed_tokens": 0.5}
#: Share of the steps over which the weight of self-distillation grows to 1: at first, deep exits know nothing.
DISTILLATION_WARMUP = 0.5
#: Share of the steps of a run that the distillation of a cut model takes.
CUT_SHARE = 0.2


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        name: of the arm.
        trunk: arm of the pre-training to start from; None for random weights.
        exits: exits that are trained.
        distillation: "none", "kl" or "cosine", as in `train_hf.py finetune`.
        equal_weights: weigh all exits alike, not by their depth as the paper does.
        cut: also evaluate the model cut at each shallower exit, as it is and after a short distillation.
        seed: seed of order and new weights.
        pairs: pairs of text and code to train on; there are as many of code and code.
        epochs: passes over the pairs.
    """

    name: str
    trunk: str | None
    exits: tuple[int, ...]
    distillation: str = "none"
    equal_weights: bool = False
    cut: bool = False
    seed: int = 0
    pairs: int = 40_000
    epochs: int = 1

    @property
    def file_name(self) -> str:
        """Name of the result, without a suffix."""
        return f"{self.name}-{self.pairs}x{self.epochs}-seed{self.seed}"

    @property
    def last_result(self) -> str:
        """Name of the result that the run writes last, without a suffix."""
        return replace(self, name=f"cut-distilled-{EXITS[-2]}").file_name if self.cut else self.file_name


def planned_runs(seed: int, few_pairs: int) -> Iterator[Run]:
    """Yield the runs of a seed, the most important first."""
    plan = Run("multi", "all", EXITS, seed=seed)
    yield plan
    yield from (replace(plan, name=f"single-{e}", exits=(e,), cut=e == BLOCKS) for e in EXITS)
    yield from (replace(plan, name=f"plain-single-{e}", trunk="deepest", exits=(e,)) for e in EXITS)
    yield replace(plan, name="multi-equal", equal_weights=True)
    yield replace(plan, name="plain-multi", trunk="deepest")
    yield replace(plan, name="mlm-multi", trunk="mlm")
    yield replace(plan, name="scratch-multi", trunk=None)
    yield replace(plan, name="multi-kl", distillation="kl")
    yield replace(plan, name="multi-cosine", distillation="cosine")

    scarce = replace(plan, pairs=few_pairs, epochs=2)
    yield scarce
    yield from (replace(scarce, name=f"single-{e}", exits=(e,)) for e in EXITS)
    yield from (replace(scarce, name=f"plain-single-{e}", trunk="deepest", exits=(e,)) for e in EXITS)
    yield from (replace(plan, name=f"scratch-single-{e}", trunk=None, exits=(e,)) for e in EXITS)


def build_model(exits: Sequence[int], trunk: Path | None, vocabulary: int) -> MoSEModel:
    """Return a model with these exits, from a pre-trained trunk (`start_from_trunk`) or from random weights."""
    config = MoSEConfig.from_preset(
        "mose-nano-256", num_hidden_layers=BLOCKS, exit_layers=list(exits), vocab_size=vocabulary
    )
    model = MoSEModel(config)
    if trunk is None:
        return model

    # Gates, projections and the scale are not pre-trained: each seed draws its own.
    start_from_trunk(model, load_file(trunk / "model.safetensors"))
    return model


def cut_model(model: MoSEModel, exit_layer: int) -> MoSEModel:
    """Return the first blocks of a model whose only exit is its deepest, with that exit's head."""
    settings = model.config.to_dict() | {"exit_layers": [exit_layer], "num_hidden_layers": BLOCKS}
    shallow = MoSEModel(MoSEConfig(**settings)).to(model.device)
    state = {
        name.replace(f"exits.{BLOCKS}.", f"exits.{exit_layer}."): tensor
        for name, tensor in model.state_dict().items()
    }
    shallow.load_state_dict({name: tensor for name, tensor in state.items() if name in shallow.state_dict()})
    return shallow


class Trainer:
    """Fine-tunes models on the pairs of a file, half of each batch text and code, half code and code."""

    def __init__(self, options: argparse.Namespace, device: torch.device):
        self.options, self.device = options, device
        texts, columns = load(options.data / "pairs.npz")
        self.sides: dict[str, DeviceTexts] = {side: value.to(device) for side, value in texts.items()}
        self.keys = torch.from_numpy(columns["keys"]).to(device)
        self.of_text = np.flatnonzero(~columns["code_query"])
        self.of_code = np.flatnonzero(columns["code_query"])
        self.evaluation = EvaluationSets(*load(options.data / "sets.npz"), device)

    def batches(self, run: Run) -> list[np.ndarray]:
        """Return the pairs of each step. All runs of a size see the same pairs, in the order of their seed."""
        # The pairs are drawn once for all seeds.
        fixed = np.random.default_rng(16)
        text = fixed.permutation(self.of_text)[: run.pairs]
        code = fixed.permutation(self.of_code)
        code = np.tile(code, -(-run.pairs // len(code)))[: len(text)]

        rng, half = np.random.default_rng(run.seed), self.options.batch_size // 2
        batches = []
        for _ in range(run.epochs):
            orders = rng.permutation(text), rng.permutation(code)
            for start in range(0, len(text) - half + 1, half):
                batches.append(np.concatenate([order[start : start + half] for order in orders]))
        return batches

    def embed(self, model: MoSEModel, rows: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
        """Return the embeddings of queries and documents at every exit, (pairs, dim) each, and the scale."""
        parts = [self.sides[side].batch(rows, SIZE) for side in ("query", "document")]
        ids, mask = (torch.cat(part) for part in zip(*parts, strict=True))
        with torch.autocast(self.device.type, torch.bfloat16):
            output = model(ids, mask, output_all_exits=True)
        halves = [embedding.float().chunk(2) for embedding in output.exit_embeddings]
        queries, documents = (
            dict(zip(model.exit_layers, side, strict=True)) for side in zip(*halves, strict=True)
        )
        return queries, documents, output.similarity_scale

    def optimize(self, model: MoSEModel, batches: Sequence[np.ndarray], rate: float, loss_of: Any) -> list[float]:
        """Train a model and return losses on the way; `loss_of` computes that of rows at a share of the run."""
        model.train()
        if self.options.compile:
            compile_blocks(model)
        optimizer = make_optimizer(model, rate, MULTIPLIERS)
        losses = []

        for step, batch in enumerate(batches):
            rows = torch.from_numpy(batch).to(self.device)
            set_learning_rate(optimizer, step, len(batches))
            loss = loss_of(model, rows, step / len(batches))
            loss.backward()

            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                model.similarity_scale.clamp_(*SIMILARITY_SCALE_RANGE)
            if step % 25 == 0 or step + 1 == len(batches):
                losses.append(loss.item())
        return losses

    def run(self, run: Run) -> None:
        """Train and evaluate one run, and write its result."""
        started = time.perf_counter()
        torch.manual_seed(run.seed)
        trunk = None if run.trunk is None else self.options.trunks / run.trunk
        model = build_model(run.exits, trunk, self.options.vocab_size).to(self.device)
        rate = self.options.scratch_learning_rate if trunk is None else self.options.learning_rate
        objective = Objective(distillation=run.distillation)
        weights = dict.fromkeys(run.exits, 1.0) if run.equal_weights else model.config.exit_weights

        def loss_of(model: MoSEModel, rows: Tensor, share: float) -> Tensor:
            queries, documents, scale = self.embed(model, rows)
            weight = min(1.0, share / DISTILLATION_WARMUP)
            batch = Batch(queries, documents, scale, keys=self.keys[rows])
            return replace(objective, distillation_weight=weight)(batch, weights)[0]

        batches = self.batches(run)
        losses = self.optimize(model, batches, rate, loss_of)
        ranks = self.evaluation.reciprocal_ranks(model, run.exits)
        self.write(run, ranks, losses, rate, len(batches), started)

        if run.cut:
            self._cut(run, model, batches)
        if run.seed == 0 and run.name == "multi" and run.epochs == 1:
            model.save_pretrained(self.options.output_dir / "model-multi")

    def _cut(self, run: Run, teacher: MoSEModel, batches: Sequence[np.ndarray]) -> None:
        """Evaluate a single-exit model cut at shallower blocks: as it is, and after a short distillation."""
        rate, steps = self.options.learning_rate, round(CUT_SHARE * len(batches))
        teacher.eval()

        def loss_of(model: MoSEModel, rows: Tensor, share: float) -> Tensor:
            with torch.no_grad():
                targets = self.embed(teacher, rows)
            own = self.embed(model, rows)
            exit_layer = model.exit_layers[-1]
            pairs = ((own[side][exit_layer], targets[side][BLOCKS]) for side in (0, 1))
            return torch.stack([cosine_loss(student, target) for student, target in pairs]).sum()

        for exit_layer in EXITS[:-1]:
            started = time.perf_counter()
            shallow = cut_model(teacher, exit_layer)
            ranks = self.evaluation.reciprocal_ranks(shallow, (exit_layer,))
            self.write(replace(run, name=f"cut-{exit_layer}", exits=(exit_layer,)), ranks, [], 0.0, 0, started)

            losses = self.optimize(shallow, batches[:steps], rate, loss_of)
            ranks = self.evaluation.reciprocal_ranks(shallow, (exit_layer,))
            name = f"cut-distilled-{exit_layer}"
            self.write(replace(run, name=name, exits=(exit_layer,)), ranks, losses, rate, steps, started)

    def write(
        self, run: Run, ranks: dict, losses: Sequence[float], rate: float, steps: int, started: float
    ) -> None:
        """Write a result: a summary in JSON, and every query's reciprocal rank."""
        path = self.options.output_dir / run.file_name
        rows = {f"{e}/{name}": values for e, sets in ranks.items() for name, values in sets.items()}
        np.savez_compressed(path.with_suffix(".npz"), **{name: v.astype(np.float16) for name, v in rows.items()})
        summary = {
            **asdict(run),
            "learning_rate": rate,
            "steps": steps,
            "batch_size": self.options.batch_size,
            "seconds": round(time.perf_counter() - started, 1),
            "losses": [round(loss, 4) for loss in losses],
            "mrr": {e: {n: round(float(v.mean()), 4) for n, v in sets.items()} for e, sets in ranks.items()},
        }
        atomic_write_json(path.with_suffix(".json"), summary)
        means = {e: round(float(np.mean([v.mean() for v in sets.values()])), 4) for e, sets in ranks.items()}
        print(run.file_name, summary["seconds"], "s, mean MRR", means, flush=True)


def do_runs(options: argparse.Namespace) -> None:
    """Do the runs that have no result and that no other process is doing."""
    options.output_dir.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(options, choose_device())
    runs = [run for seed in options.seeds for run in planned_runs(seed, options.few_pairs)]
    if options.only:
        runs = [run for run in runs if run.name in options.only and run.epochs == 1]

    for run in runs:
        # A lock ends with its process: a killed run is done again.
        with contextlib.suppress(Timeout), FileLock(options.output_dir / f"{run.file_name}.lock", timeout=0):
            if not (options.output_dir / f"{run.last_result}.json").exists():
                trainer.run(run)


def main() -> int:
    """Do the runs and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trunks", type=Path, required=True, help="folder with the folders of pretrain.py")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with pairs.npz and sets.npz of prepare.py"
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="seeds of the runs")
    parser.add_argument("--only", nargs="+", help="names of the arms to run; default: all")
    parser.add_argument("--batch-size", type=int, default=128, help="pairs of a step")
    parser.add_argument("--few-pairs", type=int, default=4000, help="pairs of text and code of the scarce runs")
    parser.add_argument("--learning-rate", type=float, default=5e-4, help="peak rate of pre-trained trunks")
    parser.add_argument("--scratch-learning-rate", type=float, default=1e-3, help="peak rate of random weights")
    parser.add_argument("--vocab-size", type=int, default=16_384, help="tokens of the tokenizer")
    parser.add_argument("--compile", action="store_true", help="compile the blocks (needs a compiler)")

    options = parser.parse_args()
    return exit_status(parser.prog, lambda: do_runs(options))


if __name__ == "__main__":
    sys.exit(main())
