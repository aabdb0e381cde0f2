"""Figures of a report in a model card: the `model-index` of its YAML header, which the Hub shows."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from mose.eval.report import measures_of
from mose.utils.files import atomic_write

_KEY = "model-index"
_HEADER = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)


#: Metrics of a report that a generated card shows.
CARD_METRICS = ("mrr", "ndcg@10", "map@r", "f1")


def eval_results(report: Mapping[str, Any], metrics: Sequence[str] = CARD_METRICS) -> list[EvalResult]:
    """Return a report's figures as the Hub's `model-index` takes them: one result per set, exit and metric.

    Args:
        report: as `mose.eval.retrieval.evaluate` returns it.
        metrics: of the report; a metric that a set does not have is skipped.
    """
    results = []
    for name, data in report["sets"].items():
        for exit_layer, figures in data["exits"].items():
            for metric in metrics:
                if isinstance(figures.get(metric), int | float):
                    results.append(
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
    return results


def write_card(report: dict[str, Any], file: str | Path, measures: Sequence[str] | None = None) -> None:
    """Puts every exit's figures into the `model-index` of a model card; every other byte stays as it is.

    Results of other data sets in it stay; those of the report's sets are replaced, so that a second time changes
    nothing.

    Args:
        report: as `evaluate` returns it.
        file: the card, which must exist.
        measures: which of the report's; None means all.

    Raises:
        FileNotFoundError: there is no card.
        ValueError: a measure that the report does not hold, or a header that is not the Hub's YAML.
    """
    file = Path(file)
    old = file.read_bytes().decode("utf-8")
    new = card_with_results(old, report, measures)
    if new != old:
        with atomic_write(file) as stream:
            stream.write(new.encode())


def card_with_results(card: str, report: dict[str, Any], measures: Sequence[str] | None = None) -> str:
    """The text of the card with the report's figures; see `write_card`."""
    from huggingface_hub import ModelCard
    from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results
    from huggingface_hub.utils import yaml_dump

    held = measures_of(report)
    for measure in measures or ():
        if measure not in held:
            raise ValueError(f"measure {measure!r}: the report holds {', '.join(held)}")
    ours = eval_results(report, tuple(measures or held))
    header = _HEADER.match(card)
    lines = header.group(1).splitlines(keepends=True) if header else []
    start, end = _place(lines)
    name, kept = report.get("settings", {}).get("model", "mose"), []
    try:
        if start < end:
            known: Any = ModelCard(card, ignore_metadata_errors=False).data
            name, kept = known.model_name or name, list(known.eval_results or [])
    except Exception as error:  # of the YAML parser, or of the Hub client on what it holds
        raise ValueError(f"the card's header cannot be read: {error}") from error
    sets = {result.unique_identifier for result in ours}
    results = [result for result in kept if result.unique_identifier not in sets] + ours
    block = yaml_dump({_KEY: eval_results_to_model_index(name, results)}, sort_keys=False)
    newline = "\r\n" if "\r\n" in card else "\n"
    text = "".join(lines[:start]) + block.replace("\n", newline) + "".join(lines[end:])
    rest = card[header.end() :] if header else newline + card
    opening = card[: header.start(1)] if header else f"---{newline}"
    closing = card[header.end(1) : header.end()] if header else f"---{newline}"
    new = opening + text + closing + rest
    written = model_index_to_eval_results(ModelCard(new).data.to_dict()[_KEY])
    if written != (name, results):
        raise ValueError("the card's header would not say what the report does; is it the Hub's YAML?")
    return new


def _place(lines: list[str]) -> tuple[int, int]:
    """Which lines of the header are the `model-index`; none at its end, where there is none yet."""
    for start, line in enumerate(lines):
        if line.startswith(f"{_KEY}:"):
            end = start + 1
            while end < len(lines) and (not lines[end].strip() or lines[end][0] in " \t-"):
                end += 1
            while not lines[end - 1].strip():
                end -= 1  # blank lines belong to what follows
            return start, end
    return len(lines), len(lines)
