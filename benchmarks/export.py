"""What does an exported exit gain and lose? MRR, speed and size of torch, ONNX and int8, side by side.

python benchmarks/export.py --data DIR [DIR …]

All read the same texts with the same prompts, cut off at the same number of tokens; tokenizing counts.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from command import Report, add_sample, new_parser, run, table
from timing import interleave
from transformers.utils import logging

from mose.eval import speed
from mose.eval.beir import load_retrieval_set
from mose.eval.encoders import load_model, prompt_for
from mose.eval.encoding import encode
from mose.eval.metrics import score_blocks
from mose.eval.retrieval import score
from mose.hub.exporting import export
from mose.hub.onnx_encoder import OnnxEncoder, model_file

#: Embeds texts that have their prompts.
Encoder = Callable[[list[str]], np.ndarray]


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
        waits = interleave(
            {name: lambda at, e=encoder: e([asked[at]]) for name, encoder in found.items()},
            len(asked),
            warm_up=5,
            description="queries",
        )
        passes = interleave(
            {name: lambda at, e=encoder: e(texts) for name, encoder in found.items()},
            args.rounds,
            description="documents",
        )
    for name, row in rows.items():
        row |= {
            "snippets_per_second": len(texts) / passes[name].median,
            "spread": passes[name].spread,
            "query_ms_p50": 1000 * waits[name].median,
            "query_ms_p95": 1000 * waits[name].percentile(95),
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
        ]
        for name, row in rows.items()
    ]
    return table(["", "file", *names, "snippets/s", "spread", "query ms p50", "p95"], lines)


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
