"""`python -m mose.eval tasks`: the list of benchmarks, and the paper's figures on them."""

import argparse
import json
import shutil
import textwrap
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "List the benchmarks that `run` knows, with size, measures, dataset and the paper's figures."
    )
    parser.add_argument("--list", action="store_true", help="print the list, which is the default")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print one JSON document")
    output.add_argument("--markdown", action="store_true", help="print the table of docs/tasks.md")


def run(options: argparse.Namespace) -> None:
    """Print the list."""
    if options.json:
        print(json.dumps(task_catalogue(), indent=2, ensure_ascii=False))
    else:
        print(markdown_table() if options.markdown else listing())


def listing() -> str:
    """Return the list for a terminal, wrapped at its width."""
    width = max(60, shutil.get_terminal_size((110, 24)).columns)
    blocks = []

    for name, task in task_catalogue().items():
        lines = [f"size: {task['size']}; measures: {', '.join(task['measures'])}"]
        if task["dataset"]:
            lines.append(f"dataset: {task['dataset']} @ {task['revision'][:12]}, split {task['split']}")
        lines.append(f"--data: {task['layout']}")
        if task["subsets"]:
            lines.append(f"--subsets: {' '.join(task['subsets'])}")
        if paper := paper_line(task["paper"]):
            lines.append(f"paper: {paper}")
        if task["note"]:
            lines.append(f"note: {task['note']}")

        heading = textwrap.fill(f"{name}: {task['title']}", width, subsequent_indent="    ")
        body = [textwrap.fill(line, width, initial_indent="  ", subsequent_indent="    ") for line in lines]
        blocks.append("\n".join([heading, *body]))

    return "\n\n".join(blocks)


def markdown_table() -> str:
    """Return the list as the table of docs/tasks.md."""
    rows = ["| task | what it asks | size | measures | the paper | dataset |", "|---|---|---|---|---|---|"]
    for name, task in task_catalogue().items():
        dataset = f"`{task['dataset']}` @ `{task['revision'][:7]}`" if task["dataset"] else "any"
        measures = ", ".join(task["measures"])
        paper = paper_line(task["paper"]).replace("; ", "<br>")
        rows.append(f"| `{name}` | {task['title']} | {task['size']} | {measures} | {paper} | {dataset} |")
    return "\n".join(rows)


def paper_line(paper: dict[str, dict[str, float]]) -> str:
    """Return `mrr: exit 4 0.732, …; ndcg: best 0.842`, or "" if the paper has no figures."""
    return "; ".join(
        f"{measure}: "
        + ", ".join(f"{key if key == 'best' else f'exit {key}'} {value:.3f}" for key, value in figures.items())
        for measure, figures in paper.items()
    )


def task_catalogue() -> dict[str, dict[str, Any]]:
    """Return all tasks by name, ready for JSON."""
    # Slow to import.
    from mose.eval.tasks import TASKS

    catalogue = {}
    for name, task in TASKS.items():
        source = task.source

        catalogue[name] = {
            "title": task.title,
            "size": task.size,
            "measures": list(task.measures),
            "dataset": source.repo if source else None,
            "revision": source.revision if source else None,
            "split": source.split if source else None,
            "columns": {field: list(names) for field, names in source.columns.items()} if source else {},
            "layout": task.layout,
            "subsets": list(task.subsets),
            "paper": {measure: dict(figures) for measure, figures in task.paper.items()},
            "note": task.notes(from_hub=True),
        }

    return catalogue
