"""The command `push`: push a finished dataset to the Hub."""

import argparse
from pathlib import Path

from mose.data.synthconl.dataset import push


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to `parser`."""
    parser.add_argument("folder", type=Path, help="folder of the build")
    parser.add_argument("repo_id", help="Hub id of the dataset, owner/name")
    parser.add_argument("--private", action="store_true", help="make the repository private")


def run(options: argparse.Namespace) -> None:
    """Push the dataset, and print the address of the commit."""
    print(push(options.folder, options.repo_id, options.private))
