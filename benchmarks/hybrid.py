"""Compare MRR of embeddings alone, of BM25 alone and of `mose.search`'s fusion, for each exit and set."""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval.metrics import score_blocks
from mose.eval.retrieval import score
from mose.inference.bm25 import BM25
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.search import fuse
from mose.tokenization.prompts import prompt_for


class HybridSearch(Benchmark):
    """MRR of embeddings, of BM25, and of their fusion at several weights."""

    description = "MRR of embeddings, BM25 and their fusion."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_device(parser)
        command.add_model(parser)
        command.add_sets(parser)
        parser.set_defaults(max_length=512)
        parser.add_argument(
            "--dense-weights",
            nargs="+",
            type=float,
            default=[0.3, 0.5, 0.7, 0.8, 0.9],
            metavar="W",
            help="shares of the dense score in the fusion, in [0, 1] (default: %(default)s)",
        )

    def measure(self, options: argparse.Namespace) -> Report:
        model, tokenizer, exits = load_model(options.model, options.exit_layers, options.device)

        def embed(texts: Sequence[str], languages: Sequence[str], query: bool) -> dict[int, np.ndarray]:
            prompts = [prompt_for(language, query) for language in languages]
            dtype = command.DTYPES[options.dtype]
            return encode(model, tokenizer, texts, exits, prompts, options.max_length, dtype=dtype)

        sets = {}
        for data in command.retrieval_sets(options.data):
            documents = embed(data.documents, data.document_languages, False)
            queries = embed(data.queries, data.query_languages, True)

            # BM25 does not depend on the exit: one matrix of scores serves all of them.
            bm25 = BM25(data.documents)
            lexical = [bm25.scores(query)[None] for query in data.queries]
            rows = {
                str(k): fused_mrr(data, queries[k], documents[k], lexical, options.dense_weights) for k in exits
            }
            sets[data.name] = {"bm25": score(data, lexical)["mrr"], "exits": rows}
        return {"sets": sets}

    def render(self, report: Report) -> str:
        weights = {f"fused, {weight:g}": (f"{weight:g}", ".3f") for weight in report["settings"]["dense_weights"]}
        rows = {
            f"{name}, exit {k}": {"bm25": figures["bm25"], **row}
            for name, figures in report["sets"].items()
            for k, row in figures["exits"].items()
        }
        return command.figures_table("MRR", rows, {"bm25": ("bm25", ".3f"), "dense": ("dense", ".3f"), **weights})


def fused_mrr(
    data: RetrievalSet,
    queries: np.ndarray,
    documents: np.ndarray,
    lexical: Sequence[np.ndarray],
    weights: Sequence[float],
) -> dict[str, float]:
    """Return the MRR of the embeddings ("dense") and of their fusion with BM25 scores at each dense weight."""
    dense = [row[None] for block in score_blocks(queries, documents) for row in block]
    figures = {"dense": score(data, dense)["mrr"]}

    # Scores are fused query by query, as a search does it.
    for weight in weights:
        fused = (fuse(*scores, weight) for scores in zip(dense, lexical, strict=True))
        figures[f"{weight:g}"] = score(data, fused)["mrr"]
    return figures


if __name__ == "__main__":
    sys.exit(HybridSearch().main())
