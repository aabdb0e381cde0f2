"""`python -m mose.search demo`: index a source tree if needed, and search it."""

import argparse
import hashlib
import sysconfig
from pathlib import Path

from mose.search.commands import shared
from mose.search.places import default_location
from mose.search.store import Location
from mose.utils.command_line import named_path

#: Test folders of the standard library, excluded from its index.
STDLIB_TESTS = ("test/", "tests/", "idle_test/")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_query_arguments(parser)
    shared.add_model_arguments(parser)
    shared.add_build_arguments(parser)
    text = "source tree to search (default: the standard library of this Python)"
    parser.add_argument("--source-tree", type=named_path, metavar="DIR", help=text)
    text = "folder or URI of the index (default: one in the user's cache folder)"
    parser.add_argument("--index", metavar="PATH", help=text)


def run(options: argparse.Namespace) -> None:
    """Build or update the index and print the hits."""
    if options.source_tree is None:
        options.source_tree = Path(sysconfig.get_paths()["stdlib"])
        options.exclude = [*options.exclude, *STDLIB_TESTS]

    if options.index is None:  # one for each model and exit: a demonstration compares them
        exit_layer = "" if options.exit_layer is None else f"-exit{options.exit_layer}"
        key = "" if options.model is None else f"-{hashlib.sha256(options.model.encode()).hexdigest()[:8]}"
        location = default_location(options.source_tree, f"{key}{exit_layer}")
    else:
        location = Location(options.index)
    timings = shared.Timings()
    index = shared.build_index(options, timings, location)
    shared.print_hits(options, index, timings)
    if index.reading and options.verbose and not options.json:
        print("\n".join(index.reading.lines(verbose=True)))
