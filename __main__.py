"""The `mose` command, also `python -m mose`: starts the command line of one of the packages.

Only the chosen command line is imported, so that `mose --help` answers at once.
"""

import argparse
import sys
from collections.abc import Sequence

from mose import __version__
from mose.utils.command_line import Command, import_command

#: Name -> the module whose `main(arguments)` is called.
PROGRAMS = {
    "search": Command("mose.search.__main__", "find the functions of a source tree by what they do"),
    "eval": Command("mose.eval.__main__", "measure a model at its exits and report the figures"),
    "hub": Command("mose.hub.__main__", "publish, slice, import, export and serve models"),
    "encode": Command("mose.scale.encode", "embed a corpus of any size, here or on a Ray cluster"),
    "deduplicate": Command("mose.scale.deduplicate", "take near-duplicates out of a corpus of any size"),
    "train": Command("mose.train_hf", "pre-train, fine-tune or train a classifier"),
    "demo": Command("mose.demo.__main__", "show the same query at each exit side by side, in the browser"),
    "synthconl": Command("mose.data.synthconl.__main__", "build a dataset of translated code pairs"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `mose COMMAND …` and return the exit code of the command."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] in PROGRAMS:
        name = words[0]
        return import_command(f"mose {name}", PROGRAMS[name].module).main(words[1:])

    parser = argparse.ArgumentParser(
        prog="mose",
        description="MoSE: a code-embedding model with several exits.",
        epilog="`mose COMMAND --help` explains a command.",
    )
    parser.add_argument("--version", action="version", version=f"mose {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, program in PROGRAMS.items():
        subparsers.add_parser(name, help=program.help)

    # Every valid command was handled above: this prints the help, the version or an error, and exits.
    parser.parse_args(words)
    return 0


if __name__ == "__main__":
    sys.exit(main())
