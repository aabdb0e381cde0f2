"""The part that `retrieval` and `run` share: flags of a measurement, the measurement, and its output."""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from mose.eval.commands.shared import (
    add_encoding_arguments,
    check_output,
    compute_dtype,
    load_from_options,
    parse_exit_layers,
    process_devices,
)
from mose.utils.command_line import ArgumentError
from mose.utils.files import atomic_write_text


def add_measuring_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of every command that measures: model, baselines and output."""
    add_encoding_arguments(parser)

    baselines = parser.add_argument_group("baselines")
    baselines.add_argument(
        "--peers",
        action="extend",
        nargs="+",
        default=[],
        metavar="PEER",
        help="bm25, all-MiniLM-L6-v2, any folder or Hub id of a sentence-transformers model, or another MoSE, at "
        "all its exits or as NAME@K at exit K",
    )

    output = parser.add_argument_group("output")
    text = "the model's name in the report (default: the end of its folder or Hub id)"
    output.add_argument("--name", help=text)
    output.add_argument("--json", metavar="FILE", help="write the report to FILE; - means stdout")
    output.add_argument("--plots", metavar="DIR", help="draw the report into PNG files in DIR")
    text = "put every exit's figures into the model-index of this card"
    output.add_argument("--write-card", metavar="FILE", help=text)
    output.add_argument("--no-speed", action="store_true", help="measure quality only")
    text = "omit bootstrap intervals and permutation tests between exits"
    output.add_argument("--no-intervals", action="store_true", help=text)
    text = "keep embeddings in DIR, from which a killed run resumes and later runs read"
    output.add_argument("--cache", metavar="DIR", help=text)


def check_measuring_arguments(options: argparse.Namespace) -> None:
    """Check the flags that can be checked before anything is loaded.

    Raises:
        ArgumentError: exits that are not numbers, or output that cannot be written.
    """
    parse_exit_layers(options.exit_layers)
    check_output("--json", options.json)

    if options.write_card and not Path(options.write_card).is_file():
        raise ArgumentError(f"--write-card {options.write_card}: no such file")


def measure_retrieval(options: argparse.Namespace, sets: list[Any]) -> dict[str, Any]:
    """Return the report of the model and the baselines of `options` on `sets`.

    Raises:
        ArgumentError: no such model, or an exit that it does not have.
        RuntimeError: a model exists but cannot be loaded.
    """
    # These are slow to import.
    from transformers.utils import logging

    from mose.eval.baselines import load_baseline
    from mose.eval.retrieval import evaluate
    from mose.inference.loading import load_model

    # Bars for the loading of weights would hide those of the encoding, which takes much longer.
    logging.disable_progress_bar()
    dtype = compute_dtype(options.dtype)
    model, tokenizer, exits = load_from_options(options, load_model)

    # Baselines run where the model runs.
    device = str(model.device)
    baselines = [
        load_baseline(name, options.max_length, dtype, device, options.trust_remote_code)
        for name in options.peers
    ]

    return evaluate(
        model,
        tokenizer,
        sets,
        exits,
        baselines,
        options.max_length,
        dtype,
        measure_speed=not options.no_speed,
        progress=sys.stderr.isatty(),
        certainty=not options.no_intervals,
        cache=options.cache,
        name=options.name,
        devices=process_devices(device, options.num_proc),
    )


def write_outputs(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """Write the report as JSON, plots and card figures as requested, and print it as a table.

    The table goes to stderr if the JSON goes to stdout.
    """
    # Slow to import.
    import torch

    from mose.eval.report import terminal

    document = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    if options.json == "-":
        sys.stdout.write(document)
    elif options.json:
        atomic_write_text(options.json, document)

    if options.plots:
        # Needs matplotlib, an optional extra.
        from mose.eval.plots import plot_report

        plot_report(report, options.plots)
    if options.write_card:
        # Slow to import.
        from mose.eval.model_index import update_card

        update_card(report, options.write_card)

    out = sys.stderr if options.json == "-" else sys.stdout
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{options.model}: {options.dtype} on {device}, {torch.get_num_threads()} threads\n", file=out)
    print(terminal(report, shutil.get_terminal_size((120, 24)).columns), file=out)
