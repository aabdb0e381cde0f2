"""`python -m mose.eval encode`: the embeddings of a corpus of any size, on disk."""

import argparse
import sys
from pathlib import Path
from typing import Any

from mose.eval.commands.shared import DTYPES, ArgumentError, devices, exit_layers, positive

FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


def add(commands: Any) -> None:
    encode = commands.add_parser(
        "encode",
        help="embed a corpus of any size, at all exits in one pass",
        description="Writes the embeddings of a corpus in shards with checksums. A run that was killed goes on "
        "where it stopped. `mose.eval.open_store(DIR)` reads them, `mose.eval.top_k` searches them.",
    )
    encode.add_argument("--model", required=True, help="folder or Hub id of the MoSE")
    encode.add_argument(
        "--corpus",
        required=True,
        metavar="FILE_OR_ID",
        help="a .jsonl, .parquet or .csv file, a folder in the BEIR layout, or the id of a Hub dataset; it is "
        "read from the disk, a shard at a time",
    )
    encode.add_argument("--output-dir", required=True, metavar="DIR", help="where the embeddings go")
    encode.add_argument("--split", default="train", help="of a Hub dataset (default: train)")
    encode.add_argument("--column", default="text", metavar="NAME", help="the texts (default: text)")
    encode.add_argument(
        "--language-column",
        metavar="NAME",
        help="the languages, which choose the prompts (default: language, where there is such a column)",
    )
    encode.add_argument("--query", action="store_true", help="the texts are queries, not documents")
    encode.add_argument(
        "--exit-layers", nargs="+", default=["all"], metavar="K", help="exits, or 'all' (default)"
    )
    encode.add_argument("--max-length", type=positive, metavar="TOKENS", help="cut texts off there")
    encode.add_argument("--dtype", choices=DTYPES, default="fp32", help="compute type (default: fp32)")
    encode.add_argument("--device", help="cpu or cuda (default: a GPU if there is one)")
    encode.add_argument(
        "--num-proc", type=positive, default=1, metavar="N", help="processes, on a GPU each (default: 1)"
    )
    encode.add_argument(
        "--shard-rows", type=positive, default=4096, metavar="N", help="texts per shard (default: %(default)s)"
    )
    encode.add_argument(
        "--overwrite", action="store_true", help="replace embeddings of another model, corpus or setting"
    )
    encode.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    wanted = exit_layers(options.exit_layers)

    import torch
    from transformers.utils import logging

    from mose.inference.corpus import encode_corpus
    from mose.inference.encoders import MoSEEncoder
    from mose.inference.loading import load_model

    logging.disable_progress_bar()
    texts, languages = _columns(options)
    try:
        model, tokenizer, exits = load_model(options.model, wanted, options.device)
    except (ValueError, OSError) as error:
        raise ArgumentError(f"--model {options.model}: {error}") from None
    dtype = torch.bfloat16 if options.dtype == "bf16" else None
    store = encode_corpus(
        MoSEEncoder(model, tokenizer, exits, options.max_length, dtype, options.model),
        texts,
        options.output_dir,
        languages,
        options.query,
        devices(str(model.device), options.num_proc),
        options.shard_rows,
        options.overwrite,
        progress=sys.stderr.isatty(),
    )
    spec = store.spec
    print(
        f"{options.output_dir}: {spec.rows:,} texts at exits {', '.join(spec.keys)}, in {len(spec.shards)} shards"
    )


def _columns(options: argparse.Namespace) -> tuple[Any, Any]:
    """The texts and, where they are named, their languages, as columns that stay on the disk."""
    import datasets

    path = Path(options.corpus)
    path = path / "corpus.jsonl" if path.is_dir() else path
    if path.suffix in FORMATS:
        if not path.is_file():
            raise ArgumentError(f"--corpus {path}: no such file")
        found = datasets.load_dataset(FORMATS[path.suffix], data_files=str(path), split="train")
    else:
        found = datasets.load_dataset(options.corpus, split=options.split)
    for option, name in (("--column", options.column), ("--language-column", options.language_column)):
        if name is not None and name not in found.column_names:
            raise ArgumentError(f"{option} {name}: there are {', '.join(found.column_names)}")
    language = options.language_column or ("language" if "language" in found.column_names else None)
    return found[options.column], found[language] if language else None
