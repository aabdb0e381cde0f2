"""Measure what a function of a corpus costs at each exit, and work out what any number of functions costs.

Processor time and bytes are measured on functions of the standard library, as `mose encode` and
`mose deduplicate` process them. Machines, hours and prices follow by multiplication; no cluster was measured.
"""

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.inference.fingerprints import model_fingerprint
from mose.inference.loading import load_model
from mose.scale.minhash import stage_pipelines
from mose.scale.parts import Columns, plan_parts
from mose.scale.results import ResultFolder
from mose.scale.workers import EncodeSettings, PartEncoder

COLUMNS = {
    "CPU ms/function": ("cpu_ms", ".3f"),
    "core-hours": ("core_hours", ",.0f"),
    "hours": ("hours", ",.1f"),
    "price": ("price", ",.0f"),
    "bytes/function": ("bytes", ",.0f"),
    "TB": ("terabytes", ",.2f"),
}


class CorpusCosts(Benchmark):
    """Processor time and bytes of a function at each exit, in both formats, and of near-duplicate removal."""

    description = "What a corpus costs to embed and to deduplicate, from measured rates."
    rounds = 3

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_model(parser)
        command.add_count(parser, "--documents", 1_000, "functions that are measured")
        command.add_count(parser, "--functions", 10**9, "functions of the corpus to work out")
        command.add_count(parser, "--cores", 1_024, "cores of the cluster to work out")
        text = "of a core for an hour, in any currency (default: %(default)s)"
        parser.add_argument("--price", type=float, default=0.04, help=text)

    def measure(self, options: argparse.Namespace) -> Report:
        # One thread: a cluster runs one process for each core or few, and scales by processes.
        torch.set_num_threads(options.threads or 1)
        functions = list(command.retrieval_sets(None)[0].documents)[: options.documents]
        with tempfile.TemporaryDirectory() as folder:
            rows = measure_costs(options.model, functions, Path(folder), options.exit_layers, options.rounds)

        for row in rows.values():
            row["core_hours"] = row["cpu_ms"] * options.functions / 3.6e6
            row["hours"] = row["core_hours"] / options.cores
            row["price"] = row["core_hours"] * options.price
            row["terabytes"] = row["bytes"] * options.functions / 1e12
        characters = sum(map(len, functions)) / len(functions)
        return {"costs": rows, "characters": characters, "documents": len(functions)}

    def render(self, report: Report) -> str:
        head = f"{report['documents']:,} functions of {report['characters']:.0f} characters on average"
        plan = "worked out for {functions:,} functions on {cores:,} cores at {price} a core-hour"
        table = command.figures_table("", report["costs"], COLUMNS)
        return f"{head}; {plan.format_map(report['settings'])}\n{table}"


def measure_costs(
    source: str, functions: Sequence[str], folder: Path, exit_layers: Sequence[int] | None, rounds: int
) -> dict[str, dict[str, Any]]:
    """Return the processor milliseconds and stored bytes of a function, for each way to process it."""
    pq.write_table(pa.table({"text": functions}), folder / "functions.parquet")
    parts, _ = plan_parts(str(folder / "functions.parquet"), part_rows=len(functions))
    (part,) = parts
    model, tokenizer, exits = load_model(source, exit_layers, "cpu", False)
    rows: dict[str, dict[str, Any]] = {}

    def encode(name: str, layers: tuple[int, ...], file_format: str = "parquet", kind: str = "float32") -> None:
        results = ResultFolder(str(folder / name.replace(" ", "-")), file_format)
        results.open({"name": name}, overwrite=True)
        fingerprint = model_fingerprint(model, tokenizer, layers[-1])
        settings = EncodeSettings(source, layers, Columns(), results, fingerprint, vector_type=kind, device="cpu")
        encoder = PartEncoder(settings, torch.get_num_threads())

        seconds = least_cpu_seconds(lambda: encoder.encode(part), rounds)
        results.commit([part.key], is_whole=True)
        # A Lance dataset keeps the files of every round.
        runs = rounds if file_format == "lance" else 1
        size = folder_bytes(Path(results.uri)) / runs
        rows[name] = {"cpu_ms": 1000 * seconds / len(functions), "bytes": size / len(functions)}

    for layer in exits:
        encode(f"exit {layer}", (layer,))
    encode(f"exit {exits[-1]}, float16", exits[-1:], kind="float16")
    encode(f"exit {exits[-1]}, Lance", exits[-1:], "lance")
    if len(exits) > 1:
        encode(f"exits {exits[0]} and {exits[-1]}", (exits[0], exits[-1]))

    seconds, size = measure_deduplication(folder, rounds)
    rows["near-duplicates"] = {"cpu_ms": 1000 * seconds / len(functions), "bytes": size / len(functions)}
    return rows


def measure_deduplication(folder: Path, rounds: int) -> tuple[float, float]:
    """Return the processor seconds of all stages, and the bytes that they leave for each other."""
    from datatrove.executor import LocalPipelineExecutor  # slow to import

    parts, _ = plan_parts(str(folder / "functions.parquet"))
    outputs = [folder / f"distinct-{number}" for number in range(rounds)]

    def run(output: Path) -> None:
        for name, (pipeline, tasks) in stage_pipelines(parts, Columns(), str(output), 1).items():
            with contextlib.redirect_stderr(io.StringIO()):  # its lines for every task
                LocalPipelineExecutor(pipeline, tasks, 1, str(output / "logs" / name)).run()

    pending = iter(outputs)
    return least_cpu_seconds(lambda: run(next(pending)), rounds), folder_bytes(outputs[0] / "minhash")


def least_cpu_seconds(task: Callable[[], Any], rounds: int) -> float:
    """Return the least processor time of a task, that of its threads included."""
    seconds = []
    for _ in range(rounds):
        start = time.process_time()
        result = task()
        seconds.append(time.process_time() - start)
        if error := getattr(result, "error", ""):
            raise RuntimeError(json.dumps(error))
    return min(seconds)


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files in a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


if __name__ == "__main__":
    sys.exit(CorpusCosts().main())
