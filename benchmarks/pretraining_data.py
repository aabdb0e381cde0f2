"""How fast do pre-training examples come, how long are they, and do their lengths give the labels away?

For each context objective: the mean length of an input (the paper: 630 tokens without ICC, 1,300 with it, at a
context of 2,048); examples and tokens per second of processor time, reading and tokenizing included: what one
core gives, whatever else it has to do; and how often a classifier that sees only the lengths of an example's
snippets guesses its label right on examples that it has not seen: 0.5 is chance.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Sequence

import numpy as np
from command import Report, new_parser, positive, run, table
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.model_selection import cross_val_score
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast

from mose.data.pretraining.contexts import OBJECTIVES
from mose.data.pretraining.corpus import load_corpus
from mose.data.pretraining.stream import PreTrainingStream

MOST_SNIPPETS = 32


def lengths_of(ids: Sequence[int], sep: int) -> np.ndarray:
    """The lengths of an example's snippets in their order, then sorted, then their number and sum."""
    places = np.flatnonzero(np.asarray(ids) == sep)
    lengths = np.diff([*places, len(ids) - 1])[:MOST_SNIPPETS] - 1
    row = np.zeros(2 * MOST_SNIPPETS + 2)
    row[: len(lengths)] = lengths
    row[MOST_SNIPPETS : MOST_SNIPPETS + len(lengths)] = np.sort(lengths)
    row[-2:] = len(places), len(ids)
    return row


def measure(args: argparse.Namespace) -> Report:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(args.tokenizer)
    corpus = load_corpus(
        args.source_tree,
        args.dataset,
        shuffle_buffer=args.shuffle_buffer,
        held_out=0,
        progress=False,
    )
    rows = {}
    for objective in OBJECTIVES:
        stream = PreTrainingStream(corpus, tokenizer, args.max_length, objective)
        lengths, layouts, labels = [], [], []
        start = time.process_time()
        for example in tqdm(itertools.islice(stream, args.examples), objective, args.examples, disable=None):
            ids = example["input_ids"]
            lengths.append(len(ids))
            layouts.append(ids)
            labels.append(example.get("context_label"))
        seconds = time.process_time() - start  # of all threads
        accuracy = None
        if objective != "none":
            features = np.array([lengths_of(ids, tokenizer.sep_token_id) for ids in layouts])
            classifier = HistGradientBoostingClassifier(random_state=0)
            accuracy = float(cross_val_score(classifier, features, labels, cv=3).mean())
        rows[objective] = {
            "mean_length": float(np.mean(lengths)),
            "mean_snippets": float(np.mean([ids.count(tokenizer.sep_token_id) for ids in layouts])),
            "examples_per_second": len(lengths) / seconds,
            "tokens_per_second": sum(lengths) / seconds,
            "label_from_lengths": accuracy,
        }
    return {"files": corpus.counts["files"], "objectives": rows}


def render(report: Report) -> str:
    rows = [
        [
            objective,
            f"{row['mean_length']:.0f}",
            f"{row['mean_snippets']:.1f}",
            f"{row['examples_per_second']:.0f}",
            f"{row['tokens_per_second']:,.0f}",
            "" if row["label_from_lengths"] is None else f"{row['label_from_lengths']:.3f}",
        ]
        for objective, row in report["objectives"].items()
    ]
    settings = report["settings"]
    return f"{settings['examples']} examples of at most {settings['max_length']} tokens\n" + table(
        ["objective", "mean length", "snippets", "examples/s", "tokens/s", "label from lengths"], rows
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("Length, speed and leaks of pre-training examples, by context objective.")
    parser.add_argument("--tokenizer", default=".", help="folder or Hub id (default: this folder)")
    parser.add_argument(
        "--source-tree", nargs="*", default=[], metavar="DIR", help="repositories, or folders of packages"
    )
    parser.add_argument(
        "--dataset", nargs="*", default=[], metavar="ID_OR_FILE", help="datasets with a repository column"
    )
    parser.add_argument("--max-length", type=positive, default=512, help="tokens (default: %(default)s)")
    parser.add_argument(
        "--examples", type=positive, default=10_000, help="of each objective (default: %(default)s)"
    )
    parser.add_argument("--shuffle-buffer", type=positive, default=1024, help="files (default: %(default)s)")
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
