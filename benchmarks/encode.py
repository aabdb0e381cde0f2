"""Measure snippets per second and milliseconds per query: each exit, all exits in one pass, and other models.

All encode the same sample, truncated to the same number of tokens, with the same compute type and threads.
Tokenizing counts, since a user waits for it.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval import speed
from mose.eval.baselines import MINILM, SentenceTransformerBaseline, load_baseline
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.tokenization.prompts import prompt_for

EncodeFunction = Callable[[Sequence[str]], Any]
ALL_EXITS = "all exits"  # in one pass
COLUMNS = {
    "snippets/s": ("snippets_per_second", ".0f"),
    "spread": ("spread", ".0%"),
    "query ms p50": ("query_ms_p50", ".2f"),
    "p95": ("query_ms_p95", ".2f"),
}


class EncodeFunctions(NamedTuple):
    """The two functions of one row of the table."""

    documents: EncodeFunction
    queries: EncodeFunction


def add_sample(parser: argparse.ArgumentParser) -> None:
    """Add the flags for the sample that is timed."""
    command.add_count(parser, "--documents", speed.DOCUMENTS, "size of the sample of documents that is timed")
    command.add_count(parser, "--queries", speed.QUERIES, "size of the sample of queries that is timed")
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the processor time of all threads: for ratios on a machine with other load",
    )


def time_encoders(
    functions: Mapping[str, EncodeFunctions], data: RetrievalSet, options: argparse.Namespace
) -> tuple[dict[str, Report], dict[str, command.Timing]]:
    """Time passes over a sample of documents, and queries one at a time.

    Returns:
        The figures of each row, and its times of a pass over the documents.
    """
    documents = speed.sample(data.documents, options.documents)
    queries = speed.sample(data.queries, options.queries)

    # The first batch allocates memory and compiles kernels, so it must not be timed.
    for encoder in functions.values():
        encoder.documents(documents[: speed.WARM_UP])

    def encode_batch(number: int, function: EncodeFunction, batches: Sequence[list[str]]) -> None:
        function(batches[number])

    clock = time.process_time if options.cpu_time else None
    tasks = {
        name: partial(encode_batch, function=encoder.documents, batches=[documents] * options.rounds)
        for name, encoder in functions.items()
    }
    passes = command.interleave(tasks, options.rounds, warm_up=0, description="documents", clock=clock)

    # Queries arrive one at a time, so each is a batch of its own.
    tasks = {
        name: partial(encode_batch, function=encoder.queries, batches=[[query] for query in queries])
        for name, encoder in functions.items()
    }
    waits = command.interleave(tasks, len(queries), warm_up=5, description="queries", clock=clock)

    rows = {
        name: {
            "snippets_per_second": len(documents) / passes[name].median,
            "spread": passes[name].spread,
            "query_ms_p50": 1000 * waits[name].median,
            "query_ms_p95": 1000 * waits[name].percentile(95),
        }
        for name in functions
    }
    return rows, passes


class EncodingSpeed(Benchmark):
    """Speed of the exits of a MoSE beside sentence-transformers models."""

    description = "Snippets per second at each exit, beside other models."
    rounds = 5

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_device(parser)
        command.add_model(parser)
        command.add_sets(parser)
        add_sample(parser)
        help_text = "sentence-transformers models (default: MiniLM)"
        parser.add_argument("--peers", nargs="*", default=[MINILM], metavar="PEER", help=help_text)

    def measure(self, options: argparse.Namespace) -> Report:
        data = command.retrieval_sets(options.data)[0]
        functions = self._functions(options, data.document_languages[0])
        rows, passes = time_encoders(functions, data, options)

        report: Report = {"set": data.name, "speed": rows}
        if ALL_EXITS in rows:
            # Exits are listed from shallow to deep, so the deepest precedes the row of all.
            deepest = list(rows)[list(rows).index(ALL_EXITS) - 1]
            report["all_exits_cost"] = passes[ALL_EXITS].median / passes[deepest].median
        return report

    def _functions(self, options: argparse.Namespace, language: str) -> dict[str, EncodeFunctions]:
        model, tokenizer, exits = load_model(options.model, options.exit_layers, options.device)
        dtype = None if options.dtype == "fp32" else command.DTYPES[options.dtype]
        prompts = prompt_for(language, query=False), prompt_for("", query=True)

        # One pass for each exit, and one pass for all of them.
        layers = {f"exit {k}": [k] for k in exits} | ({ALL_EXITS: exits} if len(exits) > 1 else {})
        rows = {}
        for name, exit_layers in layers.items():
            encode_at = partial(encode, model, tokenizer, exit_layers=exit_layers, dtype=dtype)
            encode_at = partial(encode_at, max_length=options.max_length)
            rows[name] = EncodeFunctions(*(partial(encode_at, prompts=prompt) for prompt in prompts))

        for source in options.peers:
            baseline = load_baseline(source, options.max_length, dtype, options.device)
            if not isinstance(baseline, SentenceTransformerBaseline):
                raise ValueError(f"--peers must be sentence-transformers models, got {source}.")
            rows[baseline.name] = EncodeFunctions(baseline.encode_documents, baseline.encode_queries)
        return rows

    def render(self, report: Report) -> str:
        head = "at most {max_length} tokens, queries one at a time, {dtype}".format_map(report["settings"])
        text = f"{report['set']}: {head}\n{command.figures_table('', report['speed'], COLUMNS)}"
        if "all_exits_cost" in report:
            text += f"\n\nall exits in one pass take {report['all_exits_cost']:.3f} times the deepest exit's time"
        return text


if __name__ == "__main__":
    sys.exit(EncodingSpeed().main())
