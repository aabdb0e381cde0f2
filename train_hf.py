#!/usr/bin/env python
"""Train a MoSE from the command line: `python train_hf.py finetune …`, with the flags of `TrainingArguments`.

Each command imports what it needs only when it is called, so that help answers at once.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from mose.training.help import help_text, load_arguments, write_help
from mose.utils.command_line import configure_output, empty_argument, exit_status


def _pretrain(words: Sequence[str]) -> None:
    """Pre-train on repositories, with MLM and In-Context Classification at every exit; save to --output-dir."""
    from mose.training.pretraining.arguments import choose_recipe
    from mose.training.pretraining.command import pretrain

    pretrain(*_parse("pretrain", words, choose_recipe))


def _finetune(words: Sequence[str]) -> None:
    """Fine-tune for retrieval on pairs of text and code, at every exit; save to --output-dir."""
    from mose.eval.held_out import score_exits
    from mose.training.finetuning.command import finetune

    model_args, data_args, args = _parse("finetune", words)
    finetune(model_args, data_args, args, evaluate=score_exits)


def _classify(words: Sequence[str]) -> None:
    """Train classifiers of snippets or pairs (clone detection), at every exit or one; save to --output-dir."""
    from mose.training.classification.command import train_classifier

    train_classifier(*_parse("classify", words))


def _merge_adapter(words: Sequence[str]) -> None:
    """Merge a LoRA adapter into its base; save a plain MoSE repository to --output-dir."""
    from mose.training.finetuning.lora import merge

    merge(*_parse("merge", words))


COMMANDS = {"pretrain": _pretrain, "finetune": _finetune, "classify": _classify, "merge": _merge_adapter}


def build_parser(name: str) -> Any:
    """Return the parser of a command, with all flags; this imports transformers."""
    from transformers import HfArgumentParser

    description = COMMANDS[name].__doc__
    return HfArgumentParser(list(load_arguments(name)), prog=f"train_hf.py {name}", description=description)


def _parse(name: str, words: Sequence[str], resolve: Callable[[dict], dict] = dict) -> tuple:
    """Parse `words` into dataclasses, after `resolve` has turned the given values into final ones."""
    from transformers.utils import logging

    logging.set_verbosity_warning()
    logging.disable_progress_bar()  # of reading and writing weights; training has its own

    if fault := empty_argument(words):
        raise ValueError(fault)
    parser = build_parser(name)
    options, unknown = parser.parse_known_args(words)
    if unknown:
        raise ValueError(f"unknown arguments: {' '.join(unknown)}. See train_hf.py {name} --help.")
    return parser.parse_dict(resolve(vars(options)))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code: 0 success, 1 failure, 2 bad arguments, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["write-help"]:  # for developers
        write_help(build_parser)
        return 0
    if not words or words[0] not in COMMANDS:
        help_requested = bool(words) and words[0] in ("-h", "--help")
        commands = "".join(f"\n  {name}: {command.__doc__}" for name, command in COMMANDS.items())
        usage = f"usage: train_hf.py COMMAND [options]; COMMAND --help explains its options\n{commands}"
        if words and not help_requested:
            usage += f"\n\ntrain_hf.py: {words[0]!r} is not a command"
        print(usage, file=sys.stdout if help_requested else sys.stderr)
        return 0 if help_requested else 2

    name, *words = words
    if "--help-all" in words:
        return exit_status(f"train_hf.py {name}", lambda: print(build_parser(name).format_help(), end=""))
    if {"-h", "--help"} & set(words):
        print(help_text(name), end="")
        return 0
    configure_output()
    return exit_status(
        f"train_hf.py {name}",
        lambda: COMMANDS[name](words),
        bad_arguments=(ValueError,),
        on_interrupt="interrupted. Pass --resume to continue from the last checkpoint.",
    )


if __name__ == "__main__":
    sys.exit(main())
