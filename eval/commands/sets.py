"""`python -m mose.eval sets`: build the evaluation sets of the published figures."""

import argparse

from mose.utils.command_line import ArgumentError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Build the evaluation sets of the published figures, in the BEIR layout, from pinned files of their "
        "authors' GitHub repositories. Folders that exist are kept."
    )
    parser.add_argument("--output-dir", required=True, metavar="DATA", help="gets a folder for each set")
    parser.add_argument("--sets", nargs="+", default=[], metavar="NAME", help="sets to build (default: all)")
    text = "folder with OWNER/NAME clones of the repositories, to read instead of GitHub"
    parser.add_argument("--clones", metavar="DIR", help=text)


def run(options: argparse.Namespace) -> None:
    """Build the sets, and print their folders."""
    from mose.eval.public_sets import build_sets

    try:
        folders = build_sets(options.output_dir, options.sets, options.clones)
    except (ValueError, FileNotFoundError) as error:
        raise ArgumentError(str(error)) from error
    for folder in folders.values():
        print(folder)
