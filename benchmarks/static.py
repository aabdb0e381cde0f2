"""Measure exit 0 as a lookup: snippets per second, and seconds until a cold process has its first vector.

`StaticEncoder` runs beside the same exit in torch, the tokenizer alone, and a model2vec `StaticModel` of the same
tokens, vectors and tokenizer, if model2vec is installed.
"""

import argparse
import importlib.util
import statistics
import subprocess
import sys
import time
from functools import partial
from typing import Any

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.benchmarks.encode import EncodeFunctions, add_sample, time_encoders
from mose.benchmarks.peers import static_model
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.inference.static import TABLE_TYPES, StaticEncoder
from mose.tokenization.prompts import prompt_for
from mose.utils.locations import package_folder

#: Programs that print their first vector. The argument is the model.
FIRST_VECTOR = {
    "static fp32": "from mose.inference.static import StaticEncoder\n"
    "print(StaticEncoder(sys.argv[1]).encode_query(['parse a date']))",
    "torch": "from mose.inference.encoding import encode\n"
    "from mose.inference.loading import load_model\n"
    "model, tokenizer, exits = load_model(sys.argv[1], [0], 'cpu')\n"
    "print(encode(model, tokenizer, ['parse a date'], [0])[0])",
}
COLUMNS = {
    "snippets/s": ("snippets_per_second", ".0f"),
    "spread": ("spread", ".0%"),
    "query ms p50": ("query_ms_p50", ".2f"),
    "first vector s": ("first_vector_seconds", ".2f"),
}


class StaticSpeed(Benchmark):
    """Speed of exit 0 without torch, beside torch, the tokenizer alone and model2vec."""

    description = "Snippets per second of exit 0 as a lookup, beside torch, its tokenizer and model2vec."
    rounds = 5

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        default = str(package_folder())
        parser.add_argument("--model", default=default, help="folder or Hub id (default: the shipped model)")
        command.add_sets(parser)
        add_sample(parser)

    def measure(self, options: argparse.Namespace) -> Report:
        data = command.retrieval_sets(options.data)[0]
        functions = self._functions(options, data.document_languages[0])
        rows, passes = time_encoders(functions, data, options)

        for name, row in rows.items():
            program = FIRST_VECTOR.get(name)
            row["first_vector_seconds"] = None
            if program:
                row["first_vector_seconds"] = statistics.median(
                    first_vector_seconds(program, options.model) for _ in range(options.rounds)
                )

        fastest = passes["static fp32"].median
        ratios = {name: timing.median / fastest for name, timing in passes.items()}
        return {"set": data.name, "speed": rows, "static_against": ratios}

    def _functions(self, options: argparse.Namespace, language: str) -> dict[str, EncodeFunctions]:
        model, tokenizer, _ = load_model(options.model, [0], "cpu")
        backend, limit = tokenizer.backend_tokenizer, options.max_length
        prompts = prompt_for(language, query=False), prompt_for("", query=True)

        rows = {"tokenizer alone": EncodeFunctions(*(partial(_tokenize, backend),) * 2)}
        for tables in TABLE_TYPES:
            encoder = StaticEncoder(options.model, tables=tables, max_length=limit)
            rows[f"static {tables}"] = EncodeFunctions(*(partial(encoder.encode, prompts=p) for p in prompts))

        in_torch = partial(encode, model, tokenizer, exit_layers=[0], max_length=limit)
        rows["torch"] = EncodeFunctions(*(partial(in_torch, prompts=prompt) for prompt in prompts))
        if importlib.util.find_spec("model2vec"):
            rows["model2vec"] = EncodeFunctions(*(static_model(model, backend, limit),) * 2)
        return rows

    def render(self, report: Report) -> str:
        table = command.figures_table("", report["speed"], COLUMNS)
        ratios = "\n".join(f"{name}: {ratio:.2f}" for name, ratio in report["static_against"].items())
        return f"{report['set']}, exit 0\n{table}\n\ntime of a pass over that of static fp32\n{ratios}"


def _tokenize(backend: Any, texts: list[str]) -> None:
    backend.encode_batch_fast(texts)


def first_vector_seconds(program: str, model: str) -> float:
    """Return the seconds that a new process takes to print a vector, imports included."""
    start = time.perf_counter()
    run = [sys.executable, "-c", f"import sys\n{program}", model]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


if __name__ == "__main__":
    sys.exit(StaticSpeed().main())
