"""`python -m mose.search index`: create or update the index of source trees."""

import argparse
import dataclasses
import json
import sys

from mose.search.commands import shared
from mose.search.places import default_location
from mose.search.rendering import summarize_index
from mose.search.store import Location
from mose.utils.command_line import named_path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    shared.add_model_arguments(parser)
    shared.add_build_arguments(parser)
    text = "source tree to index, beside those that the index has"
    parser.add_argument("source_tree", type=named_path, metavar="DIR", help=text)
    text = "folder or URI of the index (default: a place in the user's cache)"
    parser.add_argument("--index", metavar="PATH", help=text)
    parser.add_argument("--remove", action="store_true", help="remove the source tree from the index instead")


def run(options: argparse.Namespace) -> None:
    """Build the index and print its counts."""
    location = Location(options.index) if options.index else default_location(options.source_tree)
    timings = shared.Timings()
    if options.remove:
        location.check()  # a missing index is reported before the imports
        from mose.search.building import remove_tree  # imports what reading needs

        with timings.measure("removing"):
            snapshot = remove_tree(location, options.source_tree)
        document = {"index": location.name, "removed": str(options.source_tree), "units": len(snapshot)}
        text = f"removed {options.source_tree}: {len(snapshot):,} units of {snapshot.meta.roots} are left"
        print(json.dumps({**document, "seconds": timings}, indent=2) if options.json else text)
        return

    index = shared.build_index(options, timings, location)
    document = {"index": location.name, "root": str(options.source_tree.resolve())}
    document |= {"roots": [tree.root for tree in index.trees], "exit_layer": index.meta.exit_layer}
    lines = [summarize_index(index), f"index: {location.name}", str(timings)]
    if index.report and index.reading:
        document |= dataclasses.asdict(index.report) | {"reading": index.reading.as_dict()}
        lines += index.reading.lines(options.verbose)
        if index.report.rebuilt:
            print(f"rebuilt, because {index.report.rebuilt}", file=sys.stderr)
    text = "\n".join(lines)
    print(json.dumps({**document, "seconds": timings}, indent=2) if options.json else text)
