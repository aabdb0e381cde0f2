"""How fast does a model encode at each exit, and at all of them in one pass? Snippets per second, beside others.

All see the same sample, cut off at the same number of tokens, with the same compute type and threads. Tokenizing
counts, since a user waits for it.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from command import DTYPES, Report, add_device, add_sample, new_parser, run, table
from timing import interleave
from transformers.utils import logging

from mose.data.retrieval.retrieval_set import load_retrieval_set
from mose.eval import speed
from mose.eval.baselines import MINILM, SentenceTransformerBaseline, load_baseline
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.tokenization.prompts import prompt_for

Encoder = Callable[[list[str]], Any]
ALL = "all exits"  # from one pass


def encoders(args: argparse.Namespace, language: str) -> dict[str, tuple[Encoder, Encoder]]:
    """How to encode documents and queries, at each exit and by each peer."""
    model, tokenizer, exits = load_model(args.model, args.exit_layers, args.device)
    dtype = None if args.dtype == "fp32" else DTYPES[args.dtype]
    found: dict[str, tuple[Encoder, Encoder]] = {}
    for k in exits:
        at_exit = partial(encode, model, tokenizer, exit_layers=[k], max_length=args.max_length, dtype=dtype)
        prompts = prompt_for(language, query=False), prompt_for("", query=True)
        found[f"exit {k}"] = partial(at_exit, prompts=prompts[0]), partial(at_exit, prompts=prompts[1])
    if len(exits) > 1:
        every = partial(encode, model, tokenizer, exit_layers=exits, max_length=args.max_length, dtype=dtype)
        prompts = prompt_for(language, query=False), prompt_for("", query=True)
        found[ALL] = partial(every, prompts=prompts[0]), partial(every, prompts=prompts[1])
    for name in args.peers:
        peer = load_baseline(name, args.max_length, dtype, args.device)
        if not isinstance(peer, SentenceTransformerBaseline):
            raise ValueError(f"--peers {name}: encodes nothing; give sentence-transformers models")
        found[peer.name] = peer.encode_documents, peer.encode_queries
    return found


def measure(args: argparse.Namespace) -> Report:
    logging.disable_progress_bar()
    data = load_retrieval_set(args.data)
    texts, asked = speed.sample(data.documents, args.documents), speed.sample(data.queries, args.queries)
    both = encoders(args, data.document_languages[0])
    for of_documents, _ in both.values():
        of_documents(texts[: speed.WARM_UP])

    def task(encoder: Encoder, batches: list[list[str]]) -> Callable[[int], Any]:
        return lambda round_: encoder(batches[round_])

    clock = time.process_time if args.cpu_time else None
    passes = interleave(
        {name: task(encoder, [texts] * args.rounds) for name, (encoder, _) in both.items()},
        args.rounds,
        warm_up=0,
        description="documents",
        clock=clock,
    )
    waits = interleave(
        {name: task(encoder, [[query] for query in asked]) for name, (_, encoder) in both.items()},
        len(asked),
        warm_up=5,
        description="queries",
        clock=clock,
    )
    rows = {
        name: {
            "snippets_per_second": len(texts) / passes[name].median,
            "spread": passes[name].spread,
            "query_ms_p50": 1000 * waits[name].median,
            "query_ms_p95": 1000 * waits[name].percentile(95),
        }
        for name in both
    }
    report = {"set": data.name, "documents": len(texts), "queries": len(asked), "speed": rows}
    if ALL in rows:
        deepest = list(rows)[list(rows).index(ALL) - 1]
        report["all_exits_cost"] = passes[ALL].median / passes[deepest].median
    return report


def render(report: Report) -> str:
    settings, speeds = report["settings"], report["speed"]
    slowest = min(row["snippets_per_second"] for row in speeds.values())
    rows = [
        [
            name,
            f"{row['snippets_per_second']:.0f}",
            f"{row['snippets_per_second'] / slowest:.1f}",
            f"{100 * row['spread']:.0f} %",
            f"{row['query_ms_p50']:.1f}",
            f"{row['query_ms_p95']:.1f}",
        ]
        for name, row in speeds.items()
    ]
    cost = report.get("all_exits_cost")
    note = f"\n\nall exits in one pass take {cost:.3f} times as long as the deepest alone" if cost else ""
    return (
        f"{report['set']}: {report['documents']} documents of at most {settings['max_length']} tokens, "
        f"{report['queries']} queries one at a time, {settings['dtype']}\n"
        + table(["", "snippets/s", "× slowest", "spread", "query ms p50", "p95"], rows)
        + note
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = new_parser("Snippets per second at each exit, beside other models.", rounds=5)
    add_device(parser)
    parser.add_argument("--model", default=".", help="folder or Hub id of a MoSE (default: this folder)")
    parser.add_argument(
        "--data", required=True, metavar="DIR_OR_ID", help="retrieval set in the BEIR layout, such as CoSQA"
    )
    parser.add_argument(
        "--exit-layers", type=int, nargs="+", metavar="K", help="exits to measure (default: all of the model's)"
    )
    parser.add_argument(
        "--peers",
        nargs="*",
        default=[MINILM],
        metavar="PEER",
        help="sentence-transformers models (default: MiniLM)",
    )
    add_sample(parser)
    parser.add_argument(
        "--cpu-time",
        action="store_true",
        help="count the processor time of all threads instead of the time that passes: for ratios on a machine "
        "that others use",
    )
    return run(parser, measure, render, arguments)


if __name__ == "__main__":
    sys.exit(main())
