"""`python -m mose.eval`: measure a MoSE, print what was measured.

Exit code 0 on success, 2 on bad arguments, 1 on a failure that is named on stderr, 130 when interrupted.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

DTYPES = ("fp32", "bf16")


class ArgumentError(Exception):
    """An argument that can only be judged once the thing it names has been looked at."""


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except ArgumentError as error:
        print(f"mose.eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mose.eval: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # the loaders of models and data raise what they like
        print(f"mose.eval: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mose.eval", description="Measure a MoSE at its exits.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    retrieval = commands.add_parser(
        "retrieval",
        help="quality and speed of retrieval, per exit, beside other models",
        description="MRR, NDCG@10 and Recall@k over the whole corpus at every exit, beside BM25 and "
        "sentence-transformers models, and how fast each encodes.",
    )
    retrieval.add_argument("--model", required=True, help="folder or Hub id of the MoSE")
    retrieval.add_argument(
        "--data",
        required=True,
        action="extend",
        nargs="+",
        metavar="DIR_OR_ID",
        help="retrieval set in the BEIR layout: a folder with corpus.jsonl, queries.jsonl and qrels.tsv or "
        "qrels/SPLIT.tsv, or the id of a Hub dataset; may be repeated",
    )
    retrieval.add_argument("--split", default="test", help="split of the relevance judgements (default: test)")
    retrieval.add_argument(
        "--drop-unjudged",
        action="store_true",
        help="set aside queries without relevant documents instead of refusing the set",
    )
    retrieval.add_argument(
        "--exit-layers",
        nargs="+",
        default=["all"],
        metavar="K",
        help="exits to measure, in blocks run, or 'all' (default)",
    )
    retrieval.add_argument(
        "--peers",
        action="extend",
        nargs="+",
        default=[],
        metavar="PEER",
        help="what to measure beside it: bm25, all-MiniLM-L6-v2, or any folder or Hub id of a "
        "sentence-transformers model",
    )
    retrieval.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="let peers run the code that they bring along (the --model always may)",
    )
    retrieval.add_argument("--json", metavar="FILE", help="write the report there; - means stdout")
    retrieval.add_argument(
        "--max-length",
        type=_positive,
        metavar="TOKENS",
        help="cut texts off after so many tokens; a peer that allows fewer keeps its own limit "
        "(default: what each model allows)",
    )
    retrieval.add_argument(
        "--dtype", choices=DTYPES, default="fp32", help="compute type of all models (default: fp32)"
    )
    retrieval.add_argument(
        "--device", help="where models run, such as cpu or cuda (default: a GPU if there is one)"
    )
    retrieval.add_argument("--no-speed", action="store_true", help="measure quality alone")
    retrieval.set_defaults(run=_retrieval)

    table = commands.add_parser(
        "table", help="print a stored report as markdown", description="Print a stored report as markdown."
    )
    table.add_argument("report", metavar="FILE", help="what retrieval --json wrote; - means stdin")
    table.add_argument(
        "--metrics", nargs="+", metavar="METRIC", help="which metrics, such as mrr ndcg@10 (default: all)"
    )
    table.set_defaults(run=_table)
    return parser


def _retrieval(options: argparse.Namespace) -> None:
    wanted = _exit_layers(options.exit_layers)
    if options.json not in (None, "-") and not Path(options.json).absolute().parent.is_dir():
        raise ArgumentError(f"--json {options.json}: there is no folder {Path(options.json).parent}")

    import torch
    from transformers.utils import logging

    from mose.eval.beir import load_retrieval_set
    from mose.eval.peers import load_peer
    from mose.eval.report import terminal
    from mose.eval.retrieval import evaluate, load_model

    logging.disable_progress_bar()  # bars of weights being loaded say nothing of how long this will take
    dtype = torch.bfloat16 if options.dtype == "bf16" else None
    try:
        sets = [load_retrieval_set(source, options.split, options.drop_unjudged) for source in options.data]
    except FileNotFoundError as error:
        raise ArgumentError(f"--data {error}") from None
    try:
        model, tokenizer, exits = load_model(options.model, wanted, options.device)
    except (ValueError, OSError) as error:
        raise ArgumentError(f"--model {options.model}: {error}") from None
    except Exception as error:  # such as a checkpoint that was cut short
        raise RuntimeError(f"--model {options.model}: cannot be loaded: {error}") from error
    peers = [
        load_peer(name, options.max_length, dtype, str(model.device), options.trust_remote_code)
        for name in options.peers
    ]
    report = evaluate(
        model,
        tokenizer,
        sets,
        exits,
        peers,
        options.max_length,
        dtype,
        measure_speed=not options.no_speed,
        progress=sys.stderr.isatty(),
    )
    document = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    if options.json == "-":
        sys.stdout.write(document)
    elif options.json:
        Path(options.json).write_text(document, encoding="utf-8")
    out = sys.stderr if options.json == "-" else sys.stdout
    threads = torch.get_num_threads()
    print(f"{options.model}: {options.dtype} on {model.device.type}, {threads} threads\n", file=out)
    print(terminal(report, shutil.get_terminal_size((120, 24)).columns), file=out)


def _table(options: argparse.Namespace) -> None:
    from mose.eval.report import markdown

    try:
        text = sys.stdin.read() if options.report == "-" else Path(options.report).read_text(encoding="utf-8")
    except OSError as error:
        raise ArgumentError(f"{options.report}: {error.strerror}") from None
    try:
        report: Any = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{options.report}: not JSON: {error}") from None
    if not isinstance(report, dict) or not {"sets", "speed"} <= report.keys():
        raise ValueError(f"{options.report}: not a report: it must be an object with 'sets' and 'speed'")
    try:
        print(markdown(report, options.metrics))
    except ValueError as error:
        raise ArgumentError(f"--metrics: {error}") from None


def _exit_layers(words: list[str]) -> list[int] | None:
    if words == ["all"]:
        return None
    try:
        return [int(word) for word in words]
    except ValueError:
        raise ArgumentError(f"--exit-layers {' '.join(words)}: give whole numbers, or 'all' alone") from None


def _positive(word: str) -> int:
    if not word.isdecimal() or not int(word):
        raise argparse.ArgumentTypeError(f"{word!r}: give a whole number of at least 1")
    return int(word)


if __name__ == "__main__":
    sys.exit(main())
