"""Arguments and steps that several search commands share."""

import argparse
import dataclasses
import hashlib
import importlib
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mose.data.source.rules import add_reading_arguments, reading_rules
from mose.search.ranking import DEFAULT_HYBRID
from mose.search.rendering import printable, render, summarize_index
from mose.search.store import MAX_LENGTH
from mose.utils.locations import cache_folder, is_local_folder, package_folder

if TYPE_CHECKING:
    from mose.search.index import Index


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
    text = "folder or Hub id of a MoSE (default: the shipped model)"
    parser.add_argument("--model", default=str(package_folder()), help=text)
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of text")


def add_build_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of building an index."""
    parser.add_argument("--exit-layer", type=int, metavar="K", help="exit, in blocks run (default: the deepest)")
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
    text = "number of hits to print (default: %(default)s)"
    parser.add_argument("--top-k", type=int, default=5, metavar="N", help=text)
    text = f"fuse BM25 with the embeddings (default: {'--hybrid' if DEFAULT_HYBRID else '--no-hybrid'})"
    parser.add_argument("--hybrid", action=argparse.BooleanOptionalAction, help=text)


def _query(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("the query is empty. Describe what the code does.")
    return text


def load_search_model(name: str, exit_layer: int | None, timings: Timings) -> tuple[Any, Any]:
    """Return the model, loaded up to an exit, and its tokenizer."""
    try:
        is_local_folder(name)
    except FileNotFoundError as error:  # report it before the imports, which take seconds
        raise ValueError(f"--model {error}") from None

    with timings.measure("imports"):
        for module in ("datasets", "faiss", "mose.search.index", "mose.inference.bm25"):
            importlib.import_module(module)
        from mose.inference.loading import load_model

    importlib.import_module("datasets").disable_progress_bars()
    importlib.import_module("transformers.utils.logging").disable_progress_bar()
    with timings.measure("model"):
        model, tokenizer, _ = load_model(name, None if exit_layer is None else [exit_layer])
        return model, tokenizer


def build_index(options: argparse.Namespace, timings: Timings) -> tuple[Path, "Index"]:
    """Build or update the index that the options name, and return its folder and the index."""
    tree = options.source_tree
    if not tree.is_dir():
        raise ValueError(f"{tree}: no such folder")
    model, tokenizer = load_search_model(options.model, options.exit_layer, timings)

    path = options.index
    if path is None:  # one for each source tree, model and exit
        key = hashlib.sha256(f"{tree.resolve()}\0{model.name_or_path}".encode()).hexdigest()[:8]
        exit_layer = model.config.resolve_exit_layer(options.exit_layer)
        path = cache_folder() / "indexes" / f"{tree.resolve().name}-{key}-exit{exit_layer}"

    from mose.search.index import Index  # imports torch

    with timings.measure("indexing"):
        settings = {"languages": options.languages, "exclude": options.exclude, "max_length": options.max_length}
        settings["rules"] = reading_rules(options)
        return path, Index.build(tree, model, tokenizer, path, options.exit_layer, **settings)


def print_hits(options: argparse.Namespace, index: "Index", path: Path, timings: Timings) -> None:
    """Search the index for the query of the options, and print the hits as text or JSON."""
    hybrid = DEFAULT_HYBRID if options.hybrid is None else options.hybrid
    with timings.measure("query"):
        hits = index.search(options.query, options.top_k, hybrid)
    meta = index.meta

    if options.json:
        document = {"query": options.query, "index": str(path), "root": meta.root, "exit_layer": meta.exit_layer}
        document |= {"query_exit_layer": index.query_exit_layer, "hybrid": hybrid, "seconds": timings}
        if index.reading:
            document["reading"] = index.reading.as_dict()
        print(json.dumps({**document, "hits": [dataclasses.asdict(hit) for hit in hits]}, indent=2))
        return

    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else 110
    print(f"\n{printable(options.query)}  in  {printable(meta.root)}\n")
    print(render(hits, terminal and "NO_COLOR" not in os.environ, width))

    query_exit = index.query_exit_layer
    queried = f", queried at exit {query_exit}" if query_exit != meta.exit_layer else ""
    scores = "embeddings fused with BM25" if hybrid else "embeddings alone"
    print(f"{summarize_index(index)}{queried}, {scores}\n{timings}")
