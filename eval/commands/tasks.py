"""`python -m mose.eval tasks`: what can be measured, and what the paper reports of it."""

import argparse
import json
import shutil
import textwrap
from typing import Any


def add(commands: Any) -> None:
    tasks = commands.add_parser(
        "tasks",
        help="list the benchmarks (also as --list)",
        description="The benchmarks that `run` knows: what each asks, its size, measures and dataset, and what "
        "the paper reports.",
    )
    tasks.add_argument("--list", action="store_true", help="the list; what this command does without it, too")
    shape = tasks.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="as one JSON document")
    shape.add_argument("--markdown", action="store_true", help="as the table of docs/tasks.md")
    tasks.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(catalogue(), indent=2, ensure_ascii=False))
    else:
        print(markdown() if options.markdown else listing())


def listing() -> str:
    """The list for a terminal, fitted to its width."""
    width = max(60, shutil.get_terminal_size((110, 24)).columns)
    blocks = []
    for name, task in catalogue().items():
        lines = [f"{name}: {task['title']}", f"size: {task['size']}; measures: {', '.join(task['measures'])}"]
        if task["dataset"]:
            lines.append(f"dataset: {task['dataset']} @ {task['revision'][:12]}, split {task['split']}")
        lines.append(f"--data: {task['layout']}")
        if task["subsets"]:
            lines.append(f"--subsets: {' '.join(task['subsets'])}")
        lines += [f"paper: {line}" for line in [paper_line(task["paper"])] if line]
        lines += [f"note: {task['note']}"] if task["note"] else []
        blocks.append(
            "\n".join(
                textwrap.fill(line, width, initial_indent="  " * bool(at), subsequent_indent="    ")
                for at, line in enumerate(lines)
            )
        )
    return "\n\n".join(blocks)


def markdown() -> str:
    """The list as a table for the documentation."""
    rows = ["| task | what it asks | size | measures | the paper | dataset |", "|---|---|---|---|---|---|"]
    for name, task in catalogue().items():
        dataset = f"`{task['dataset']}` @ `{task['revision'][:7]}`" if task["dataset"] else "any"
        measures = ", ".join(task["measures"])
        paper = paper_line(task["paper"]).replace("; ", "<br>")
        rows.append(f"| `{name}` | {task['title']} | {task['size']} | {measures} | {paper} | {dataset} |")
    return "\n".join(rows)


def paper_line(paper: dict[str, dict[str, float]]) -> str:
    """`mrr: exit 4 0.732, …; ndcg: best 0.842`; "" where the paper reports nothing."""
    return "; ".join(
        f"{measure}: "
        + ", ".join(f"{key if key == 'best' else f'exit {key}'} {value:.3f}" for key, value in figures.items())
        for measure, figures in paper.items()
    )


def catalogue() -> dict[str, dict[str, Any]]:
    """All tasks by name, ready for JSON."""
    from mose.eval.tasks import TASKS

    return {
        name: {
            "title": task.title,
            "size": task.size,
            "measures": list(task.measures),
            "dataset": task.source.repo if task.source else None,
            "revision": task.source.revision if task.source else None,
            "split": task.source.split if task.source else None,
            "columns": {what: list(names) for what, names in task.source.columns.items()} if task.source else {},
            "layout": task.layout,
            "subsets": list(task.subsets),
            "paper": {measure: dict(figures) for measure, figures in task.paper.items()},
            "note": task.notes(from_hub=True),
        }
        for name, task in TASKS.items()
    }
