"""`python -m mose.search similar`: find code that is like the code at a line, or like a fragment."""

import argparse
import json
import sys
from typing import Any

from mose.search.commands import opening, shared
from mose.search.filters import check_filters
from mose.search.rendering import summarize_index
from mose.utils.terminal import printable

#: Below it, a hit has little in common with the code (`benchmarks/fragments.py`).
LOW_SIMILARITY = 0.55


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the code and the options of searching."""
    text = "line of a function, class or other unit, in a file of the index"
    parser.add_argument("location", nargs="?", metavar="FILE:LINE", help=text)
    text = "compare with this code, such as a part of a function; - reads it from standard input"
    parser.add_argument("--code", metavar="CODE", help=text)
    shared.add_hit_arguments(parser)
    shared.add_model_arguments(parser)
    opening.add_opening_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Open the index and print the hits."""
    if (options.location is None) == (options.code is None):
        raise ValueError("pass either FILE:LINE or --code. `--code -` reads the code from standard input.")
    check_filters(options.language, options.kind)
    timings = shared.Timings()
    code = sys.stdin.read() if options.code == "-" else options.code
    if code is not None and not code.strip():
        raise ValueError("there is no code to compare with. Pass the lines of a function, or a part of one.")

    index = opening.open_index(options, timings)
    from mose.search.similar import CodeQuery, find_similar, unit_at  # imports what reading and embedding need

    query = CodeQuery(code) if code is not None else unit_at(index, options.location)
    with timings.measure("query"):
        hits = find_similar(index, query, options.top_k, **shared.hit_settings(options), progress=True)

    if options.json:
        place = {name: getattr(query, name) for name in ("root", "path", "name", "start_line", "end_line")}
        document: dict[str, Any] = {"code": query.code, "of": place if query.path else None}
        document |= {"index": index.location.name}
        document |= {"exit_layer": index.meta.exit_layer, "query_exit_layer": index.query_exit_layer}
        document |= {"stale": index.stale, "seconds": timings}
        print(json.dumps({**document, "hits": [hit.as_dict(options.explain) for hit in hits]}, indent=2))
        return

    lines = len(query.code.splitlines())
    source = f"{query.name}, {query.path}:{query.start_line}" if query.path else f"{lines} lines of code"
    print(f"\nlike {printable(source)}  in  {printable(index.meta.roots)}\n")
    shared.print_ranked(hits, LOW_SIMILARITY, options.explain)
    print(f"{summarize_index(index)}, ranked by embeddings, structure and words\n{timings}")
