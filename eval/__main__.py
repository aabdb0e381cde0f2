"""`python -m mose.eval`: measure a MoSE, print what was measured.

Exit code 0 on success, 2 on bad arguments, 1 on a failure that is named on stderr, 130 when interrupted. Each
command is a file of `mose.eval.commands`.
"""

import argparse
import sys

from mose.eval.commands import retrieval, table
from mose.eval.commands.shared import ArgumentError

COMMANDS = (retrieval, table)


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
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
    parser = argparse.ArgumentParser(prog="python -m mose.eval", description="Measure a MoSE at its exits.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
