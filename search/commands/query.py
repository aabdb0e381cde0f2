"""`python -m mose.search query`: search an index."""

import argparse

from mose.search.commands import opening, shared
from mose.search.filters import check_filters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_query_arguments(parser)
    shared.add_model_arguments(parser)
    opening.add_opening_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Load the index and print the hits."""
    check_filters(options.language, options.kind)
    timings = shared.Timings()
    shared.print_hits(options, opening.open_index(options, timings), timings)
