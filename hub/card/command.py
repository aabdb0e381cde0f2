"""`mose hub card`: write a folder's model card."""

import argparse
from pathlib import Path

from mose.eval.report import read_report
from mose.hub.card import folder_card, validate_card
from mose.utils.command_line import ArgumentError
from mose.utils.files import atomic_write_text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mose hub card`."""
    parser.add_argument("folder", metavar="FOLDER", help="folder of a model or adapter")
    parser.add_argument("--report", metavar="FILE", help="evaluation report, from `mose eval … --json`")
    parser.add_argument("--repo-id", metavar="ID", help="name that the examples load (default: the folder's)")
    parser.add_argument("--license", default="apache-2.0", help="licence of the weights (default: apache-2.0)")
    parser.add_argument("--language", default="en", help="language of the descriptions (default: en)")
    parser.add_argument("--output", metavar="FILE", help="- for stdout (default: FOLDER/README.md)")
    parser.add_argument("--force", action="store_true", help="overwrite an existing card")


def run(options: argparse.Namespace) -> None:
    """Run `mose hub card`."""
    folder = Path(options.folder)
    output = Path(options.output or folder / "README.md")
    if str(output) != "-" and output.exists() and not options.force:
        raise ArgumentError(f"{output} exists. Overwrite it with --force, or choose another with --output.")

    try:
        report = read_report(options.report) if options.report else None
        content = folder_card(
            folder,
            repo_id=options.repo_id,
            report=report,
            license=options.license,
            language=options.language,
        )
        validate_card(content)
    except (ValueError, OSError) as error:
        raise ArgumentError(str(error)) from error

    if str(output) == "-":
        print(content, end="")
        return
    atomic_write_text(output, content)
    print(output)
