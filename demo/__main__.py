"""`mose demo`: open a page that shows the same query at each exit side by side."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mose.utils.command_line import configure_output, exit_status
from mose.utils.locations import package_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Index the tree, serve the page until it is interrupted, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="mose demo", description="Search at each exit side by side, in the browser."
    )
    text = "source tree to search (default: the code of this package)"
    parser.add_argument("source_tree", nargs="?", type=Path, default=package_folder(), metavar="DIR", help=text)
    text = "folder or Hub id of a MoSE (default: the shipped model)"
    parser.add_argument("--model", default=str(package_folder()), help=text)
    text = "exits to show, in blocks run (default: all)"
    parser.add_argument("--exit-layers", type=int, nargs="+", metavar="K", help=text)
    parser.add_argument("--host", default="127.0.0.1", help="address to serve at (default: %(default)s)")
    parser.add_argument("--port", type=int, default=7860, help="port to serve at (default: %(default)s)")

    options = parser.parse_args(arguments)
    configure_output()
    return exit_status("mose demo", lambda: _serve(options), bad_arguments=(ValueError,))


def _serve(options: argparse.Namespace) -> None:
    if not options.source_tree.is_dir():
        raise ValueError(f"{options.source_tree}: no such folder")
    # These import torch and gradio.
    from mose.demo.app import build_demo
    from mose.demo.exits import open_exits

    indexes = open_exits(options.source_tree, options.model, options.exit_layers)
    build_demo(indexes).launch(server_name=options.host, server_port=options.port)


if __name__ == "__main__":
    sys.exit(main())
