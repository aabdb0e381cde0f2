"""`mose encode`: the embeddings of a corpus that outgrows one machine."""

import argparse
import logging
import sys
from collections.abc import Sequence
from typing import Any

from mose.utils.command_line import (
    ArgumentError,
    configure_output,
    exit_status,
    import_command,
    named_place,
    positive_int,
)

PROGRAM = "mose encode"
logger = logging.getLogger("mose.scale")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mose encode`."""
    text = (
        "a .parquet, .jsonl (.gz, .zst) or .lance, a folder or s3:// address of such, or the id of a Hub dataset"
    )
    parser.add_argument("corpus", type=named_place, metavar="CORPUS", help=text)
    text = "folder or address of the embeddings; a run that ended early resumes there"
    parser.add_argument("--output-dir", required=True, metavar="DIR", help=text)
    text = "one file for each part, or one Lance dataset, DIR/vectors.lance (default: parquet)"
    parser.add_argument("--output-format", choices=("parquet", "lance"), default="parquet", help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace embeddings of another model or setting")

    model = parser.add_argument_group("model")
    model.add_argument("--model", required=True, help="folder or Hub id of the MoSE")
    model.add_argument("--exit-layers", nargs="+", default=["all"], metavar="K", help="exits, or 'all' (default)")
    model.add_argument("--max-length", type=positive_int, metavar="TOKENS", help="truncate longer texts")
    model.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32", help="compute type (default: fp32)")
    model.add_argument("--device", help="such as cpu or cuda (default: a GPU if there is one)")
    text = "run the code beside the model's weights instead of the installed mose"
    model.add_argument("--trust-remote-code", action="store_true", help=text)

    columns = parser.add_argument_group("columns")
    columns.add_argument("--column", default="text", metavar="NAME", help="of the texts (default: text)")
    columns.add_argument("--language-column", metavar="NAME", help="of the languages, which select prompts")
    columns.add_argument("--keep", nargs="+", default=[], metavar="NAME", help="copied beside the embeddings")
    columns.add_argument("--query", action="store_true", help="the texts are queries, not documents")
    text = "type of the stored numbers (default: float32)"
    columns.add_argument("--vector-type", choices=("float32", "float16"), default="float32", help=text)

    engine = parser.add_argument_group("engine")
    text = "embed in this process (default), or on a Ray cluster"
    engine.add_argument("--engine", choices=("local", "ray"), default="local", help=text)
    text = "of the cluster, such as auto or ray://host:10001 (default: $RAY_ADDRESS, or one on this machine)"
    engine.add_argument("--address", help=text)
    text = "actors, each with one model (default: one for each GPU, or as the CPUs allow)"
    engine.add_argument("--workers", type=positive_int, metavar="N", help=text)
    text = "CPUs of each (default: 4, or fewer on small machines)"
    engine.add_argument("--cpus", type=positive_int, metavar="N", help=text)
    text = "about the rows of a part, which is lost if a worker dies (default: 16384)"
    engine.add_argument("--part-rows", type=positive_int, default=16_384, metavar="N", help=text)


def run(options: argparse.Namespace) -> None:
    """Embed the corpus, part by part, and print what was done.

    Raises:
        ArgumentError: there is no corpus or model, or an exit that it does not have.
        RuntimeError: some files could not be read, and all others are embedded; or no row has a usable text.
    """
    # Slow to import, as all of the next.
    from tqdm import tqdm
    from transformers.utils import logging as transformers_logging

    from mose.scale.parts import plan_parts
    from mose.scale.workers import encode_here, encode_on_ray

    transformers_logging.disable_progress_bar()
    try:
        parts, failures = plan_parts(options.corpus, options.part_rows)
    except FileNotFoundError as error:
        raise ArgumentError(str(error)) from None

    settings = _settings(options)
    reports = settings.results.finished([part.key for part in parts])
    left = [part for part in parts if part.key not in reports]
    if reports:
        logger.info("%d of %d parts are finished already", len(reports), len(parts))

    if options.engine == "ray" and left:
        stream = encode_on_ray(settings, left, options.address, options.workers, options.cpus)
    else:
        stream = encode_here(settings, left) if left else iter(())
    with tqdm(total=len(parts), initial=len(reports), unit=" parts", disable=None) as bar:
        for report in stream:
            reports[report.key] = report
            bar.update()
            if report.error:
                bar.write(f"{PROGRAM}: {report.error}", file=sys.stderr)

    finished = [part.key for part in parts if part.key in reports and not reports[part.key].error]
    settings.results.commit(finished, is_whole=not failures)
    _summarize(options.output_dir, list(reports.values()), failures)


def _settings(options: argparse.Namespace) -> Any:
    """Return the settings of the run, after opening its folder."""
    # Slow to import.
    from mose.inference.fingerprints import model_fingerprint
    from mose.inference.loading import load_model
    from mose.scale.parts import Columns
    from mose.scale.results import ResultFolder
    from mose.scale.workers import EncodeSettings

    exits = None if options.exit_layers == ["all"] else _whole_numbers(options.exit_layers)
    try:
        model, tokenizer, layers = load_model(options.model, exits, "cpu", options.trust_remote_code)
    except (ValueError, OSError) as error:
        raise ArgumentError(f"--model {options.model}: {error}") from None

    results = ResultFolder(options.output_dir, options.output_format)
    columns = Columns(options.column, options.language_column, tuple(options.keep))
    fingerprint = model_fingerprint(model, tokenizer, layers[-1])
    rules = {
        "model": fingerprint,
        "exit_layers": layers,
        "columns": columns.names,
        "language_column": columns.language,
        "query": options.query,
        "max_length": options.max_length,
        "dtype": options.dtype,
        "vector_type": options.vector_type,
    }
    results.open(rules, options.overwrite)
    return EncodeSettings(
        options.model,
        layers,
        columns,
        results,
        fingerprint,
        options.query,
        options.max_length,
        options.dtype == "bf16",
        options.vector_type,
        options.device,
        options.trust_remote_code,
    )


def _whole_numbers(words: Sequence[str]) -> list[int]:
    try:
        return [int(word) for word in words]
    except ValueError:
        message = f"--exit-layers must be whole numbers, or 'all' alone, got {' '.join(words)}"
        raise ArgumentError(message) from None


def _summarize(folder: str, reports: Sequence[Any], failures: dict[str, str]) -> None:
    """Print the totals, and fail if something could not be read."""
    finished = [report for report in reports if not report.error]
    rows, left_out = sum(report.rows for report in finished), sum(report.left_out for report in finished)
    print(f"{folder}: {rows:,} texts in {len(finished):,} parts")

    if left_out:
        problems = [problem for report in finished for problem in report.problems]
        logger.warning(
            "%d rows without a usable text were left out, such as %s", left_out, "; ".join(problems[:3])
        )
    for file, reason in failures.items():
        logger.warning("%s cannot be opened: %s", file, reason)
    failed = len(reports) - len(finished)
    if failed or failures:
        counts = f"{failed} parts failed and {len(failures)} files cannot be opened"
        raise RuntimeError(f"{counts}. All others are finished; run again after mending them.")
    if left_out and not rows:
        raise RuntimeError(f"None of {left_out:,} rows has a usable text. Check --column.")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mose encode` and return its exit code."""
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Embed a corpus, here or on a Ray cluster.")
    add_arguments(parser)
    options = parser.parse_args(arguments)
    configure_output()
    import_command(PROGRAM, "mose.scale.parts")
    return exit_status(PROGRAM, lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
