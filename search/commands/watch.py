"""`python -m mose.search watch`: keep an index up to date while its trees change."""

import argparse

from mose.search.commands import shared


def add_arguments(parser: argparse.ArgumentParser) -> None:
    text = "folder or URI of the index (default: that of the current folder, or of one around it, in the cache)"
    parser.add_argument("--index", metavar="PATH", help=text)
    text = "folder or Hub id of the model of the index, if that has moved"
    parser.add_argument("--model", metavar="MODEL", help=text)
    text = "run the code stored beside the weights, in place of the installed one"
    parser.add_argument("--trust-remote-code", action="store_true", help=text)


def run(options: argparse.Namespace) -> None:
    """Print a line for each update, until Ctrl-C."""
    location = shared.existing_location(options.index)
    # These import what reading needs.
    from mose.search.index import Index
    from mose.search.watching import watch_trees

    trust = options.trust_remote_code
    index = Index.open(location.name, model=options.model, refresh=False, trust_remote_code=trust)
    print(f"{len(index):,} units of {index.meta.roots}. Ctrl-C ends.", flush=True)
    for report in watch_trees(index):
        if report is None:
            print(f"not brought up to date: {index.stale}", flush=True)
            continue
        text = f"{report.changed:,} files read, {report.removed:,} gone, {report.embedded:,} units embedded"
        print(f"{text}: {len(index):,} units", flush=True)
