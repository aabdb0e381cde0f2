"""Quality on development sets while a model trains: `curve.jsonl`, a line for each point, stage and run."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, TrainerCallback

from mose.data.retrieval.retrieval_set import load_retrieval_set
from mose.eval.retrieval import evaluate
from mose.training.finetuning.arguments import supports_bf16

MAX_LENGTH = 256


def mean_mrr(mrr: Mapping[str, Mapping[str, float]], exit_layer: str, starts: Sequence[str]) -> float | None:
    """Return the mean of one exit over the sets whose names begin so; None without such a set or exit.

    `mrr` is that of a line of `curve.jsonl`. An exit may also be two, such as `0 on 3`.
    """
    rows = [exits for name, exits in mrr.items() if name.startswith(tuple(starts))]
    values = [exits[exit_layer] for exits in rows if exit_layer in exits]
    return sum(values) / len(values) if values else None


class DevelopmentCurve(TrainerCallback):
    """Appends the MRR of every exit on every set to a file, each `every` steps and at the end of a stage.

    A line has `stage`, `step`, `pairs` (seen in this stage) and `mrr`: set -> exit -> MRR over the whole corpus.
    Behind the exits comes `0 on 3`: queries at the shallowest exit on documents at the deepest. A run that
    resumes may write a step again; the last line counts.
    """

    def __init__(
        self, stage: str, folders: Sequence[Path], tokenizer: PreTrainedTokenizerBase, path: Path, every: int
    ):
        self.stage, self.tokenizer, self.path, self.every = stage, tokenizer, path, every
        self.sets = [load_retrieval_set(str(folder)) for folder in folders]

    def on_step_end(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        """Measure if it is time. Training goes on in the mode and with the random numbers that it had."""
        if state.global_step % self.every and state.global_step != state.max_steps:
            return

        dtype = torch.bfloat16 if supports_bf16() else None
        with torch.random.fork_rng():
            model.eval()
            report = evaluate(
                model,
                self.tokenizer,
                self.sets,
                max_length=MAX_LENGTH,
                dtype=dtype,
                measure_speed=False,
                certainty=False,
            )
            model.train()

        mrr = {name: set_mrr(entry) for name, entry in report["sets"].items()}
        step_pairs = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        line = {
            "stage": self.stage,
            "step": state.global_step,
            "pairs": state.global_step * step_pairs,
            "mrr": mrr,
        }
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")


def set_mrr(entry: Mapping[str, Any]) -> dict[str, float]:
    """Return a line's `mrr` of one set, from the set's entry of a report (`mose.eval.evaluate`)."""
    values = {exit_layer: row["mrr"] for exit_layer, row in entry["exits"].items()}
    exits = list(values)
    shallowest, deepest = exits[0], exits[-1]
    if shallowest != deepest:
        values[f"{shallowest} on {deepest}"] = entry["across_exits"][shallowest][deepest]
    return {name: round(value, 4) for name, value in values.items()}
