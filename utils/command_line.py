"""The command-line runner that every `mose` command shares: lazy subcommands and exit codes.

Exit codes: 0 on success, 2 for bad arguments, 1 for a failure named on stderr, 130 when interrupted
(143 by SIGTERM, where a command handles it).
"""

import argparse
import importlib
import io
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

#: Extra of `setup.cfg` -> the third-party modules that it adds to the core.
EXTRAS = {
    "search": (
        "charset_normalizer",
        "datasketch",
        "lance",
        "pathspec",
        "pyarrow",
        "rignore",
        "Stemmer",
        "tree_sitter",
        "watchfiles",
    ),
    "eval": (
        *("bm25s", "datasets", "evaluate", "matplotlib", "pyarrow", "pytrec_eval", "scipy"),
        *("sentence_transformers", "sklearn", "Stemmer"),
    ),
    "train": ("accelerate", "datasketch", "peft", "tensorboard"),  # and those of search and eval
    "onnx": ("onnx", "onnx_ir", "onnxruntime", "onnxscript"),
    "serve": (
        *("anyio", "fastapi", "fastapi_offline", "httptools", "orjson", "prometheus_client", "pydantic"),
        *("starlette", "uvicorn"),
    ),
    "demo": ("gradio",),
    "mcp": ("anyio", "mcp", "pydantic"),  # and those of search
    "mteb": ("mteb",),
    "ray": ("datasketch", "datatrove", "fsspec", "lance", "loguru", "pyarrow", "ray"),
}
SUCCESS, FAILURE, BAD_ARGUMENTS, INTERRUPTED = 0, 1, 2, 130
#: Exceptions of programming errors, whose texts alone explain little.
_BUGS = (AssertionError, AttributeError, LookupError, NameError, TypeError)


class ArgumentError(ValueError):
    """An argument that is only found invalid after looking at what it names, such as a missing folder."""


class InterruptedBySignal(KeyboardInterrupt):
    """The process was asked to end; the text says what was saved. The exit code is 128 plus the signal."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal_number = signal_number


class Command(NamedTuple):
    """A subcommand: the module that implements it and its line in `--help`.

    The module defines `add_arguments(parser)` and `run(options)`. It is imported only when its command is
    called, so that `--help` answers at once.
    """

    module: str
    help: str


def exit_status(
    program: str,
    run: Callable[[], Any],
    bad_arguments: tuple[type[Exception], ...] = (ArgumentError,),
    on_interrupt: str = "interrupted",
) -> int:
    """Call `run` and return the exit code for how it ended. `MOSE_DEBUG=1` adds the traceback of a failure.

    Args:
        program: prefix of the error line on stderr, such as "mose hub publish".
        run: the command, without arguments.
        bad_arguments: exceptions that mean bad arguments (exit code 2). Any other exception is a failure.
        on_interrupt: what to print after Ctrl-C.
    """
    try:
        run()
    except bad_arguments as error:
        print(f"{program}: {error}", file=sys.stderr)
        return BAD_ARGUMENTS
    except InterruptedBySignal as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 128 + error.signal_number
    except KeyboardInterrupt:
        print(f"{program}: {on_interrupt}", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:  # model loaders, file readers and the Hub's client raise many types
        if os.environ.get("MOSE_DEBUG"):
            traceback.print_exc()

        # "'x'", the text of a KeyError, says nothing without the type; so does an empty text.
        is_bug = isinstance(error, _BUGS) or not str(error)
        text = f"{type(error).__name__}: {error}".removesuffix(": ") if is_bug else str(error)
        print(missing_extra(program, error) or f"{program}: {text}", file=sys.stderr)
        return FAILURE
    return SUCCESS


def missing_extra(program: str, error: Exception) -> str | None:
    """Return a message that names the extra to install, or None if `error` has another cause."""
    if not isinstance(error, ModuleNotFoundError) or not error.name:
        return None

    # Grammars are packages of their own, but one extra brings them all.
    module = error.name.split(".")[0]
    group = "tree_sitter" if module.startswith("tree_sitter_") else module
    extras = [extra for extra, modules in EXTRAS.items() if group in modules]
    if not extras:
        return None

    # Several extras may bring the module: prefer the one of the command, such as "eval" in "mose eval run".
    aliases = {"train_hf.py": "train", "synthconl": "train", "encode": "ray", "deduplicate": "ray"}
    words = [aliases.get(word, word) for word in program.split()]
    extra = next((word for word in words if word in ("train", *extras)), extras[0])
    return f"{program} needs {module}: pip install 'mose[{extra}]'"


def import_command(program: str, module: str) -> ModuleType:
    """Import the module that implements a command.

    Raises:
        SystemExit: a package of an extra is missing. Its message names the extra, its exit code is 1.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if message := missing_extra(program, error):
            raise SystemExit(message) from None
        raise


def run_subcommand(
    program: str,
    description: str,
    commands: Mapping[str, Command],
    arguments: Sequence[str] | None = None,
    may_be_empty: bool = True,
    **status_options: Any,
) -> int:
    """Parse a subcommand and its arguments, run it, and return the exit code.

    Args:
        program: as `--help` shows it, such as "mose hub".
        description: of the whole program, for `--help`.
        commands: name of each subcommand -> where it is implemented.
        arguments: words of the command line; None means those of this process.
        may_be_empty: whether a command has arguments that may be empty, or says itself that they may not.
        status_options: passed to `exit_status`.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog=program, description=description)
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")

    for name, command in commands.items():
        text = command.help
        subparser = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        # Modules of the other commands stay unloaded, so that --help answers at once.
        if words and words[0] == name:
            module = import_command(f"{program} {name}", command.module)
            module.add_arguments(subparser)
            subparser.set_defaults(run=module.run)

    options = parser.parse_args(words)
    if not may_be_empty and (fault := empty_argument(words)):
        parser.error(fault)
    configure_output()
    return exit_status(f"{program} {words[0]}", lambda: options.run(options), **status_options)


def empty_argument(words: Sequence[str]) -> str | None:
    """Return the error for an argument without any character but white space, or None if there is none.

    An empty path would be the current folder, and an empty name that of a default.
    """
    for before, word in zip(("", *words), words, strict=False):
        if not word.strip():
            place = f" after {before}" if before.startswith("-") else ""
            return f"an argument is empty{place}, got {word!r}. Is a variable of the shell unset?"
    return None


class StderrHandler(logging.Handler):
    """A handler that prints messages to the current stderr, even if that was redirected since its creation."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print a message."""
        print(self.format(record), file=sys.stderr)


def configure_output() -> None:
    """Log the package's messages to stderr, and replace characters that the terminal cannot show."""
    # A handler of the root logger would print the INFO and DEBUG lines of other libraries, too.
    logger = logging.getLogger("mose")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, StderrHandler) for handler in logger.handlers):
        logger.addHandler(StderrHandler())

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def positive_int(word: str) -> int:
    """Return a whole number of at least 1; an argparse type.

    Raises:
        argparse.ArgumentTypeError: `word` is anything else, or a number beyond 64 bits.
    """
    if not word.strip().isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {word!r}")
    if int(word) >= 2**63:
        raise argparse.ArgumentTypeError(f"must be below 2^63, got {word:.30}")
    return int(word)


def named_place(word: str) -> str:
    """Return a path or address; an argparse type that refuses an empty word, which would be the current folder.

    Raises:
        argparse.ArgumentTypeError: `word` is empty or blank.
    """
    if not word.strip():
        raise argparse.ArgumentTypeError(f"must name a folder, got {word!r}. Is a variable of the shell unset?")
    return word


def named_path(word: str) -> Path:
    """Return a path; an argparse type that refuses an empty word, as `named_place` does."""
    return Path(named_place(word))
