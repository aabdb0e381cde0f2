"""What does an exported exit gain and lose? MRR, speed and size of torch, ONNX and int8, side by side.

python benchmarks/export.py --data DIR [DIR …]

All read the same texts with the same prompts, cut off at the same number of tokens; tokenizing counts.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from command import Report, add_sample, new_parser, run, table
from timing import interleave
from transformers.utils import logging

from mose.data.retrieval.retrieval_set import load_retrieval_set
from mose.eval import speed
from mose.eval.metrics import score_blocks
from mose.eval.retrieval import score
from mose.hub.export import export
from mose.hub.onnx_encoder import OnnxEncoder, model_file
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.tokenization.prompts import prompt_for

#: Embeds texts that have their prompts.
Encoder = Callable[[list[str]], np.ndarray]
Work = dict[str, list[float]]
#: Queries that come before those that count.
WARM_UP = 5


def prepared(texts: Sequence[str], languages: Sequence[str], query: bool) -> list[str]:
    return [prompt_for(language, query) + text for text, language in zip(texts, languages, strict=True)]


def encoders(args: argparse.Namespace, folder: Path) -> tuple[dict[str, Encoder], dict[str, int]]:
    """Of each exit torch in both types, ONNX and int8; and the bytes of their weights."""
    model, tokenizer, exits = load_model(args.model, args.exit_layers, "cpu")
    export(model, args.model, folder, exits, int8=True)
    found: dict[str, Encoder] = {}
    sizes: dict[str, int] = {}

    def torch_encoder(texts: list[str], exit_layer: int, dtype: torch.dtype | None) -> np.ndarray:
        return encode(model, tokenizer, texts, [exit_layer], max_length=args.max_length, dtype=dtype)[exit_layer]

    for k in exits:
        found[f"exit {k}, torch fp32"] = partial(torch_encoder, exit_layer=k, dtype=None)
        found[f"exit {k}, torch bf16"] = partial(torch_encoder, exit_layer=k, dtype=torch.bfloat16)
        for int8, name in ((False, f"exit {k}, ONNX"), (True, f"exit {k}, ONNX int8")):
            exported = OnnxEncoder(folder, k, int8, torch.get_num_threads())
            exported.tokenizer.enable_truncation(min(args.max_length, tokenizer.model_max_length))
            found[name] = exported.encode
            sizes[name] = model_file(folder, k, int8).stat().st_size
    return found, sizes


def counted(task: Callable[[int], Any], seconds: list[float]) -> Callable[[int], Any]:
    """The task, which now notes the processor time that it takes: others at work do not add to it."""

    def run_task(at: int) -> None:
        start = time.process_time()
        task(at)
        seconds.append(time.process_time() - start)

    return run_task


def measure(args: argparse.Namespace) -> Report:
    logging.disable_progress_bar()
    sets = [load_retrieval_set(source) for source in args.data]
    with tempfile.TemporaryDirectory() as folder:
        found, sizes = encoders(args, Path(folder))
        rows: dict[str, dict[str, Any]] = {name: {"bytes": sizes.get(name), "mrr": {}} for name in found}
        for data in sets:
            documents = prepared(data.documents, data.document_languages, query=False)
            queries = prepared(data.queries, data.query_languages, query=True)
            for name, encoder in found.items():
                blocks = score_blocks(encoder(queries), encoder(documents))
                rows[name]["mrr"][data.name] = score(data, blocks)["mrr"]
        first = sets[0]
        asked = speed.sample(prepared(first.queries, first.query_languages, query=True), args.queries)
        texts = speed.sample(prepared(first.documents, first.document_languages, query=False), args.documents)

        def one_query(encoder: Encoder, at: int) -> np.ndarray:
            return encoder([asked[at]])

        def all_texts(encoder: Encoder, at: int) -> np.ndarray:
            return encoder(texts)

        query_work: Work = {name: [] for name in found}
        waits = interleave(
            {name: counted(partial(one_query, e), query_work[name]) for name, e in found.items()},
            len(asked),
            warm_up=WARM_UP,
            description="queries",
        )
        work: Work = {name: [] for name in found}
        passes = interleave(
            {name: counted(partial(all_texts, e), work[name]) for name, e in found.items()},
            args.rounds,
            description="documents",
        )
    for name, row in rows.items():
        row |= {
            "snippets_per_second": len(texts) / passes[name].median,
            "spread": passes[name].spread,
            "query_ms_p50": 1000 * waits[name].median,
            "query_ms_p95": 1000 * waits[name].percentile(95),
            "processor_ms_per_query": 1000 * median(query_work[name][WARM_UP:]),
            "processor_ms_per_snippet": 1000 * median(work[name][1:]) / len(texts),
        }
    return {"documents": len(texts), "queries": len(asked), "encoders": rows}


def render(report: Report) -> str:
    rows = report["encoders"]
    names = list(next(iter(rows.values()))["mrr"])
    lines = [
        [
            name,
            f"{row['bytes'] / 1e6:.1f} MB" if row["bytes"] else "",
            *(f"{row['mrr'][data]:.3f}" for data in names),
            f"{row['snippets_per_second']:.0f}",
            f"{100 * row['spread']:.0f} %",
            f"{row['query_ms_p50']:.2f}",
            f"{row['query_ms_p95']:.2f}",
            f"{row['processor_ms_per_query']:.2f}",
            f"{row['processor_ms_per_snippet']:.2f}",
        ]
        for name, row in rows.items()
    ]
    return table(
        ["", "file", *names, "snippets/s", "spread", "query ms p50", "p95", "cpu ms/query", "cpu ms/snippet"],
        lines,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("MRR, speed and size of exported exits beside the model.", rounds=5)
    parser.add_argument("--model", default=".", help="folder or Hub id of a MoSE (default: this folder)")
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="DIR_OR_ID",
        help="retrieval sets in the BEIR layout; speed is measured on the first",
    )
    parser.add_argument(
        "--exit-layers", type=int, nargs="+", metavar="K", help="exits to measure (default: all of the model's)"
    )
    add_sample(parser)
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
