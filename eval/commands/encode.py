"""`python -m mose.eval encode`: write the embeddings of a corpus of any size to disk."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mose.eval.commands.shared import (
    add_encoding_arguments,
    compute_dtype,
    load_from_options,
    parse_exit_layers,
    process_devices,
)
from mose.utils.command_line import ArgumentError, positive_int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write the embeddings of a corpus in shards with checksums. A killed run resumes at the first missing "
        "shard. `mose.eval.open_store(DIR)` reads the embeddings, `mose.eval.top_k` searches them."
    )
    add_encoding_arguments(parser)

    text = "a .jsonl, .parquet or .csv file, a folder in the BEIR layout, or the id of a Hub dataset"
    parser.add_argument("--corpus", required=True, metavar="FILE_OR_ID", help=text)
    parser.add_argument("--output-dir", required=True, metavar="DIR", help="folder of the embeddings")

    parser.add_argument("--split", default="train", help="split of a Hub dataset (default: train)")
    parser.add_argument("--column", default="text", metavar="NAME", help="column of the texts (default: text)")
    text = "column of the languages, which select the prompts (default: language, if there is such a column)"
    parser.add_argument("--language-column", metavar="NAME", help=text)
    parser.add_argument("--query", action="store_true", help="the texts are queries, not documents")

    text = "texts per shard (default: 4096)"
    parser.add_argument("--shard-rows", type=positive_int, default=4096, metavar="N", help=text)
    text = "replace embeddings of another model, corpus or setting"
    parser.add_argument("--overwrite", action="store_true", help=text)


def run(options: argparse.Namespace) -> None:
    """Encode the corpus, and print the size of the store."""
    # Refuse a bad value before the slow imports.
    parse_exit_layers(options.exit_layers)

    # These are slow to import.
    from transformers.utils import logging

    from mose.inference.corpus import encode_corpus
    from mose.inference.encoders import MoSEEncoder
    from mose.inference.loading import load_model

    logging.disable_progress_bar()
    texts, languages = _corpus_columns(options)
    model, tokenizer, exits = load_from_options(options, load_model)
    dtype = compute_dtype(options.dtype)

    # On a terminal, a bar shows the progress; logs stay free of it.
    store = encode_corpus(
        MoSEEncoder(model, tokenizer, exits, options.max_length, dtype, options.model),
        texts,
        options.output_dir,
        languages,
        options.query,
        process_devices(str(model.device), options.num_proc),
        options.shard_rows,
        options.overwrite,
        progress=sys.stderr.isatty(),
    )

    spec = store.spec
    stored = f"{spec.rows:,} texts at exits {', '.join(spec.keys)}, in {len(spec.shards)} shards"
    print(f"{options.output_dir}: {stored}")


def _corpus_columns(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return the columns of the texts and of their languages, which stay on disk; None without languages."""
    # Slow to import.
    from mose.data.tables import load_table

    path = Path(options.corpus)
    path = path / "corpus.jsonl" if path.is_dir() else path
    is_file = path.suffix in (".jsonl", ".json", ".parquet", ".csv")
    # `datasets` would ask the Hub for a file that does not exist.
    if is_file and not path.is_file():
        raise ArgumentError(f"--corpus {path}: no such file")
    try:
        corpus: Any = load_table(path if is_file else options.corpus, options.split)
    except ValueError as error:
        raise ArgumentError(f"--corpus: {error}") from error

    for option, name in (("--column", options.column), ("--language-column", options.language_column)):
        if name is not None and name not in corpus.column_names:
            columns = ", ".join(corpus.column_names)
            raise ArgumentError(f"{option} must be one of the columns of {path}, {columns}; got {name}.")
    language = options.language_column or ("language" if "language" in corpus.column_names else None)
    return corpus[options.column], corpus[language] if language else None
