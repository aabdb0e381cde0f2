"""`python -m mose.eval retrieval`: quality and speed at every exit on sets in the BEIR layout."""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from mose.eval.commands.shared import DTYPES, ArgumentError, check_output, devices, exit_layers, positive
from mose.utils.files import atomic_write


def add(commands: Any) -> None:
    retrieval = commands.add_parser(
        "retrieval",
        help="quality and speed of retrieval, per exit, beside other models",
        description="MRR, NDCG@10 and Recall@k over the whole corpus at every exit, beside BM25 and "
        "sentence-transformers models, and how fast each encodes.",
    )
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
    add_measuring(retrieval)
    retrieval.set_defaults(run=run)


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """The flags of every command that measures: model, exits, peers, how and where."""
    parser.add_argument("--model", required=True, help="folder or Hub id of the MoSE")
    parser.add_argument(
        "--exit-layers",
        nargs="+",
        default=["all"],
        metavar="K",
        help="exits to measure, in blocks run, or 'all' (default)",
    )
    parser.add_argument(
        "--peers",
        action="extend",
        nargs="+",
        default=[],
        metavar="PEER",
        help="what to measure beside it: bm25, all-MiniLM-L6-v2, any folder or Hub id of a sentence-transformers "
        "model, or another MoSE, at all its exits or with @K behind it at exit K",
    )
    parser.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="let peers run the code that they bring along (the --model always may)",
    )
    parser.add_argument(
        "--name", help="what the report calls the model (default: the last part of its folder or Hub id)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the report there; - means stdout")
    parser.add_argument("--plots", metavar="DIR", help="draw the report into PNG files there")
    parser.add_argument(
        "--write-card",
        metavar="FILE",
        help="put every exit's figures into the model-index of this model card, and change nothing else of it",
    )
    parser.add_argument(
        "--max-length",
        type=positive,
        metavar="TOKENS",
        help="cut texts off after so many tokens; a peer that allows fewer keeps its own limit "
        "(default: what each model allows)",
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, default="fp32", help="compute type of all models (default: fp32)"
    )
    parser.add_argument("--device", help="where models run, such as cpu or cuda (default: a GPU if there is one)")
    parser.add_argument("--no-speed", action="store_true", help="measure quality alone")
    parser.add_argument(
        "--no-intervals",
        action="store_true",
        help="leave out bootstrap intervals and the permutation tests between exits",
    )
    parser.add_argument(
        "--cache",
        metavar="DIR",
        help="keep embeddings there: a run that was killed goes on from them, and the next one uses them "
        "where model, texts and settings are the same",
    )
    parser.add_argument(
        "--num-proc",
        type=positive,
        default=1,
        metavar="N",
        help="encode corpora in N processes: on a GPU each, where there are GPUs, or sharing the CPU's threads "
        "(default: 1, and none beside this one)",
    )


def run(options: argparse.Namespace) -> None:
    from mose.data.retrieval.retrieval_set import load_retrieval_set

    check_measuring(options)
    try:
        sets = [load_retrieval_set(source, options.split, options.drop_unjudged) for source in options.data]
    except FileNotFoundError as error:
        raise ArgumentError(f"--data {error}") from None
    write(options, measure(options, sets))


def check_measuring(options: argparse.Namespace) -> None:
    """What of those flags can be judged before anything is loaded.

    Raises:
        ArgumentError: exits that are no numbers, or a report that could not be written.
    """
    exit_layers(options.exit_layers)
    check_output("--json", options.json)
    if options.write_card and not Path(options.write_card).is_file():
        raise ArgumentError(f"--write-card {options.write_card}: no such file")


def measure(options: argparse.Namespace, sets: list[Any]) -> dict[str, Any]:
    """The report of the model and the peers that `options` name, on `sets`.

    Raises:
        ArgumentError: no such model, or an exit that it does not have.
        RuntimeError: a model that is there and cannot be loaded.
    """
    import torch
    from transformers.utils import logging

    from mose.eval.baselines import load_peer
    from mose.eval.retrieval import evaluate
    from mose.inference.loading import load_model

    logging.disable_progress_bar()  # bars of weights being loaded say nothing of how long this will take
    dtype = torch.bfloat16 if options.dtype == "bf16" else None
    try:
        model, tokenizer, exits = load_model(options.model, exit_layers(options.exit_layers), options.device)
    except (ValueError, OSError) as error:
        raise ArgumentError(f"--model {options.model}: {error}") from None
    except Exception as error:  # such as a checkpoint that was cut short
        raise RuntimeError(f"--model {options.model}: cannot be loaded: {error}") from error
    device = str(model.device)
    peers = [
        load_peer(name, options.max_length, dtype, device, options.trust_remote_code) for name in options.peers
    ]
    return evaluate(
        model,
        tokenizer,
        sets,
        exits,
        peers,
        options.max_length,
        dtype,
        measure_speed=not options.no_speed,
        progress=sys.stderr.isatty(),
        certainty=not options.no_intervals,
        cache=options.cache,
        name=options.name,
        devices=devices(device, options.num_proc),
    )


def write(options: argparse.Namespace, report: dict[str, Any]) -> None:
    """The report as JSON, pictures and figures of a card, where that is asked for, and as a table on the other of
    stdout and stderr."""
    import torch

    from mose.eval.report import terminal

    document = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    if options.json == "-":
        sys.stdout.write(document)
    elif options.json:
        with atomic_write(Path(options.json)) as file:
            file.write(document.encode())
    if options.plots:
        from mose.eval.plots import plot_report

        plot_report(report, options.plots)
    if options.write_card:
        from mose.eval.model_index import write_card

        write_card(report, options.write_card)
    out = sys.stderr if options.json == "-" else sys.stdout
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{options.model}: {options.dtype} on {device}, {torch.get_num_threads()} threads\n", file=out)
    print(terminal(report, shutil.get_terminal_size((120, 24)).columns), file=out)
