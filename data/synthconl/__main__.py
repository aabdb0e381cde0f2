"""`python -m mose.data.synthconl`: build triples with a language model, and push them."""

import sys
from collections.abc import Sequence

from mose.utils.command_line import Command, run_subcommand

COMMANDS = {
    "build": Command("mose.data.synthconl.build", "translate pairs into triples"),
    "push": Command("mose.data.synthconl.push", "push a finished dataset"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return its exit code: 0 on success, 1 failed, 2 bad arguments, 130 interrupted."""
    return run_subcommand(
        "mose synthconl",
        "Build triples with a language model, and push them.",
        COMMANDS,
        arguments,
        bad_arguments=(ValueError,),
        on_interrupt="interrupted; run the same command again to resume",
    )


if __name__ == "__main__":
    sys.exit(main())
