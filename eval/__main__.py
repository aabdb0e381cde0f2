"""`python -m mose.eval`: measure a MoSE, print what was measured.

Exit code 0 on success, 2 on bad arguments, 1 on a failure that is named on stderr, 130 when interrupted. Each
command is a file of `mose.eval.commands`.
"""

import argparse
import sys

from mose.eval.commands import card, choose, codexglue, encode, plot, retrieval, run, table, tasks
from mose.eval.commands.shared import ArgumentError

COMMANDS = (retrieval, run, tasks, table, plot, choose, card, encode, codexglue)


def main(arguments: list[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(["tasks"] if arguments == ["--list"] else arguments)
    try:
        options.run(options)
    except ArgumentError as error:
        print(f"mose.eval: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mose.eval: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # the loaders of models and data raise what they like
        print(f"mose.eval: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mose.eval",
        description="Measure a MoSE at its exits.",
        epilog="`python -m mose.eval --list` lists the benchmarks, as `tasks` does.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
