"""`python -m mose.search query`: search an index."""

import argparse
from pathlib import Path

from mose.search.commands import shared
from mose.search.store import read_meta


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_query_arguments(parser)
    shared.add_model_arguments(parser)
    parser.add_argument("--index", type=Path, required=True, metavar="PATH", help="folder of the index")
    text = "exit to embed the query at (default: that of the index); others need a model with --align-exits"
    parser.add_argument("--exit-layer", type=int, metavar="K", help=text)


def run(options: argparse.Namespace) -> None:
    """Load the index and print the hits."""
    timings = shared.Timings()
    _, meta = read_meta(options.index)  # a missing index is reported before the model is loaded
    # Deep enough for the index, whose fingerprint covers the weights up to its exit, and for the query.
    depth = max(meta.exit_layer, options.exit_layer or 0)
    model, tokenizer = shared.load_search_model(options.model, depth, timings)

    from mose.search.index import Index  # imports torch

    with timings.measure("opening"):
        index = Index.load(options.index, model, tokenizer, options.exit_layer)
    shared.print_hits(options, index, options.index, timings)
