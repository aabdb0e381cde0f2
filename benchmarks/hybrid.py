"""Does fusing BM25 with the embeddings pay? MRR of either alone and of `mose.search`'s fusion, per exit and set.

python benchmarks/hybrid.py --data DIR [DIR …]
"""

import argparse
import sys
from collections.abc import Sequence

from command import DTYPES, Report, add_device, new_parser, positive, run, table

from mose.data.retrieval.retrieval_set import load_retrieval_set
from mose.eval.metrics import score_blocks
from mose.eval.retrieval import score
from mose.inference.bm25 import BM25
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.search import fuse
from mose.tokenization.prompts import prompt_for


def measure(options: argparse.Namespace) -> Report:
    """{"sets": {set: {"bm25": MRR, "exits": {exit: {"dense": MRR, dense weight: MRR of the fusion, …}}}}}"""
    dtype = DTYPES[options.dtype]
    model, tokenizer, exits = load_model(options.model, options.exit_layers, options.device)
    sets = {}
    for data in map(load_retrieval_set, options.data):
        bm25 = BM25(data.documents)
        lexical = [bm25.scores(query)[None] for query in data.queries]

        def embed(texts: Sequence[str], languages: Sequence[str], query: bool):
            prompts = [prompt_for(language, query) for language in languages]
            return encode(model, tokenizer, texts, exits, prompts, options.max_length, dtype=dtype)

        documents = embed(data.documents, data.document_languages, False)
        queries = embed(data.queries, data.query_languages, True)
        figures = {}
        for k in exits:
            dense = [row[None] for block in score_blocks(queries[k], documents[k]) for row in block]
            figures[str(k)] = {"dense": score(data, dense)["mrr"]} | {
                f"{weight:g}": score(data, (fuse(d, w, weight) for d, w in zip(dense, lexical, strict=True)))[
                    "mrr"
                ]
                for weight in options.dense_weights
            }
        sets[data.name] = {"bm25": score(data, lexical)["mrr"], "exits": figures}
    return {"sets": sets}


def render(report: Report) -> str:
    rows = []
    for name, figures in report["sets"].items():
        for k, by_weight in figures["exits"].items():
            cells = [f"{value:.3f}" for value in by_weight.values()]
            rows.append([name, k, f"{figures['bm25']:.3f}", *cells])
    weights = list(by_weight)[1:]
    return table(["set", "exit", "bm25", "dense", *(f"fused, {weight}" for weight in weights)], rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("MRR of embeddings, BM25 and their fusion.")
    parser.add_argument("--data", nargs="+", required=True, metavar="SET", help="folders or Hub ids, BEIR layout")
    parser.add_argument("--model", default=".", help="folder or Hub id of a MoSE (default: this folder)")
    parser.add_argument("--exit-layers", nargs="+", type=int, metavar="K", help="exits (default: all)")
    parser.add_argument(
        "--max-length", type=positive, default=512, metavar="TOKENS", help="cut off there (default: %(default)s)"
    )
    parser.add_argument(
        "--dense-weights",
        nargs="+",
        type=float,
        default=[0.3, 0.5, 0.7, 0.8, 0.9],
        metavar="W",
        help="shares of the dense score in the fusion, from 0 to 1 (default: %(default)s)",
    )
    add_device(parser)
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
