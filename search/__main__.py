"""`python -m mose.search`: index the code of a source tree, and search it by what it does."""

import sys
from collections.abc import Sequence

from mose.utils.command_line import Command, run_subcommand

COMMANDS = {
    "index": Command("mose.search.commands.index", "create or update the index of a source tree"),
    "query": Command("mose.search.commands.query", "search an index"),
    "similar": Command("mose.search.commands.similar", "find code that is like other code"),
    "clones": Command("mose.search.commands.clones", "list units of a source tree that are nearly the same"),
    "watch": Command("mose.search.commands.watch", "keep an index up to date while its files change"),
    "mcp": Command("mose.search.commands.mcp", "serve code search to coding agents (Model Context Protocol)"),
    "eval": Command("mose.search.commands.eval", "measure the ranking on labelled queries"),
    "demo": Command("mose.search.commands.demo", "index a source tree if needed, and search it"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    return run_subcommand(
        "mose search",
        "Find code in a source tree by what it does.",
        COMMANDS,
        arguments,
        bad_arguments=(ValueError,),
        on_interrupt="interrupted; the next run resumes an unfinished index",
    )


if __name__ == "__main__":
    sys.exit(main())
