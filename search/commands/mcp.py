"""`python -m mose.search mcp`: serve code search to coding agents, over the Model Context Protocol."""

import argparse
import sys
from pathlib import Path

from mose.search.commands import shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "folders or URIs of indexes to search (default: that of the current folder in the user's cache)"
    parser.add_argument("--index", nargs="+", default=[], metavar="PATH", help=text)
    text = "folders that agents may have indexed (default: the current folder, if there is no --index)"
    parser.add_argument("--allow", nargs="+", type=Path, metavar="DIR", help=text)
    shared.add_model_choice(parser)
    text = "exit of new indexes, in blocks run (default: 0 for the shipped model, else the deepest)"
    parser.add_argument("--exit-layer", type=int, metavar="K", help=text)

    text = "talk to the agent that started this process (stdio), or to any over HTTP (default: %(default)s)"
    parser.add_argument("--transport", choices=("stdio", "http"), default="stdio", help=text)
    text = "address to bind with --transport http (default: %(default)s, which this machine alone can reach)"
    parser.add_argument("--host", default="127.0.0.1", help=text)
    text = "port with --transport http (default: %(default)s)"
    parser.add_argument("--port", type=_http_port, default=8700, metavar="PORT", help=text)


def _http_port(word: str) -> int:
    if not word.isdecimal() or not 1 <= int(word) <= 65_535:
        raise argparse.ArgumentTypeError(f"must be in [1, 65535], got {word!r}. Pass a free port.")
    return int(word)


def run(options: argparse.Namespace) -> None:
    """Serve until the agent ends the connection, or Ctrl-C."""
    allowed = ([] if options.index else [Path.cwd()]) if options.allow is None else options.allow
    for folder in allowed:
        if not folder.is_dir():
            raise ValueError(f"--allow {folder}: no such folder.")
    if options.model is not None:
        shared.check_model_name(options.model, options.exit_layer)
    for path in options.index:
        shared.existing_location(path)  # a missing index is reported before the imports

    # These take a second.
    from mose.search.agents.server import make_server
    from mose.search.agents.workspace import Workspace

    settings = {"model": options.model, "exit_layer": options.exit_layer}
    workspace = Workspace(options.index, allowed, **settings, trust_remote_code=options.trust_remote_code)
    server = make_server(workspace)

    # Over stdio, stdout belongs to the protocol: whatever else is printed there would break it.
    if options.transport == "stdio":
        server.run("stdio")
        return

    if options.host not in ("127.0.0.1", "localhost", "::1"):
        warning = f"anyone who can reach {options.host}:{options.port} can search the indexed code"
        print(f"warning: there is no authentication, so {warning}", file=sys.stderr)
    print(f"http://{options.host}:{options.port}/mcp", file=sys.stderr)
    server.run("streamable-http", host=options.host, port=options.port)
