"""Arguments and steps that several search commands share."""

import argparse
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mose.data.source.rules import add_reading_arguments, reading_rules
from mose.data.source.units import KINDS
from mose.search.filters import check_filters
from mose.search.places import default_location
from mose.search.ranking.confidence import LOW_CONFIDENCE
from mose.search.ranking.fusion import DEFAULT_HYBRID
from mose.search.records import MAX_LENGTH, SHIPPED, Meta
from mose.search.rendering import NOTHING_FITS, render, summarize_index
from mose.search.store import DamagedIndexError, Location, SearchIndexError, read_meta
from mose.utils.command_line import positive_int
from mose.utils.locations import is_local_folder, package_folder
from mose.utils.terminal import printable

if TYPE_CHECKING:
    from mose.search.index import Hit, Index


class Timings(dict[str, float]):
    """Seconds by step."""

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Record how long the block takes."""
        start = time.perf_counter()
        yield
        self[step] = time.perf_counter() - start

    def __str__(self) -> str:
        return " · ".join(f"{k} {f'{1000 * s:.0f} ms' if s < 0.1 else f'{s:.1f} s'}" for k, s in self.items())


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the model and the output format."""
    add_model_choice(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def add_model_choice(parser: argparse.ArgumentParser) -> None:
    """Add the model."""
    text = "folder or Hub id of a MoSE (default: that of the index; the shipped model for a new one)"
    parser.add_argument("--model", metavar="MODEL", help=text)
    text = "run the code stored beside the weights, in place of the installed one"
    parser.add_argument("--trust-remote-code", action="store_true", help=text)


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of building an index."""
    parser.add_argument(
        "--exit-layer",
        type=int,
        metavar="K",
        help="exit, in blocks run (default: that of the index; the deepest for a new one)",
    )
    text = "index these only, such as python java text (default: all but text, which is Markdown and the like)"
    parser.add_argument("--languages", nargs="+", metavar="LANGUAGE", help=text)
    text = "further paths to leave out, as lines of .gitignore"
    parser.add_argument("--exclude", nargs="+", action="extend", default=[], metavar="PATTERN", help=text)
    add_reading_arguments(parser)
    text = "maximum number of tokens read of a unit (default: %(default)s)"
    parser.add_argument("--max-length", type=int, default=MAX_LENGTH, metavar="TOKENS", help=text)


def add_query_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the query and the options of searching."""
    parser.add_argument("query", type=_query, metavar="QUERY", help="description of what the code does")
    text = "rank by names, paths and BM25 besides the embeddings "
    text += f"(default: {'--hybrid' if DEFAULT_HYBRID else '--no-hybrid'})"
    parser.add_argument("--hybrid", action=argparse.BooleanOptionalAction, help=text)
    text = "rank all units of a large index, and not only those that its graph of neighbours finds"
    parser.add_argument("--exact", action="store_true", help=text)
    add_hit_arguments(parser)


def add_hit_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of what to search and which hits to print."""
    text = "number of hits to print (default: %(default)s)"
    parser.add_argument("--top-k", type=positive_int, default=5, metavar="N", help=text)
    parser.add_argument("--files", action="store_true", help="print the best unit of each file alone")
    text = "leave out hits with a lower score, in [0, 1] (default: none)"
    parser.add_argument("--min-score", type=share, default=0.0, metavar="SCORE", help=text)
    text = "search units in these languages alone, such as python java"
    parser.add_argument("--language", nargs="+", metavar="LANGUAGE", help=text)
    text = "search files that match alone, as in a .gitignore: src/ '*.py' '!tests/'"
    parser.add_argument("--path", nargs="+", metavar="PATTERN", help=text)
    text = f"search units of these kinds alone, of {', '.join(KINDS)}"
    parser.add_argument("--kind", nargs="+", choices=KINDS, metavar="KIND", help=text)
    parser.add_argument("--explain", action="store_true", help="show how each hit's rank came about")


def hit_settings(options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_hit_arguments` as arguments of `Index.search`."""
    settings = {"files": options.files, "min_score": options.min_score, "languages": options.language}
    return {**settings, "paths": options.path, "kinds": options.kind}


def _query(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the query is empty. Describe what the code does.")
    return text


def share(text: str) -> float:
    """Return a number in [0, 1]; an argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be in [0, 1], got {text!r}. Pass 0.5 for even odds.")
    return value


def check_model_name(name: str, exit_layer: int | None) -> None:
    """Check what can be known of a model before the imports, which take seconds.

    Raises:
        ValueError: there is no such model, it is no MoSE, or has no such exit.
    """
    try:
        is_local = is_local_folder(name)
    except FileNotFoundError as error:
        raise ValueError(f"--model {error}") from None
    if not is_local:
        return

    try:
        config = json.loads((Path(name) / "config.json").read_text(encoding="utf-8"))
        kind, exits = config.get("model_type"), config.get("exit_layers")
    except (OSError, ValueError, AttributeError):
        raise ValueError(f"--model {name}: no config.json with a model_type. Pass a MoSE.") from None
    if not exits:
        raise ValueError(f"--model {name}: a {kind!r} model has no exits. Pass the folder of a MoSE.")
    if exit_layer is not None and exit_layer not in exits:
        allowed = ", ".join(map(str, exits))
        raise ValueError(f"exit_layer must be one of {allowed}, got {exit_layer}. Pass one of them.")


def load_search_model(
    name: str, exit_layer: int | None, timings: Timings, trust_remote_code: bool = False
) -> tuple[Any, Any]:
    """Return the model, loaded up to an exit, and its tokenizer."""
    check_model_name(name, exit_layer)
    with timings.measure("imports"):
        from mose.inference.loading import load_model

    importlib.import_module("transformers.utils.logging").disable_progress_bar()
    with timings.measure("model"):
        exits = None if exit_layer is None else [exit_layer]
        model, tokenizer, _ = load_model(name, exits, trust_remote_code=trust_remote_code)
        return model, tokenizer


def build_index(options: argparse.Namespace, timings: Timings, location: Location) -> "Index":
    """Build or update the index at a location as the options say."""
    tree = options.source_tree
    if not tree.is_dir():
        raise ValueError(f"{tree}: no such folder")
    check_filters(options.languages, None)
    if options.max_length < 1:
        raise ValueError(f"max_length must be at least 1, got {options.max_length}. Pass 512 for the default.")
    model, exit_layer = options.model, options.exit_layer
    if model is None:
        known = _known_meta(location)
        model = known.model if known and known.model else SHIPPED
        exit_layer = known.exit_layer if known and exit_layer is None else exit_layer
    source = str(package_folder()) if model == SHIPPED else model
    check_model_name(source, exit_layer)

    with timings.measure("imports"):
        from mose.search.index import Index  # imports what reading and embedding need

    with timings.measure("indexing"):
        settings = {"languages": options.languages, "exclude": options.exclude, "max_length": options.max_length}
        settings |= {"rules": reading_rules(options), "trust_remote_code": options.trust_remote_code}
        return Index.build(tree, source, None, location.name, exit_layer, **settings)


def existing_location(path: str | None) -> Location:
    """Return the place of an index, after a look that takes no imports.

    Raises:
        SearchIndexError: there is none.
    """
    location = default_location(None) if path is None else Location(path)
    location.check()
    return location


def _known_meta(location: Location) -> Meta | None:
    """Return the description of the index that is there, which knows its model and exit."""
    try:
        return read_meta(location)
    except DamagedIndexError:
        from mose.search.snapshot import salvaged_meta  # imports what reading needs

        return salvaged_meta(location)
    except SearchIndexError:
        return None


def print_hits(options: argparse.Namespace, index: "Index", timings: Timings) -> None:
    """Search the index for the query of the options, and print the hits as text or JSON."""
    hybrid = DEFAULT_HYBRID if options.hybrid is None else options.hybrid
    with timings.measure("query"):
        hits = index.search(options.query, options.top_k, hybrid, exact=options.exact, **hit_settings(options))
    meta, path = index.meta, index.location.name
    if index.stale:
        print(f"not brought up to date: {printable(index.stale)}", file=sys.stderr)

    if options.json:
        document = {"query": options.query, "index": path, "root": meta.trees[0].root}
        document |= {"roots": [tree.root for tree in meta.trees], "exit_layer": meta.exit_layer}
        document |= {"query_exit_layer": index.query_exit_layer, "hybrid": hybrid, "seconds": timings}
        document |= {"stale": index.stale}
        if index.reading:
            document["reading"] = index.reading.as_dict()
        print(json.dumps({**document, "hits": [hit.as_dict(options.explain) for hit in hits]}, indent=2))
        return

    print(f"\n{printable(options.query)}  in  {printable(meta.roots)}\n")
    print_ranked(hits, LOW_CONFIDENCE, options.explain)

    query_exit = index.query_exit_layer
    queried = f", queried at exit {query_exit}" if query_exit != meta.exit_layer else ""
    scores = "ranked by embeddings, BM25, names and paths" if hybrid else "ranked by embeddings alone"
    print(f"{summarize_index(index)}{queried}, {scores}\n{timings}")


def print_ranked(hits: "Sequence[Hit]", low_score: float, explain: bool) -> None:
    """Print hits for a terminal, and say so if even the best has less than a score."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else 110
    colour = terminal and "NO_COLOR" not in os.environ
    if not hits or hits[0].score < low_score:
        print(f"{NOTHING_FITS} The best of what there is:\n" if hits else NOTHING_FITS)
    print(render(hits, colour, width, explain=explain))
