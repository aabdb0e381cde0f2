"""Semantic code search on the command line: index the functions of a source tree, find them by what they do.

`make search Q="…"` is the demonstration; `python -m mose.search index` and `query` are its two halves. In
Python: `mose.eval.load_model`, then `Index.build` or `Index.load`, and `index.search`.
"""

import argparse
import dataclasses
import hashlib
import importlib
import io
import json
import os
import re
import shutil
import sys
import sysconfig
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mose.search.index import DEFAULT_HYBRID, MAX_LENGTH, BuildReport, Hit, Index, fuse
from mose.search.store import SearchIndexError, read_meta
from mose.utils.locations import is_hub_id

__all__ = ["BuildReport", "Hit", "Index", "SearchIndexError", "fuse", "main", "render"]

ROOT = Path(__file__).resolve().parents[1]
TESTS = ("test/", "tests/", "idle_test/")  # of the standard library


def render(hits: Sequence[Hit], colour: bool = False, width: int = 110, lines: int = 6) -> str:
    """Hits as text: rank, score, name, place and the first lines of each.

    Control characters in file names and source do not reach the terminal.
    """
    bold, dim, green, off = ("\033[1m", "\033[2m", "\033[32m", "\033[0m") if colour else ("",) * 4
    rows = []
    for rank, hit in enumerate(hits, 1):
        name, place = _printable(hit.name), _printable(f"{hit.path}:{hit.start_line}")
        rows.append(f"{rank:>3}  {green}{hit.score:.3f}{off}  {bold}{name}{off}  {place}")
        code = hit.source.rstrip().expandtabs(4).split("\n")
        shown = code if len(code) <= lines + 1 else code[:lines]  # "1 more line" would save nothing
        rows += [f"     {dim}│{off} {_printable(line.rstrip())[: width - 7]}".rstrip() for line in shown]
        if len(code) > len(shown):
            rows.append(f"     {dim}│ … {len(code) - len(shown)} more lines{off}")
        rows.append("")
    return "\n".join(rows)


def _printable(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "\N{REPLACEMENT CHARACTER}", text)


class _Clock(dict[str, float]):
    """Seconds by step."""

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self[step] = time.perf_counter() - start

    def __str__(self) -> str:
        return " · ".join(f"{k} {f'{1000 * s:.0f} ms' if s < 0.1 else f'{s:.1f} s'}" for k, s in self.items())


def _load(path: str, exit_layer: int | None, clock: _Clock) -> tuple[Any, Any]:
    if not Path(path).is_dir() and not is_hub_id(path):  # before the imports, which take seconds
        raise ValueError(f"--model {path}: no such folder, and not the id of a Hub model (owner/name)")
    with clock("imports"):
        for name in (
            "datasets",
            "faiss",
            "transformers.modeling_utils",
            "mose.data.source.mining",
            "mose.inference.bm25",
        ):
            importlib.import_module(name)
        from mose.inference.encoders import load_model

    importlib.import_module("datasets").disable_progress_bars()
    importlib.import_module("transformers.utils.logging").disable_progress_bar()
    with clock("model"):
        model, tokenizer, _ = load_model(path, None if exit_layer is None else [exit_layer])
        return model, tokenizer


def _build(args: argparse.Namespace, clock: _Clock) -> tuple[Path, Index]:
    tree = args.source_tree
    if not tree.is_dir():
        raise ValueError(f"{tree}: no such folder")
    model, tokenizer = _load(args.model, args.exit_layer, clock)
    path = args.index
    if path is None:
        key = hashlib.sha256(f"{tree.resolve()}\0{model.name_or_path}".encode()).hexdigest()[:8]
        exit_layer = model.config.resolve_exit_layer(args.exit_layer)
        path = ROOT / ".index" / f"{tree.resolve().name}-{key}-exit{exit_layer}"
    with clock("indexing"):
        options = {"languages": args.languages, "exclude": args.exclude, "max_length": args.max_length}
        return path, Index.build(tree, model, tokenizer, path, args.exit_layer, **options)


def _answer(args: argparse.Namespace, index: Index, path: Path, clock: _Clock) -> None:
    hybrid = DEFAULT_HYBRID if args.hybrid is None else args.hybrid
    with clock("query"):
        hits = index.search(args.query, args.top_k, hybrid)
    meta = index.meta
    if args.json:
        facts = {"query": args.query, "index": str(path), "root": meta.root, "exit_layer": meta.exit_layer}
        facts |= {"query_exit_layer": index.query_exit_layer}
        rows = [dataclasses.asdict(hit) for hit in hits]
        print(json.dumps({**facts, "hybrid": hybrid, "seconds": clock, "hits": rows}, indent=2))
        return
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else 110
    print(f"\n{_printable(args.query)}  in  {_printable(meta.root)}\n")
    print(render(hits, terminal and "NO_COLOR" not in os.environ, width))
    asked = f", asked at exit {index.query_exit_layer}" if index.query_exit_layer != meta.exit_layer else ""
    print(f"{_summary(index)}{asked}, {'embeddings fused with BM25' if hybrid else 'embeddings alone'}\n{clock}")


def _summary(index: Index) -> str:
    meta, report = index.meta, index.report
    unreadable = f" ({len(meta.skipped):,} unreadable)" if meta.skipped else ""
    text = f"{len(index):,} functions of {len(meta.files):,} files{unreadable} at exit {meta.exit_layer}"
    if report:
        text += f", {report.embedded:,} of them embedded now" if report.embedded else ", none embedded anew"
    return text


def _index_command(args: argparse.Namespace) -> None:
    clock = _Clock()
    path, index = _build(args, clock)
    if args.json:
        facts = {"index": str(path), "root": index.meta.root, "exit_layer": index.meta.exit_layer}
        report = dataclasses.asdict(index.report) if index.report else {}
        print(json.dumps({**facts, **report, "seconds": clock}, indent=2))
    else:
        print(f"{_summary(index)}\n{clock}")


def _query_command(args: argparse.Namespace) -> None:
    _require_query(args.query)
    _, meta = read_meta(args.index)
    clock = _Clock()
    # As deep as the index, whose embeddings are compared with those of these weights; and as the query.
    model, tokenizer = _load(args.model, max(meta.exit_layer, args.exit_layer or 0), clock)
    with clock("opening"):
        index = Index.load(args.index, model, tokenizer, args.exit_layer)
    _answer(args, index, args.index, clock)


def _demo_command(args: argparse.Namespace) -> None:
    _require_query(args.query)
    if args.source_tree is None:
        args.source_tree = Path(sysconfig.get_paths()["stdlib"])
        args.exclude = [*args.exclude, *TESTS]
    clock = _Clock()
    path, index = _build(args, clock)
    _answer(args, index, path, clock)


def _require_query(query: str) -> None:
    if not query.strip():
        raise ValueError("the query is empty: say in words what the function does")


def _parser() -> argparse.ArgumentParser:
    model = argparse.ArgumentParser(add_help=False)
    model.add_argument(
        "--model", default=str(ROOT), help="folder or Hub id of a MoSE (default: the one shipped here)"
    )
    model.add_argument("--json", action="store_true", help="print one JSON document instead of text")
    exit_help = "exit of the model, in blocks run"
    making = argparse.ArgumentParser(add_help=False)
    making.add_argument("--exit-layer", type=int, metavar="K", help=f"{exit_help} (default: the deepest)")
    making.add_argument(
        "--languages", nargs="+", metavar="LANGUAGE", help="index these only, such as python java"
    )
    making.add_argument(
        "--exclude",
        nargs="+",
        action="extend",
        default=[],
        metavar="PATTERN",
        help="leave these paths out too, as a line of .gitignore would; ignored, vendored, generated, binary and "
        "over-large files are left out anyway",
    )
    making.add_argument(
        "--max-length",
        type=int,
        default=MAX_LENGTH,
        metavar="TOKENS",
        help="tokens of a function that are read (default: %(default)s)",
    )
    asking = argparse.ArgumentParser(add_help=False)
    asking.add_argument("query", metavar="QUERY", help="what the wanted function does, in words")
    asking.add_argument(
        "--top-k", type=int, default=5, metavar="N", help="answers to print (default: %(default)s)"
    )
    asking.add_argument(
        "--hybrid",
        action=argparse.BooleanOptionalAction,
        help="fuse BM25 over words and identifiers with the embeddings "
        f"(default: {'--hybrid' if DEFAULT_HYBRID else '--no-hybrid'})",
    )

    parser = argparse.ArgumentParser(
        prog="python -m mose.search", description="Find the functions of a source tree by what they do."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(
        name: str, run: Any, parents: Sequence[argparse.ArgumentParser], text: str
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, parents=list(parents), help=text, description=text)
        command.set_defaults(run=run, parser=command)
        return command

    index = add(
        "index", _index_command, (model, making), "Make an index of a source tree, or bring it up to date."
    )
    index.add_argument("source_tree", type=Path, metavar="DIR", help="the source tree")
    index.add_argument("--index", type=Path, required=True, metavar="PATH", help="folder of the index")
    query = add("query", _query_command, (asking, model), "Search an index.")
    query.add_argument("--index", type=Path, required=True, metavar="PATH", help="folder of the index")
    query.add_argument(
        "--exit-layer",
        type=int,
        metavar="K",
        help=f"{exit_help}: the index's, which is the default; with a model whose exits were trained to share "
        "one space (train_hf.py finetune --align-exits) any that the model has",
    )
    demo = add("demo", _demo_command, (asking, model, making), "Index a source tree if need be, and search it.")
    demo.add_argument("--source-tree", type=Path, metavar="DIR", help="default: this Python's standard library")
    demo.add_argument(
        "--index", type=Path, metavar="PATH", help="folder of the index (default: one under .index)"
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command. Returns the exit code: 0, 2 for bad arguments, 1 for a failure named on stderr."""
    args = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # names and code may hold what the terminal cannot show
    try:
        args.run(args)
    except ValueError as error:
        args.parser.error(str(error))
    except KeyboardInterrupt:
        print("mose.search: interrupted; the next run continues an unfinished index", file=sys.stderr)
        return 130
    except Exception as error:  # the libraries that load models and read files raise what they like
        print(f"mose.search: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
