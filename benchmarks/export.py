"""Measure what exporting an exit costs: MRR, speed and file size of torch, ONNX and int8, side by side.

All embed the same texts with the same prompts, truncated to the same number of tokens. Tokenizing counts.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.benchmarks.encode import COLUMNS, EncodeFunctions, add_sample, time_encoders
from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval.metrics import score_blocks
from mose.eval.retrieval import score
from mose.hub.export import export
from mose.hub.onnx_encoder import OnnxEncoder, model_file
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.tokenization.prompts import prompt_for


class ExportedExits(Benchmark):
    """Quality, speed and size of exported exits beside the model."""

    description = "MRR, speed and size of exported exits beside the model."
    rounds = 5

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_model(parser)
        command.add_sets(parser)
        add_sample(parser)

    def measure(self, options: argparse.Namespace) -> Report:
        # ONNX encoders add no prompts, so the texts of all encoders carry theirs.
        sets = [with_prompts(data) for data in command.retrieval_sets(options.data)]
        with tempfile.TemporaryDirectory() as folder:
            functions, sizes = exported_functions(options, Path(folder))
            rows, _ = time_encoders(functions, sets[0], options)

            for name, encoder in functions.items():
                rows[name]["bytes"] = sizes.get(name)
                for data in sets:
                    blocks = score_blocks(encoder.queries(data.queries), encoder.documents(data.documents))
                    rows[name][f"mrr {data.name}"] = score(data, blocks)["mrr"]
        return {"encoders": rows}

    def render(self, report: Report) -> str:
        first = next(iter(report["encoders"].values()))
        sets = {key.removeprefix("mrr "): (key, ".3f") for key in first if key.startswith("mrr ")}
        return command.figures_table("", report["encoders"], {"file": ("bytes", "MB"), **sets, **COLUMNS})


def with_prompts(data: RetrievalSet) -> RetrievalSet:
    """Return the set with the prompts in front of its texts."""

    def prepend(texts: Sequence[str], languages: Sequence[str], query: bool) -> tuple[str, ...]:
        return tuple(prompt_for(language, query) + text for text, language in zip(texts, languages, strict=True))

    documents = prepend(data.documents, data.document_languages, query=False)
    return replace(data, documents=documents, queries=prepend(data.queries, data.query_languages, query=True))


def exported_functions(
    options: argparse.Namespace, folder: Path
) -> tuple[dict[str, EncodeFunctions], dict[str, int]]:
    """Return how to embed in torch, ONNX and int8 at each exit, and the bytes of the exported files."""
    model, tokenizer, exits = load_model(options.model, options.exit_layers, "cpu")
    export(model, options.model, folder, exits, int8=True)

    def encode_in_torch(texts: Sequence[str], exit_layer: int, dtype: torch.dtype | None) -> np.ndarray:
        vectors = encode(model, tokenizer, texts, [exit_layer], max_length=options.max_length, dtype=dtype)
        return vectors[exit_layer]

    functions: dict[str, Callable[..., np.ndarray]] = {}
    sizes = {}

    for k in exits:
        functions[f"exit {k}, torch fp32"] = partial(encode_in_torch, exit_layer=k, dtype=None)
        functions[f"exit {k}, torch bf16"] = partial(encode_in_torch, exit_layer=k, dtype=torch.bfloat16)
        for int8, name in ((False, f"exit {k}, ONNX"), (True, f"exit {k}, ONNX int8")):
            exported = OnnxEncoder(folder, k, int8, torch.get_num_threads())
            # An exported encoder truncates to the model's context, the others to --max-length.
            exported.max_length = min(options.max_length, exported.max_length)
            functions[name] = exported.encode
            sizes[name] = model_file(folder, k, int8).stat().st_size
    return {name: EncodeFunctions(function, function) for name, function in functions.items()}, sizes


if __name__ == "__main__":
    sys.exit(ExportedExits().main())
