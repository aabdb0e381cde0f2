"""`python -m mose.search clones`: list units of a source tree that are nearly the same."""

import argparse
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from mose.data.source.rules import add_reading_arguments, reading_rules
from mose.search.commands import shared
from mose.search.filters import check_filters
from mose.utils.command_line import named_path, positive_int
from mose.utils.locations import package_folder
from mose.utils.terminal import printable

if TYPE_CHECKING:
    import numpy as np

    from mose.search.clones import CloneGroup

#: Similarity from which two units are clones, and tokens that a unit must have.
THRESHOLD, MIN_TOKENS = 0.6, 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the tree and what counts as a clone."""
    parser.add_argument("source_tree", type=named_path, metavar="DIR", help="source tree to read")
    text = "similarity from which two units are clones, in [0, 1] (default: %(default)s)"
    parser.add_argument("--threshold", type=shared.share, default=THRESHOLD, metavar="T", help=text)
    text = "leave out units with fewer tokens, which are alike by chance (default: %(default)s)"
    parser.add_argument("--min-tokens", type=positive_int, default=MIN_TOKENS, metavar="N", help=text)
    text = "compare units of different files alone"
    parser.add_argument("--across-files", action="store_true", help=text)
    text = "compare units of the same language alone, which takes no model"
    parser.add_argument("--same-language", action="store_true", help=text)
    text = "number of groups to print (default: 20, or all as JSON)"
    parser.add_argument("--top-k", type=positive_int, metavar="N", help=text)

    parser.add_argument("--languages", nargs="+", metavar="LANGUAGE", help="read these only, such as python java")
    text = "further paths to leave out, as lines of .gitignore"
    parser.add_argument("--exclude", nargs="+", action="extend", default=[], metavar="PATTERN", help=text)
    add_reading_arguments(parser)
    text = "exit to compare languages at, in blocks run (default: 0)"
    parser.add_argument("--exit-layer", type=int, default=0, metavar="K", help=text)
    shared.add_model_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Read the tree and print the groups."""
    tree = options.source_tree
    if not tree.is_dir():
        raise ValueError(f"{tree}: no such folder")
    if options.threshold == 0:
        raise ValueError("--threshold must be above 0, got 0. Pass 1 for exact copies alone.")
    check_filters(options.languages, None)
    model = str(package_folder()) if options.model is None else options.model
    if not options.same_language:
        shared.check_model_name(model, options.exit_layer)

    timings = shared.Timings()
    with timings.measure("imports"):  # of parsers
        from mose.search.clones import find_clones
        from mose.search.tree import read_whole_tree

    with timings.measure("reading"):
        units, report = read_whole_tree(tree, options.languages, options.exclude, reading_rules(options))
    embed = None if options.same_language else _lazy_embed(model, options)
    with timings.measure("comparing"):
        settings = {"threshold": options.threshold, "min_tokens": options.min_tokens}
        groups = find_clones(units, embed, **settings, same_file=not options.across_files)

    shown = groups[: options.top_k] if options.json else groups[: options.top_k or 20]
    if options.json:
        document = {"root": str(tree.resolve()), "units": len(units), **settings, "seconds": timings}
        document |= {"count": len(groups), "groups": [group.as_dict() for group in shown]}
        print(json.dumps({**document, "reading": report.as_dict()}, indent=2))
        return

    print(render_clones(shown))
    more = f", of which {len(shown)} are shown (--top-k)" if len(shown) < len(groups) else ""
    lines = sum(group.extra_lines for group in groups)
    print(f"{len(units):,} units: {len(groups):,} groups of clones, {lines:,} lines beyond one of each{more}")
    print("\n".join([str(timings), *report.lines(options.verbose)]))


def render_clones(groups: "Sequence[CloneGroup]") -> str:
    """Return groups as text: a line on each, and one for every unit."""
    rows = []
    for group in groups:
        languages = f" in {', '.join(group.languages)}" if len(group.languages) > 1 else ""
        rows.append(f"{len(group.units)} units{languages}, similarity {group.similarity:.2f}")
        for unit in group.units:
            place = printable(f"{unit.path}:{unit.start_line}-{unit.end_line}")
            rows.append(f"     {place}  {printable(unit.qualified_name)}")
        rows.append("")
    return "\n".join(rows)


def _lazy_embed(
    model: str, options: argparse.Namespace
) -> "Callable[[Sequence[str], Sequence[str]], np.ndarray]":
    """Return a function that loads the model when it is first needed: a tree in one language never needs it."""

    def embed(texts: Sequence[str], languages: Sequence[str]) -> "np.ndarray":
        from mose.search.encoders import open_encoder
        from mose.search.records import MAX_LENGTH

        return open_encoder(model, options.exit_layer, MAX_LENGTH, options.trust_remote_code).documents(
            texts, languages
        )

    return embed
