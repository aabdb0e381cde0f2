"""`python -m mose.eval retrieval`: quality and speed at every exit on sets in the BEIR layout."""

import argparse

from mose.eval.commands.measuring import (
    add_measuring_arguments,
    check_measuring_arguments,
    measure_retrieval,
    write_outputs,
)
from mose.utils.command_line import ArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Measure MRR, NDCG@10 and Recall@k over the whole corpus at every exit, beside BM25 and "
        "sentence-transformers models, and the encoding speed of each."
    )

    text = "folder in the BEIR layout (corpus.jsonl, queries.jsonl, qrels.tsv or qrels/SPLIT.tsv), or Hub id"
    parser.add_argument("--data", required=True, action="extend", nargs="+", metavar="DIR_OR_ID", help=text)
    parser.add_argument("--split", default="test", help="split of the relevance judgements (default: test)")
    text = "drop queries without relevant documents, do not fail"
    parser.add_argument("--drop-unjudged", action="store_true", help=text)

    add_measuring_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Measure, and write the report."""
    # Slow to import.
    from mose.data.retrieval.retrieval_set import load_retrieval_set

    check_measuring_arguments(options)

    try:
        sets = [load_retrieval_set(source, options.split, options.drop_unjudged) for source in options.data]
    except FileNotFoundError as error:
        raise ArgumentError(f"--data {error}") from None

    write_outputs(options, measure_retrieval(options, sets))
