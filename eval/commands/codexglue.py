"""`python -m mose.eval codexglue`: score a file of predictions as CodeXGLUE's evaluators do."""

import argparse
import json
from typing import Any

from mose.eval.commands.shared import ArgumentError

TASKS = ("advtest", "poj104", "bigclonebench")


def add(commands: Any) -> None:
    codexglue = commands.add_parser(
        "codexglue",
        help="score files of answers and predictions as CodeXGLUE's evaluators do",
        description="Reads answers and predictions in the formats of CodeXGLUE's evaluators and prints the "
        "scores as JSON: MRR of advtest, MAP@R of poj104, F1, precision and recall of bigclonebench.",
    )
    codexglue.add_argument("task", choices=TASKS, help="which of the evaluators")
    codexglue.add_argument(
        "--answers", required=True, metavar="FILE", help="the right answers, or the task's test.jsonl"
    )
    codexglue.add_argument("--predictions", required=True, metavar="FILE", help="what was predicted")
    codexglue.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    from mose.eval.codexglue import EVALUATORS

    try:
        found = EVALUATORS[options.task](options.answers, options.predictions)
    except FileNotFoundError as error:
        raise ArgumentError(str(error)) from None
    print(json.dumps(found))
