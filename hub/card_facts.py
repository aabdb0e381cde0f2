"""What a card is made of: figures of a report, the account of a training run, names on the Hub."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard

#: What a finished training run says of itself; `Trainer`s of `mose.training` write it beside the weights.
SUMMARY = "training_summary.json"
#: Which of a report's measures a card shows.
METRICS = ("mrr", "ndcg@10", "map@r", "f1")


def eval_results(report: Mapping[str, Any], metrics: tuple[str, ...] = METRICS) -> list[EvalResult]:
    """A report's figures as the Hub's `model-index` takes them: one result per set, exit and metric.

    Args:
        report: as `mose.eval.retrieval.evaluate` returns it.
        metrics: which of its metrics; those that a set does not have are passed over.
    """
    found = []
    for name, data in report["sets"].items():
        for exit_layer, figures in data["exits"].items():
            for metric in metrics:
                if isinstance(figures.get(metric), int | float):
                    found.append(
                        EvalResult(
                            task_type="text-retrieval",
                            dataset_type=data.get("source") or re.sub(r"[^\w./-]+", "-", name),
                            dataset_name=name,
                            metric_type=metric,
                            metric_value=round(float(figures[metric]), 4),
                            metric_name=f"{metric} at exit {exit_layer}",
                            metric_args={"exit_layer": int(exit_layer)},
                        )
                    )
    return found


def adapter_base(folder: Path) -> str:
    """The Hub's id of the model that an adapter belongs to.

    Raises:
        ValueError: it names none, or a folder, which nobody else has.
    """
    try:
        base = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder}: adapter_config.json names no base model") from error
    if hub_id(base) is None or Path(base).exists():
        raise ValueError(
            f"{folder}: its base_model_name_or_path is {base!r}, which others cannot load; publish the base, and "
            "write its id there"
        )
    return base


def card_license(folder: Path) -> str | None:
    """The weights' licence as the card in a folder names it; None where there is no card, or none in it."""
    try:
        return ModelCard.load(folder / "README.md").data.license
    except (OSError, ValueError, yaml.YAMLError):
        return None


def training_summary(folder: Path) -> dict[str, Any]:
    """What is known of the run that made the weights in a folder; empty where nothing is."""
    for name in (SUMMARY, "trainer_state.json"):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if name == SUMMARY:
            return found
        last = {k: v for entry in found.get("log_history", []) for k, v in entry.items() if "loss" in k}
        return {
            "steps": found.get("global_step"),
            "epochs": found.get("epoch"),
            "arguments": {"per_device_train_batch_size": found.get("train_batch_size")},
            "losses": last,
        }
    return {}


def hub_id(name: Any) -> str | None:
    """`name` where it looks like an id on the Hub rather than a path on somebody's machine."""
    return name if isinstance(name, str) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) else None
