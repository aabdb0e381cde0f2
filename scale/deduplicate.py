"""`mose deduplicate`: a corpus without near-duplicates, on this machine, on Slurm or on Ray."""

import argparse
import contextlib
import io
import json
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

PROGRAM = "mose deduplicate"
logger = logging.getLogger("mose.scale")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mose deduplicate`."""
    text = (
        "a .parquet, .jsonl (.gz, .zst) or .lance, a folder or s3:// address of such, or the id of a Hub dataset"
    )
    parser.add_argument("corpus", type=named_place, metavar="CORPUS", help=text)
    text = "folder of the result, DIR/kept, and of what the stages leave for each other, DIR/minhash"
    parser.add_argument("--output-dir", required=True, metavar="DIR", help=text)
    parser.add_argument("--column", default="text", metavar="NAME", help="of the texts (default: text)")
    parser.add_argument("--language-column", metavar="NAME", help="of the languages, to copy")
    parser.add_argument("--keep", nargs="+", default=[], metavar="NAME", help="further columns to copy")

    text = "where the tasks run (default: local)"
    parser.add_argument("--executor", choices=("local", "slurm", "ray"), default="local", help=text)
    text = "tasks into which the corpus is cut (default: 1 for each part, at most 1000)"
    parser.add_argument("--tasks", type=positive_int, metavar="N", help=text)
    text = "tasks at a time (default: 1 here, all on a cluster)"
    parser.add_argument("--workers", type=positive_int, metavar="N", help=text)
    parser.add_argument("--address", help="of a Ray cluster (default: $RAY_ADDRESS, or one on this machine)")
    parser.add_argument("--partition", help="of Slurm; required there")
    parser.add_argument("--time", default="24:00:00", help="limit of a task on Slurm (default: %(default)s)")
    text = "memory of a task in GB on a cluster (default: %(default)s)"
    parser.add_argument("--memory", type=positive_int, default=4, metavar="GB", help=text)


def run(options: argparse.Namespace) -> None:
    """Run the four stages, or submit them, and print what is left.

    Raises:
        ArgumentError: there is no corpus, or the folder holds the stages of another one.
        RuntimeError: some files could not be read, and the result holds all others; or no row has a usable text.
    """
    if options.executor == "slurm" and not options.partition:
        raise ArgumentError("--executor slurm needs --partition. Name one of `sinfo`.")

    # Of the extra [ray], and slow to import.
    from mose.scale.minhash import count_kept, read_notes, stage_pipelines
    from mose.scale.parts import Columns, plan_parts

    columns = Columns(options.column, options.language_column, tuple(options.keep))
    try:
        parts, failures = plan_parts(options.corpus)
    except FileNotFoundError as error:
        raise ArgumentError(str(error)) from None
    if not parts:
        raise ArgumentError(
            f"{options.corpus} has nothing to read: {'; '.join(failures.values()) or 'it is empty'}"
        )

    tasks = min(options.tasks or 1_000, len(parts))
    _claim_folder(options.output_dir, [part.key for part in parts], columns.names, tasks)
    stages = stage_pipelines(parts, columns, options.output_dir, tasks)
    for file, reason in failures.items():
        logger.warning("%s cannot be opened: %s", file, reason)

    _run_stages(stages, options)
    if options.executor == "slurm":
        print(f"{options.output_dir}: 4 jobs submitted; the result will be in {options.output_dir}/kept")
        return

    texts, left_out, errors = read_notes(options.output_dir)
    remaining = count_kept(options.output_dir)
    duplicates = texts - remaining
    print(f"{options.output_dir}/kept: {remaining:,} of {texts:,} texts, without {duplicates:,} near-duplicates")
    if left_out:
        logger.warning("%d rows without a usable text were left out", left_out)
    if errors or failures:
        lines = "\n".join(errors[:5])
        count = f"{len(errors)} parts and {len(failures)} files could not be read"
        raise RuntimeError(f"{count}. The result holds all others.\n{lines}".rstrip())
    if left_out and not texts:
        raise RuntimeError(f"None of {left_out:,} rows has a usable text. Check --column.")


def _claim_folder(folder: str, keys: Sequence[str], columns: Sequence[str], tasks: int) -> None:
    """Check that a folder is empty, or holds the stages of this very corpus."""
    import fsspec  # saves start-up time

    filesystem, path = fsspec.core.url_to_fs(folder.rstrip("/"))
    manifest = {"parts": list(keys), "columns": list(columns), "tasks": tasks}
    file = f"{path}/deduplicate.json"
    if filesystem.exists(file):
        if json.loads(filesystem.cat(file)) != manifest:
            raise ArgumentError(f"{folder} belongs to another corpus or other columns. Name an empty folder.")
        return
    if filesystem.exists(path) and filesystem.ls(path):
        raise ArgumentError(f"{folder} is not empty. Name an empty folder.")
    filesystem.makedirs(path, exist_ok=True)
    filesystem.pipe(file, json.dumps(manifest).encode())


def _run_stages(stages: dict[str, tuple[list, int]], options: argparse.Namespace) -> None:
    """Run stage after stage; Slurm is told the order, and runs them later."""
    if options.executor == "ray":
        # Of the extra [ray], and slow to import. datatrove logs by loguru, to stderr unless told otherwise.
        import loguru
        import ray

        loguru.logger.remove()
        if not ray.is_initialized():
            ray.init(address=options.address, log_to_driver=False, logging_level=logging.ERROR)

    previous = None
    for number, (name, (pipeline, tasks)) in enumerate(stages.items(), 1):
        logger.info("stage %d of %d: %s, %d tasks", number, len(stages), name, tasks)
        logs = f"{options.output_dir.rstrip('/')}/minhash/logs/{name}"
        executor = _executor(options, name, pipeline, tasks, logs, previous)
        # datatrove's lines for every task would hide ours. The logs of each task are in files, too.
        with contextlib.redirect_stderr(io.StringIO()):
            executor.run()
        previous = executor if options.executor == "slurm" else None


def _executor(
    options: argparse.Namespace, name: str, pipeline: list[Any], tasks: int, logs: str, previous: Any
) -> Any:
    """Return datatrove's executor of one stage."""
    # Slow to import, and each needs what the others do not.
    from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor

    if options.executor == "local":
        return LocalPipelineExecutor(pipeline, tasks, min(options.workers or 1, tasks), logs)

    workers = options.workers or -1
    if options.executor == "ray":
        return RayPipelineExecutor(pipeline, tasks, workers, logging_dir=logs, mem_per_cpu_gb=options.memory)
    return SlurmPipelineExecutor(
        pipeline,
        tasks,
        options.time,
        options.partition,
        mem_per_cpu_gb=options.memory,
        workers=workers,
        job_name=f"mose-{name}",
        logging_dir=logs,
        depends=previous,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mose deduplicate` and return its exit code."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Take near-duplicates out of a corpus of any size."
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    configure_output()
    import_command(PROGRAM, "mose.scale.parts")
    return exit_status(PROGRAM, lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
