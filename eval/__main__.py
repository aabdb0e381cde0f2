"""`python -m mose.eval`, also `mose eval`: measure a MoSE at its exits, and work with the report.

Each command is a module of `mose.eval.commands`, imported only when it is called.
"""

import sys
from collections.abc import Sequence

from mose.utils.command_line import Command, run_subcommand

COMMANDS = {
    name: Command(f"mose.eval.commands.{name}", help_text)
    for name, help_text in (
        ("sets", "build the evaluation sets of the published figures"),
        ("retrieval", "measure retrieval on sets in the BEIR layout, per exit, beside baselines"),
        ("run", "measure on benchmarks by name"),
        ("tasks", "list the benchmarks (also as --list)"),
        ("table", "print a stored report as markdown"),
        ("plot", "draw a stored report"),
        ("choose", "choose an exit by a stored report"),
        ("card", "put a stored report's figures into a model card"),
        ("encode", "embed a corpus of any size, at all exits in one pass"),
        ("codexglue", "score files of answers and predictions as CodeXGLUE's evaluators do"),
    )
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--list"]:
        words = ["tasks"]
    return run_subcommand(
        "mose eval", "Measure a MoSE at its exits. `mose eval --list` lists the benchmarks.", COMMANDS, words
    )


if __name__ == "__main__":
    sys.exit(main())
