"""`python -m mose.search index`: create or update the index of a source tree."""

import argparse
import dataclasses
import json
from pathlib import Path

from mose.search.commands import shared
from mose.search.rendering import summarize_index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_model_arguments(parser)
    shared.add_build_arguments(parser)
    parser.add_argument("source_tree", type=Path, metavar="DIR", help="source tree to index")
    parser.add_argument("--index", type=Path, required=True, metavar="PATH", help="folder of the index")


def run(options: argparse.Namespace) -> None:
    """Build the index and print its counts."""
    timings = shared.Timings()
    path, index = shared.build_index(options, timings)

    document = {"index": str(path), "root": index.meta.root, "exit_layer": index.meta.exit_layer}
    lines = [summarize_index(index), str(timings)]
    if index.report and index.reading:
        document |= dataclasses.asdict(index.report) | {"reading": index.reading.as_dict()}
        lines += index.reading.lines(options.verbose)
    text = "\n".join(lines)
    print(json.dumps({**document, "seconds": timings}, indent=2) if options.json else text)
