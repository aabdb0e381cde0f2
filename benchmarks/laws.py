"""Measure in one run what the speed of a MoSE should be: a table of laws, and quality against speed beside peers.

A law is a ratio of two figures of this run with a bound, such as exit 3 over all-MiniLM-L6-v2. `--picture FILE`
draws the MRR of each exit and peer over its speed. `--before CHECKOUT` times an earlier checkout's exits as well.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from tqdm import tqdm

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.benchmarks.encode import ALL_EXITS, EncodeFunctions, add_sample, time_encoders
from mose.benchmarks.exits import ExitTimes
from mose.benchmarks.gradcache import GradCacheStep
from mose.benchmarks.loading import PartialLoading
from mose.benchmarks.peers import MODEL2VEC, ONNX_INT8, load_peers
from mose.benchmarks.pretraining import PreTrainingStep
from mose.benchmarks.static import FIRST_VECTOR, first_vector_seconds
from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval.baselines import MINILM, BM25Baseline
from mose.eval.metrics import score_blocks
from mose.eval.retrieval import score
from mose.eval.speed import sample
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.inference.static import StaticEncoder
from mose.tokenization.prompts import prompt_for

STATIC = "exit 0, no torch"
COLUMNS = {
    "snippets/s": ("snippets_per_second", ".0f"),
    "spread": ("spread", ".0%"),
    "query ms p50": ("query_ms_p50", ".2f"),
    "MRR": ("mrr", ".3f"),
}
#: Parts that take longest -> their benchmark and its flags.
PARTS: dict[str, tuple[type[Benchmark], tuple[str, ...]]] = {
    "exits": (ExitTimes, ("--models", "mose-nano-256-deep")),
    "pretraining": (PreTrainingStep, ()),
    "finetuning": (GradCacheStep, ("--batches", "64", "--timed-batch", "64")),
    "loading": (PartialLoading, ()),
}
#: Times the exits of the `mose` that it imports: model, compute type, file of texts, tokens, passes.
TIME_EXITS = """
import json, pathlib, sys, time
import torch
from mose.inference.encoding import encode
from mose.inference.loading import load_model
source, dtype, texts, length, passes = sys.argv[1:]
texts = json.loads(pathlib.Path(texts).read_text())
model, tokenizer, exits = load_model(source, None, "cpu", trust_remote_code=False)
options = {"max_length": int(length), "dtype": getattr(torch, dtype)}
seconds = {k: [] for k in exits}
for number in range(int(passes) + 1):
    for k in exits:
        start = time.process_time()
        encode(model, tokenizer, texts, [k], **options)
        if number:
            seconds[k].append(time.process_time() - start)
print(json.dumps({k: min(times) for k, times in seconds.items()}))
"""


class Law(NamedTuple):
    """A ratio of this run and its bound."""

    name: str
    value: float | None  # None: it was not measured
    bound: float
    at_least: bool = True

    @property
    def outcome(self) -> str:
        """The outcome in a word: whether the bound is kept."""
        if self.value is None:
            return "not measured"
        is_met = self.value >= self.bound if self.at_least else self.value <= self.bound
        return "met" if is_met else "MISSED"


class Laws(Benchmark):
    """Every law of speed and every peer at hand, in one run."""

    description = "Laws of speed and peers in one run, as a table and a picture."
    rounds = 5

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_device(parser)
        command.add_model(parser)
        command.add_sets(parser)
        add_sample(parser)
        parser.set_defaults(dtype="bf16")
        parser.add_argument("--picture", type=Path, metavar="FILE", help="draw MRR against speed, as PNG or SVG")
        parser.add_argument("--before", type=Path, metavar="CHECKOUT", help="an earlier checkout to compare with")
        names = ", ".join(PARTS)
        help_text = f"parts to leave out, of {names}"
        parser.add_argument("--skip", nargs="*", choices=tuple(PARTS), default=[], metavar="PART", help=help_text)

    def measure(self, options: argparse.Namespace) -> Report:
        if options.before and not (options.before / "modeling_mose.py").is_file():
            raise ValueError(f"--before must be a checkout of the project, got {options.before}.")
        data = command.retrieval_sets(options.data)[0]

        with tempfile.TemporaryDirectory() as folder:
            functions, left_out = encoders(options, data, Path(folder))
            rows, passes = time_encoders(functions, data, options)
            for name, figures in quality(functions, data).items():
                rows.setdefault(name, dict.fromkeys(("snippets_per_second", "spread", "query_ms_p50")))["mrr"] = (
                    figures
                )
            parts = measure_parts(options, left_out)
            if options.before:
                parts["before"] = against_checkout(options, data, Path(folder))

        seconds = {name: timing.median for name, timing in passes.items()}
        cold = [first_vector_seconds(FIRST_VECTOR["static fp32"], options.model) for _ in range(3)]
        laws = [*encoding_laws(seconds, median(cold)), *part_laws(parts)]
        if options.picture:
            draw(rows, options.picture, data.name)
        table = [{**law._asdict(), "outcome": law.outcome} for law in laws]
        return {"set": data.name, "speed": rows, "laws": table, "left_out": left_out, "parts": parts}

    def render(self, report: Report) -> str:
        laws = [
            [
                law["name"],
                command.figure(law["value"], ".3f"),
                f"{'≥' if law['at_least'] else '≤'} {law['bound']:g}",
                law["outcome"],
            ]
            for law in report["laws"]
        ]
        left_out = "".join(f"\nleft out: {name}: {reason}" for name, reason in report["left_out"].items())
        speed = command.figures_table("", report["speed"], COLUMNS)
        return (
            f"{report['set']}, at most {report['settings']['max_length']} tokens\n{speed}{left_out}\n\n"
            + command.text_table(["law", "this run", "bound", ""], laws)
        )


def encoders(
    options: argparse.Namespace, data: RetrievalSet, folder: Path
) -> tuple[dict[str, EncodeFunctions], dict[str, str]]:
    """Return how to encode with each row of the table, and the peers that are left out with the reason."""
    model, tokenizer, exits = load_model(options.model, options.exit_layers, options.device)
    dtype = None if options.dtype == "fp32" else command.DTYPES[options.dtype]
    prompts = prompt_for(data.document_languages[0], query=False), prompt_for("", query=True)

    def pair(encode_texts: Callable[..., Any]) -> EncodeFunctions:
        return EncodeFunctions(*(partial(encode_texts, prompts=prompt) for prompt in prompts))

    def at(texts: Any, prompts: str, exit_layer: int) -> Any:
        limits = {"max_length": options.max_length, "dtype": dtype}
        return encode(model, tokenizer, texts, [exit_layer], prompts, **limits)[exit_layer]

    rows = {f"exit {k}": pair(partial(at, exit_layer=k)) for k in exits}
    everything = partial(encode, model, tokenizer, exit_layers=exits, dtype=dtype, max_length=options.max_length)
    rows[ALL_EXITS] = pair(everything)
    if 0 in exits:
        rows[STATIC] = pair(StaticEncoder(options.model, max_length=options.max_length).encode)

    backend = tokenizer.backend_tokenizer
    peers, left_out = load_peers(model, backend, options.max_length, dtype, options.device, folder)
    return rows | peers, left_out


def quality(functions: dict[str, EncodeFunctions], data: RetrievalSet) -> dict[str, float | None]:
    """Return the MRR of each row that returns vectors, and of BM25."""
    figures: dict[str, float | None] = {}
    for name, functions_of_row in tqdm(functions.items(), "quality", unit="row"):
        figures[name] = None
        if name in (ALL_EXITS, "tokenizer alone"):
            continue

        vectors = [functions_of_row.queries(list(data.queries)), functions_of_row.documents(list(data.documents))]
        # model2vec does not scale its vectors.
        units = [part / (part**2).sum(axis=1, keepdims=True).clip(1e-12) ** 0.5 for part in vectors]
        figures[name] = score(data, score_blocks(*units))["mrr"]
    return figures | {"BM25": score(data, BM25Baseline().scores(data))["mrr"]}


def measure_parts(options: argparse.Namespace, left_out: dict[str, str]) -> dict[str, Report]:
    """Run the benchmarks of `PARTS` with their own defaults, and note those that cannot run in `left_out`."""
    reports = {}
    for name, (benchmark, flags) in tqdm(PARTS.items(), "parts", unit="part"):
        if name in options.skip:
            left_out[name] = "--skip"
            continue

        parser = argparse.ArgumentParser()
        benchmark().add_arguments(parser)
        words = list(flags)
        if name != "loading":
            words += ["--device", options.device]
        part = parser.parse_args(words, argparse.Namespace(rounds=options.rounds, threads=options.threads))
        try:
            reports[name] = benchmark().measure(part)
        except (RuntimeError, OSError) as error:
            left_out[name] = str(error)
    return reports


def against_checkout(options: argparse.Namespace, data: RetrievalSet, folder: Path) -> Report:
    """Return exit -> processor time of an earlier checkout over today's, from processes that take turns."""
    texts = folder / "texts.json"
    texts.write_text(json.dumps(sample(data.documents, options.documents)), encoding="utf-8")
    checkouts = {"before": options.before, "now": Path(__file__).resolve().parent.parent}
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}

    for name, checkout in checkouts.items():
        (folder / name).mkdir()
        (folder / name / "mose").symlink_to(checkout.resolve())
    dtype = str(command.DTYPES[options.dtype]).removeprefix("torch.")
    arguments = [options.model, dtype, str(texts), str(options.max_length), "3"]
    for _ in tqdm(range(3), "earlier checkout", unit="round"):
        for name in checkouts:
            environment = {**os.environ, "PYTHONPATH": str(folder / name)}
            run = [sys.executable, "-c", TIME_EXITS, *arguments]
            done = subprocess.run(run, env=environment, stdout=subprocess.PIPE, check=True, text=True)
            seconds[name].append(json.loads(done.stdout.splitlines()[-1]))

    best = {name: {k: min(run[k] for run in runs) for k in runs[0]} for name, runs in seconds.items()}
    return {k: best["before"][k] / best["now"][k] for k in best["now"]}


def encoding_laws(seconds: dict[str, float], cold: float) -> list[Law]:
    """Return the laws of encoding, from the seconds of a pass of each row and of a cold process."""

    def ratio(slow: str, fast: str) -> float | None:
        return seconds[slow] / seconds[fast] if slow in seconds and fast in seconds else None

    # Exits are listed from shallow to deep.
    deepest = [name for name in seconds if name.startswith("exit ") and name != STATIC][-1]
    return [
        Law(f"speed of {STATIC}, over model2vec", ratio(MODEL2VEC, STATIC), 0.6),
        Law("speed of exit 0 in torch, over model2vec", ratio(MODEL2VEC, "exit 0"), 0.5),
        Law(f"speed of {deepest} over {MINILM}", ratio(MINILM, deepest), 5),
        Law(f"speed of {deepest} over {ONNX_INT8}", ratio(ONNX_INT8, deepest), 2),
        Law(f"time of all exits in one pass, over {deepest}", ratio(ALL_EXITS, deepest), 1.06, at_least=False),
        Law(f"seconds to the first vector of a cold process, {STATIC}", cold, 0.5, at_least=False),
    ]


def part_laws(parts: dict[str, Report]) -> list[Law]:
    """Return the laws of the parts that were measured."""
    laws = []
    if "pretraining" in parts:
        name = "time of five exits over one in pre-training, over the FLOPs'"
        laws.append(Law(name, parts["pretraining"]["time_over_flops"], 1.05, at_least=False))

    if "finetuning" in parts:
        times = parts["finetuning"]["time"]
        ratio = times["kept"]["seconds"] / times["cached"]["seconds"]
        laws.append(
            Law("time of a fine-tuning step with its graphs, over GradCache", ratio, 0.75, at_least=False)
        )

    if "loading" in parts:
        rows = list(parts["loading"]["exits"].values())
        share = rows[0]["read_bytes"] / rows[-1]["read_bytes"]
        laws.append(Law("share of a file of 36 blocks read at exit 4", share, 0.25, at_least=False))

    if "exits" in parts:
        worst = max(abs(model["worst_deviation_percent"]) for model in parts["exits"]["models"].values()) / 100
        laws.append(Law("deviation of an exit's time from its blocks'", worst, 0.03, at_least=False))

    laws += [
        Law(f"speed of exit {k} over the earlier checkout", ratio, 1.4)
        for k, ratio in parts.get("before", {}).items()
        if int(k) > 0
    ]
    return laws


def draw(rows: dict[str, Report], path: Path, set_name: str) -> None:
    """Draw the MRR of each row over its snippets per second. BM25 encodes nothing: it is a line."""
    figure = Figure(figsize=(7.5, 4.6), layout="constrained")
    axis = figure.subplots()
    points = {name: row for name, row in rows.items() if row.get("mrr") is not None}

    exits = [row for name, row in points.items() if name.startswith("exit ") and name != STATIC]
    line = [[row[key] for row in exits] for key in ("snippets_per_second", "mrr")]
    axis.plot(*line, "-", color="#1f5fa8", linewidth=1, zorder=1)
    peers = 0
    for name, row in points.items():
        if row["snippets_per_second"] is None:
            axis.axhline(row["mrr"], color="#808080", linestyle="--", linewidth=0.8)
            axis.annotate(name, (1, row["mrr"]), (-2, 3), ("axes fraction", "data"), "offset points", ha="right")
            continue
        # Names of peers below their points, where those of the exits are not; peers are often close together.
        colour, offset = "#1f5fa8", (5, 4)
        if not name.startswith("exit "):
            peers += 1
            colour, offset = "#b04a2f", (5, -11 * peers)
        point = (row["snippets_per_second"], row["mrr"])
        axis.plot(*point, "o", color=colour)
        axis.annotate(name, point, offset, textcoords="offset points", fontsize=8)

    axis.set_xscale("log")
    axis.margins(x=0.2)
    axis.set_xlabel("snippets per second, tokenizing included")
    axis.set_ylabel(f"MRR, {set_name}")
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(Laws().main())
