"""`python -m mose.search demo`: index a source tree if needed, and search it."""

import argparse
import sysconfig
from pathlib import Path

from mose.search.commands import shared

#: Test folders of the standard library, excluded from its index.
STDLIB_TESTS = ("test/", "tests/", "idle_test/")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_query_arguments(parser)
    shared.add_model_arguments(parser)
    shared.add_build_arguments(parser)
    text = "source tree to search (default: the standard library of this Python)"
    parser.add_argument("--source-tree", type=Path, metavar="DIR", help=text)
    text = "folder of the index (default: one in the user's cache folder)"
    parser.add_argument("--index", type=Path, metavar="PATH", help=text)


def run(options: argparse.Namespace) -> None:
    """Build or update the index and print the hits."""
    if options.source_tree is None:
        options.source_tree = Path(sysconfig.get_paths()["stdlib"])
        options.exclude = [*options.exclude, *STDLIB_TESTS]

    timings = shared.Timings()
    path, index = shared.build_index(options, timings)
    shared.print_hits(options, index, path, timings)
    if index.reading and options.verbose and not options.json:
        print("\n".join(index.reading.lines(verbose=True)))
