"""The help of the training commands: texts that are written once, so that `--help` answers without imports.

`python train_hf.py write-help` writes them anew, which a test asks for after a flag has changed.
"""

import argparse
import copy
import dataclasses
import importlib
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "help"
#: Command -> module and name of its dataclasses of arguments.
SOURCES = {
    "pretrain": "mose.training.pretraining.command:ARGUMENTS",
    "finetune": "mose.training.finetuning.command:ARGUMENTS",
    "classify": "mose.training.classification.command:ARGUMENTS",
    "merge": "mose.training.finetuning.arguments:MergeArguments",
}
EPILOG = "--help-all lists the flags of transformers' TrainingArguments, too.\n"


class WholeFlags(argparse.HelpFormatter):
    """A formatter that breaks no line within a flag."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


def help_text(command: str) -> str:
    """Return the stored help of a training command."""
    return (FOLDER / f"{command}.txt").read_text(encoding="utf-8")


def load_arguments(command: str) -> tuple[Any, ...]:
    """Return the dataclasses of a command's arguments; this imports torch."""
    module, _, name = SOURCES[command].partition(":")
    arguments = getattr(importlib.import_module(module), name)
    return arguments if isinstance(arguments, tuple) else (arguments,)


def own_help(command: str, parser: argparse.ArgumentParser) -> str:
    """Return the help of our own flags, a section for each dataclass that defines some.

    Args:
        command: the command's name.
        parser: has all flags of the command.
    """
    formatter = WholeFlags(parser.prog, max_help_position=28, width=110)
    formatter.add_usage("%(prog)s [options]", (), ())
    formatter.add_text(parser.description)

    # A flag that is on by default has a second one that switches it off.
    actions: dict[str, list[argparse.Action]] = {}
    for action in parser._actions:
        actions.setdefault(action.dest, []).append(_dashed(action))
    for title, names in _sections(command).items():
        formatter.start_section(title)
        formatter.add_arguments([action for name in names for action in actions.get(name, ())])
        formatter.end_section()
    if command != "merge":
        formatter.add_text(EPILOG)
    return formatter.format_help()


def _dashed(action: argparse.Action) -> argparse.Action:
    """Return a copy of an action without its spellings with underscores."""
    action = copy.copy(action)
    action.option_strings = [word for word in action.option_strings if "_" not in word]
    return action


def _sections(command: str) -> dict[str, list[str]]:
    """Return the first line of each dataclass of ours -> the fields that it defines first."""
    sections: dict[str, list[str]] = {}
    seen: set[str] = set()
    for arguments in load_arguments(command):
        for cls in (cls for cls in arguments.__mro__ if cls.__module__.startswith("mose.")):
            fields = {field.name for field in dataclasses.fields(cls)}
            names = [name for name in vars(cls).get("__annotations__", {}) if name in fields and name not in seen]
            seen.update(names)
            if names:
                title = (cls.__doc__ or "").split("\n")[0].replace("`", "").rstrip(".")
                sections.setdefault(title, []).extend(names)
    return sections


def write_help(build_parser: Callable[[str], argparse.ArgumentParser]) -> None:
    """Write the help of every command, from its parser."""
    FOLDER.mkdir(exist_ok=True)
    for command in SOURCES:
        (FOLDER / f"{command}.txt").write_text(own_help(command, build_parser(command)), encoding="utf-8")
