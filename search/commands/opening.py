"""Opening an index as the options of a command say."""

import argparse
from typing import TYPE_CHECKING

from mose.search.commands import shared

if TYPE_CHECKING:
    from mose.search.index import Index


def add_opening_arguments(parser: argparse.ArgumentParser) -> None:
    """Add which index to open and how."""
    text = "folder or URI of the index (default: that of the current folder, or of one around it, in the cache)"
    parser.add_argument("--index", metavar="PATH", help=text)
    text = (
        "exit to embed the query at (default: 0 for a model trained with --align-exits, else that of the index)"
    )
    parser.add_argument("--exit-layer", type=int, metavar="K", help=text)
    text = "search the index as it is, without looking for changed files"
    parser.add_argument("--no-refresh", dest="refresh", action="store_false", help=text)


def open_index(options: argparse.Namespace, timings: shared.Timings) -> "Index":
    """Open the index, and bring it up to date unless the options say no."""
    if options.model is not None:
        shared.check_model_name(options.model, options.exit_layer)
    location = shared.existing_location(options.index)  # a missing index is reported before the imports

    with timings.measure("imports"):
        from mose.search.index import Index

    settings = {"model": options.model, "exit_layer": options.exit_layer, "refresh": options.refresh}
    with timings.measure("opening"):
        return Index.open(location.name, **settings, trust_remote_code=options.trust_remote_code)
