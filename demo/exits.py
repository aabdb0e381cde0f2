"""The same query at each exit of a model: hits and times, and their HTML."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mose.inference.loading import load_model
from mose.search import Index
from mose.search.display import Results, safe_html
from mose.search.hits import Hit
from mose.search.places import default_location


class ExitAnswer(NamedTuple):
    """The answer of one exit."""

    milliseconds: float  # of embedding the query and ranking all units
    hits: Results[Hit]


def open_exits(
    tree: Path, model_name: str, exit_layers: Sequence[int] | None = None, progress: bool = True
) -> dict[int, Index]:
    """Return exit -> the index of a tree, whose queries are embedded at that exit.

    If the exits share one embedding space (`config.aligned_exits`), the tree is embedded once, at the deepest.
    Indexes are kept in the user's cache folder, and brought up to date here.

    Args:
        tree: folder to search.
        model_name: folder or Hub id of a MoSE.
        exit_layers: exits to show; None means all.
        progress: show progress bars on stderr.
    """
    model, tokenizer, exits = load_model(model_name, exit_layers)
    aligned = bool(getattr(model.config, "aligned_exits", False))

    indexes: dict[int, Index] = {}
    for exit_layer in reversed(exits):
        depth = exits[-1] if aligned else exit_layer
        path = default_location(tree, f"-demo-exit{depth}").name
        if depth == exit_layer:
            indexes[exit_layer] = Index.build(tree, model, tokenizer, path, depth, progress=progress)
        else:
            indexes[exit_layer] = Index.load(path, model, tokenizer, exit_layer)
        for _ in range(2):  # what the first searches load does not count
            indexes[exit_layer].search("warm up")
    return dict(sorted(indexes.items()))


def search_exits(indexes: Mapping[int, Index], query: str, top_k: int = 3) -> dict[int, ExitAnswer]:
    """Return exit -> its answer.

    Raises:
        ValueError: the query is empty, or `top_k` is below 1.
    """
    answers = {}
    for exit_layer, index in indexes.items():
        start = time.perf_counter()
        hits = index.search(query, top_k)
        answers[exit_layer] = ExitAnswer(1000 * (time.perf_counter() - start), hits)
    return answers


def answer_html(exit_layer: int, answer: ExitAnswer, first: Sequence[Any] = ()) -> str:
    """Return an answer as HTML; hits that are not among `first` are marked.

    Args:
        exit_layer: blocks run.
        answer: its answer.
        first: hits to compare with, such as those of exit 0.
    """
    blocks = "no block" if exit_layer == 0 else f"{exit_layer} block{'s' if exit_layer > 1 else ''}"
    title = f"<h3>exit {exit_layer} <small>{blocks}, {answer.milliseconds:.1f} ms</small></h3>"
    known = {(hit.path, hit.start_line) for hit in first}

    parts = []
    for hit in answer.hits:
        is_new = bool(first) and (hit.path, hit.start_line) not in known
        parts.append(f"{'<mark>new here</mark>' if is_new else ''}{hit._repr_html_()}")
    return title + ("".join(parts) or f"<p>{safe_html('Nothing.')}</p>")
