"""`python -m mose.eval codexglue`: score a file of predictions as CodeXGLUE's evaluators do."""

import argparse
import json

from mose.utils.command_line import ArgumentError

TASKS = ("advtest", "poj104", "bigclonebench")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Read answers and predictions in the formats of CodeXGLUE's evaluators and print the scores as JSON: MRR "
        "of advtest, MAP@R of poj104, F1, precision and recall of bigclonebench."
    )
    parser.add_argument("task", choices=TASKS, help="one of the evaluators")
    text = "the correct answers, or the task's test.jsonl"
    parser.add_argument("--answers", required=True, metavar="FILE", help=text)
    parser.add_argument("--predictions", required=True, metavar="FILE", help="the predictions to score")


def run(options: argparse.Namespace) -> None:
    """Print the scores."""
    # Slow to import.
    from mose.eval.codexglue import EVALUATORS

    try:
        scores = EVALUATORS[options.task](options.answers, options.predictions)
    except FileNotFoundError as error:
        raise ArgumentError(str(error)) from None
    print(json.dumps(scores))
