"""`python -m mose.hub COMMAND …`: which command is in which file, and how it ends.

A command's file has `add_arguments(parser)` and `run(options)`, and imports what is heavy in its functions, so
that `--help` answers at once. Exit code 0 on success, 2 on bad arguments, 1 on a failure that is named on stderr,
130 when interrupted.
"""

import argparse
import importlib
import logging
import sys

#: Of each command the module in `mose.hub` and what `--help` says of it.
COMMANDS = {
    "publish": ("publish", "put a folder on the Hub as a complete MoSE repository, in one commit"),
    "slice": ("slice", "cut a repository at an exit into a smaller one that gives the same vectors"),
    "import": ("convert.command", "turn a released checkpoint of the paper into a MoSE repository"),
    "export": ("export", "write exits as ONNX, and as int8 for CPUs"),
    "serve": ("serve", "answer requests over HTTP as Inference Endpoints do"),
    "card": ("card", "write a folder's model card from its configuration, training run and evaluation report"),
}


class ArgumentError(Exception):
    """An argument that can only be judged once the thing it names has been looked at."""


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    parser = argparse.ArgumentParser(
        prog="python -m mose.hub",
        description="What the Hub needs: publish, slice, import, describe, export a MoSE.",
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, (module, description) in COMMANDS.items():
        command = commands.add_parser(
            name, help=description, description=f"{description[0].upper()}{description[1:]}."
        )
        if words and words[0] == name:
            home = importlib.import_module(f"mose.hub.{module}")
            home.add_arguments(command)
            command.set_defaults(run=home.run)
    options = parser.parse_args(words)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mose").setLevel(logging.INFO)
    prefix = f"mose.hub {words[0]}"
    try:
        options.run(options)
    except ArgumentError as error:
        print(f"{prefix}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{prefix}: interrupted", file=sys.stderr)
        return 130
    except Exception as error:  # the loaders of models and the Hub's client raise what they like
        print(f"{prefix}: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    return 0
