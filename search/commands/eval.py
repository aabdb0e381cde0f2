"""`python -m mose.search eval`: measure the ranking on labelled queries about real repositories."""

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mose.search.commands import shared
from mose.utils.command_line import named_path
from mose.utils.files import atomic_write_text
from mose.utils.locations import package_folder


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = (
        "folder of queries.jsonl (repository, query, category, relevant, secondary) and of one NAME.jsonl (path, "
    )
    parser.add_argument("folder", type=named_path, metavar="FOLDER", help=f"{text}content) for each repository")
    text = "folder or Hub id of a MoSE (default: the shipped model)"
    parser.add_argument("--model", default=str(package_folder()), help=text)
    text = "exits to index and query at, in blocks run (default: the deepest)"
    parser.add_argument("--exit-layer", type=int, nargs="+", metavar="K", help=text)
    text = "file of queries about what no repository holds, one a line, to judge the scores with"
    parser.add_argument("--absent", type=Path, metavar="FILE", help=text)
    text = "folder in which to keep the indexes for the next run (default: they are not kept)"
    parser.add_argument("--indexes", type=Path, metavar="DIR", help=text)
    text = "file for the figures; - prints them instead of the tables"
    parser.add_argument("--json", metavar="PATH", help=text)


def run(options: argparse.Namespace) -> None:
    """Index the repositories, run the queries, and print tables of NDCG@10."""
    from mose.search.evaluation.dataset import read_labelled_repositories

    data = read_labelled_repositories(options.folder)
    absent = [] if options.absent is None else options.absent.read_text(encoding="utf-8").split("\n")
    absent = [line.strip() for line in absent if line.strip()]

    timings = shared.Timings()
    depth = max(options.exit_layer) if options.exit_layer else None
    model, tokenizer = shared.load_search_model(options.model, depth, timings)

    # These import torch.
    from mose.search.evaluation.figures import ablation_figures, confidence_figures, ranking_figures
    from mose.search.evaluation.trials import collect_trials

    document: dict[str, Any] = {"folder": str(options.folder), "model": options.model, "exits": {}}
    for exit_layer in options.exit_layer or [model.config.resolve_exit_layer(None)]:
        with timings.measure(f"exit {exit_layer}"):
            trials = collect_trials(data, model, tokenizer, exit_layer, options.indexes, absent)
            figures = {"ranking": ranking_figures(trials), "without": ablation_figures(trials)}
            figures |= {"confidence": confidence_figures(trials)} if absent else {}
        document["exits"][str(exit_layer)] = {"queries": len(trials.trials), "units": trials.units, **figures}

    document["seconds"] = timings
    if options.json not in (None, "-"):
        atomic_write_text(Path(options.json), json.dumps(document, indent=1))
    print(json.dumps(document, indent=1) if options.json == "-" else render_evaluation(document))


def render_evaluation(document: Mapping[str, Any]) -> str:
    """Return the figures as tables: rows are ways to rank, columns are groups of queries."""
    lines = []
    for exit_layer, figures in document["exits"].items():
        units = sum(figures["units"].values())
        lines.append(f"NDCG@10 over files, {figures['queries']} queries, {units:,} units, exit {exit_layer}")
        lines += ["", *_table(figures["ranking"])]

        full = figures["ranking"]["ranking"]["all"]
        lines += ["", "without one ranking function", ""]
        lines += [
            f"{name:32} {row['all']:.3f} ({row['all'] - full:+.3f})" for name, row in figures["without"].items()
        ]
        if "confidence" in figures:
            row = figures["confidence"]
            lines += [
                "",
                f"score: AUC {row['auc']:.4f} between {row['present']} queries and {row['absent']} about ",
            ]
            lines[-1] += f"what is not there; at least 0.5 have {row['present_at_least_half']:.1%} and "
            lines[-1] += f"{row['absent_at_least_half']:.1%}"
        lines.append("")
    return "\n".join([*lines, str(document["seconds"])])


def _table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    columns = list(next(iter(rows.values())))
    lines = [" " * 24 + "  ".join(f"{column[:12]:>12}" for column in columns)]
    for name, row in rows.items():
        lines.append(f"{name:24}" + "  ".join(f"{row[column]:12.3f}" for column in columns))
    return lines
