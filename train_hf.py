#!/usr/bin/env python
"""Trains a MoSE from the command line: `python train_hf.py finetune …`, with the flags of `TrainingArguments`.

Parses and runs; each command is wired in a file of its name in `mose.training`.
"""

import logging
import sys
from collections.abc import Callable

from transformers import HfArgumentParser
from transformers.utils import logging as transformers_logging

from mose.training.arguments import DataArguments, ModelArguments
from mose.training.classification.arguments import (
    ClassificationArguments,
    ClassificationDataArguments,
    ClassificationModelArguments,
)
from mose.training.classification.command import classify
from mose.training.finetuning.arguments import FineTuningArguments
from mose.training.finetuning.command import finetune
from mose.training.finetuning.lora_arguments import MergeArguments
from mose.training.finetuning.merge import merge
from mose.training.pretraining.arguments import (
    PreTrainingArguments,
    PreTrainingDataArguments,
    PreTrainingModelArguments,
)
from mose.training.pretraining.command import pretrain

#: Of each command what it runs, and the dataclasses whose fields are its flags and its arguments.
COMMANDS: dict[str, tuple[Callable[..., None], list]] = {
    "pretrain": (pretrain, [PreTrainingModelArguments, PreTrainingDataArguments, PreTrainingArguments]),
    "finetune": (finetune, [ModelArguments, DataArguments, FineTuningArguments]),
    "classify": (
        classify,
        [ClassificationModelArguments, ClassificationDataArguments, ClassificationArguments],
    ),
    "merge": (merge, [MergeArguments]),
}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 failed, 2 bad arguments, 130 interrupted."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] not in COMMANDS:
        wanted = bool(arguments) and arguments[0] in ("-h", "--help")
        commands = "".join(f"\n  {name}: {command.__doc__}" for name, (command, _) in COMMANDS.items())
        print(
            f"usage: train_hf.py COMMAND [options]; COMMAND --help explains its options\n{commands}",
            file=sys.stdout if wanted else sys.stderr,
        )
        return 0 if wanted else 2
    name, (command, dataclasses) = arguments[0], COMMANDS[arguments[0]]
    parser = HfArgumentParser(dataclasses, prog=f"train_hf.py {name}", description=command.__doc__)
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("mose").setLevel(logging.INFO)
    transformers_logging.set_verbosity_warning()
    transformers_logging.disable_progress_bar()  # of reading and writing weights; training has its own
    try:
        command(*parser.parse_args_into_dataclasses(arguments[1:]))
    except ValueError as error:
        print(f"train_hf.py {name}: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError, ImportError, FloatingPointError) as error:
        print(f"train_hf.py {name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"train_hf.py {name}: interrupted; --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
