"""A report's figures as the `model-index` of a model card's YAML header, from which the Hub shows them."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
from huggingface_hub.utils import yaml_dump

from mose.eval.report import check_measures, report_measures
from mose.utils.files import atomic_write_text

#: Metrics of a report that a generated card shows.
CARD_METRICS = ("mrr", "ndcg@10", "map@r", "f1")
_KEY = "model-index"
_HEADER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


def eval_results(report: Mapping[str, Any], metrics: Sequence[str] = CARD_METRICS) -> list[EvalResult]:
    """Return a report's figures for the `model-index`: one result per set, exit and metric that it has."""
    results = []

    for name, data in report["sets"].items():
        # The Hub needs an id for the dataset; a local set has only its name.
        dataset = {"dataset_type": data.get("source") or re.sub(r"[^\w./-]+", "-", name), "dataset_name": name}

        for exit_layer, figures in data["exits"].items():
            for metric in metrics:
                if isinstance(figures.get(metric), int | float):
                    results.append(
                        EvalResult(
                            task_type="text-retrieval",
                            **dataset,
                            metric_type=metric,
                            metric_value=round(float(figures[metric]), 4),
                            metric_name=f"{metric} at exit {exit_layer}",
                            metric_args={"exit_layer": int(exit_layer)},
                        )
                    )

    return results


def update_card(report: dict[str, Any], path: str | Path, metrics: Sequence[str] | None = None) -> None:
    """Put every exit's figures into the `model-index` of an existing card; all other bytes stay the same.

    Results of other datasets are kept. Those of the report's sets are replaced, so a second call changes nothing.

    Args:
        report: from `mose.eval.retrieval.evaluate`.
        path: the card.
        metrics: of the report; None means all.

    Raises:
        FileNotFoundError: there is no card.
        ValueError: a metric that the report does not have, or a header that is not the Hub's YAML.
    """
    old = Path(path).read_bytes().decode("utf-8")
    new = card_with_results(old, report, metrics)
    if new != old:
        atomic_write_text(path, new)


def card_with_results(card: str, report: dict[str, Any], metrics: Sequence[str] | None = None) -> str:
    """Return the text of a card with the report's figures in its header, see `update_card`."""
    check_measures(report, metrics or ())
    new_results = eval_results(report, metrics or report_measures(report))

    header = _HEADER.match(card)
    lines = header.group(1).splitlines(keepends=True) if header else []
    start, end = _index_lines(lines)
    name = report.get("settings", {}).get("model", "mose")
    old_results: list[EvalResult] = []

    if start < end:
        old_name, old_results = _read_index(card)
        name = old_name or name

    replaced = {result.unique_identifier for result in new_results}
    results = [result for result in old_results if result.unique_identifier not in replaced] + new_results

    # Write the new block with the card's own line ends.
    newline = "\r\n" if "\r\n" in card else "\n"
    block = yaml_dump({_KEY: eval_results_to_model_index(name, results)}, sort_keys=False)
    yaml = "".join(lines[:start]) + block.replace("\n", newline) + "".join(lines[end:])
    if header:
        new = card[: header.start(1)] + yaml + card[header.end(1) :]
    else:
        new = f"---{newline}{yaml}---{newline}{newline}{card}"

    # YAML that the Hub reads differently, such as a duplicate key, must not get into the card unnoticed.
    if model_index_to_eval_results(ModelCard(new).data.to_dict()[_KEY]) != (name, results):
        raise ValueError("the card's header cannot hold the report's figures. Check that it is the Hub's YAML.")
    return new


def _read_index(card: str) -> tuple[str | None, list[EvalResult]]:
    """Return the model's name and the results in a card's `model-index`."""
    try:
        data: Any = ModelCard(card, ignore_metadata_errors=False).data
        return data.model_name, list(data.eval_results or [])
    except Exception as error:  # from the YAML parser, or from the Hub client for what it reads
        raise ValueError(f"the card's header cannot be read: {error}") from error


def _index_lines(lines: list[str]) -> tuple[int, int]:
    """Return which lines of the header are the `model-index`: none, at its end, if there is no such key."""
    for start, line in enumerate(lines):
        if line.startswith(f"{_KEY}:"):
            end = start + 1
            while end < len(lines) and (not lines[end].strip() or lines[end][0] in " \t-"):
                end += 1

            # Blank lines belong to the next key.
            while not lines[end - 1].strip():
                end -= 1
            return start, end

    return len(lines), len(lines)
