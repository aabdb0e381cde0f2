"""`python -m mose.search query`: search an index."""

import argparse

from mose.search.commands import opening, shared
from mose.search.filters import check_filters


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_query_arguments(parser)
    shared.add_model_arguments(parser)
<<<<<<< HEAD
    opening.add_opening_arguments(parser)
=======
    text = "folder or URI of the index (default: that of the current folder, or of one around it, in the cache)"
    parser.add_argument("--index", metavar="PATH", help=text)
    text = (
        "exit to embed the query at (default: 0 for a model trained with --align-exits, else that of the index)"
    )
    parser.add_argument("--exit-layer", type=int, metavar="K", help=text)
    text = "search the index as it is, without looking for changed files"
    parser.add_argument("--no-refresh", dest="refresh", action="store_false", help=text)
>>>>>>> store


def run(options: argparse.Namespace) -> None:
    """Load the index and print the hits."""
    check_filters(options.language, options.kind)
    timings = shared.Timings()
<<<<<<< HEAD
    shared.print_hits(options, opening.open_index(options, timings), timings)
=======
    if options.model is not None:
        shared.check_model_name(options.model, options.exit_layer)
    location = shared.existing_location(options.index)  # a missing index is reported before the imports

    with timings.measure("imports"):
        from mose.search.index import Index

    settings = {"model": options.model, "exit_layer": options.exit_layer, "refresh": options.refresh}
    with timings.measure("opening"):
        index = Index.open(location.name, **settings, trust_remote_code=options.trust_remote_code)
    shared.print_hits(options, index, timings)
>>>>>>> store
