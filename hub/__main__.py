"""`python -m mose.hub COMMAND`: publish, slice, import, describe, export and serve a MoSE."""

import sys
from collections.abc import Sequence

from mose.utils.command_line import Command, run_subcommand

COMMANDS = {
    "publish": Command("mose.hub.publish", "publish a folder on the Hub as a complete repository, in one commit"),
    "slice": Command("mose.hub.slice", "cut a model at an exit; the smaller one returns the same embeddings"),
    "import": Command("mose.hub.convert.command", "convert a released checkpoint of the paper"),
    "export": Command("mose.hub.export", "export exits to ONNX, and to int8 for CPUs"),
    "serve": Command(
        "mose.hub.serving.command", "serve embeddings over HTTP, as OpenAI, TEI and Inference Endpoints do"
    ),
    "card": Command("mose.hub.card.command", "write a folder's model card"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    description = "Publish, slice, convert, export and serve a MoSE."
    return run_subcommand("mose hub", description, COMMANDS, arguments, may_be_empty=False)


if __name__ == "__main__":
    sys.exit(main())
