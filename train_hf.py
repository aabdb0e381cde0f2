#!/usr/bin/env python
"""Trains a MoSE from the command line: `python train_hf.py finetune …`, with the flags of `TrainingArguments`.

Parses, wires, runs, resumes. What is computed is in `mose.training`, where examples come from in `mose.data`.
"""

import logging
import sys
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from transformers import (
    HfArgumentParser,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    set_seed,
)
from transformers.utils import logging as transformers_logging

from mose.configuration_mose import MoSEConfig
from mose.data.collators import PairCollator
from mose.data.pairs import load_pairs
from mose.modeling_mose import MoSEModel
from mose.training.arguments import DataArguments, FineTuningArguments, ModelArguments
from mose.training.checkpoints import last_whole_checkpoint
from mose.training.initialization import grow, start_embeddings_from, token_strings
from mose.training.teacher import attach_teacher, teacher_embeddings
from mose.training.trainer import FineTuningTrainer

logger = logging.getLogger("mose.train")

SPECIAL_TOKENS = ("pad", "sep", "cls", "mask")


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or Hub repository, as a stock fast tokenizer.

    Not through `AutoTokenizer`: that would ask whether to run the code that lies beside a model's weights.

    Raises:
        ValueError: there is none, or it lacks a token that training needs.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(name_or_path)
    if missing := [name for name in SPECIAL_TOKENS if getattr(tokenizer, f"{name}_token_id") is None]:
        raise ValueError(f"tokenizer {name_or_path}: it has no {' and no '.join(missing)} token")
    return tokenizer


def load_model(args: ModelArguments, cache_dir: Path) -> tuple[MoSEModel, PreTrainedTokenizerBase]:
    """The model, in float32, and the tokenizer that the arguments ask for.

    Raises:
        ValueError: neither or both of `model` and `preset` are given, a preset comes without a tokenizer, the
            model is no MoSE, or the tokenizer has more tokens than the model.
        OSError: the model cannot be found or reached.
    """
    if (args.model is None) == (args.preset is None):
        raise ValueError("give either --model or --preset")
    if args.preset:
        if not args.tokenizer:
            raise ValueError(f"--preset {args.preset}: an untrained model needs --tokenizer")
        tokenizer = load_tokenizer(args.tokenizer)
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in SPECIAL_TOKENS}
        model = MoSEModel(MoSEConfig.from_preset(args.preset, exit_layer=args.exit_layer, **ids))
    else:
        name = str(args.model)
        try:
            kind = PreTrainedConfig.get_config_dict(name)[0].get("model_type")
        except OSError as error:
            raise OSError(f"--model {name}: {error}") from error
        if kind != MoSEConfig.model_type:
            raise ValueError(f"--model {name}: its model_type is {kind!r}, not {MoSEConfig.model_type!r}")
        tokenizer = load_tokenizer(args.tokenizer or name)
        options = {} if args.exit_layer is None else {"exit_layer": args.exit_layer}
        # Trained in float32, whatever the checkpoint is stored in: autocast does the rest.
        model = MoSEModel.from_pretrained(name, dtype="float32", **options)
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's vocab_size={model.config.vocab_size}"
        )
    if args.init_embeddings_from:
        strings = token_strings(tokenizer)
        start_embeddings_from(model, tokenizer, teacher_embeddings(strings, args.init_embeddings_from, cache_dir))
    if args.grow_to is not None:
        model = grow(model, args.grow_to)
    return model, tokenizer


def load_data(args: DataArguments) -> tuple[Dataset, Dataset | None]:
    """The pairs to train on, and those to validate on where they are asked for.

    Raises:
        ValueError: as in `load_pairs`.
    """
    train = load_pairs(args.source_tree, args.dataset, args.columns, split=args.train_split)
    validation = None
    if args.validation_dataset:
        validation = load_pairs((), args.validation_dataset, args.columns, split=args.validation_split)
    return train, validation


def check_size(pairs: Dataset, batch_size: int, flag: str) -> None:
    """Raises ValueError where there is not even one batch."""
    if len(pairs) < batch_size:
        raise ValueError(f"{len(pairs)} pairs do not fill one batch: lower {flag} {batch_size}, or add pairs")


def finetune(model_args: ModelArguments, data_args: DataArguments, args: FineTuningArguments) -> None:
    """Fine-tunes for retrieval on pairs of text and code, at every exit; saves to --output-dir."""
    output_dir = Path(str(args.output_dir))
    checkpoint = last_whole_checkpoint(output_dir)
    if checkpoint is not None and not args.resume:
        raise ValueError(f"{output_dir} holds {checkpoint.name}: add --resume, or choose another --output-dir")
    set_seed(args.seed)
    cache_dir = Path(args.teacher_cache or output_dir / "teacher")
    model, tokenizer = load_model(model_args, cache_dir)
    train, validation = load_data(data_args)
    check_size(train, args.train_batch_size, "--per-device-train-batch-size")
    if validation is not None:
        check_size(validation, args.eval_batch_size, "--per-device-eval-batch-size")
    logger.info("%d pairs to train on, %d to validate on", len(train), len(validation or ()))
    keep: tuple[str, ...] = ()
    vectors = None
    if args.teacher:
        taught, vectors = attach_teacher(
            train if validation is None else concatenate_datasets([train, validation]),
            args.teacher,
            cache_dir,
            model.config.hidden_size,
            args.teacher_max_length,
        )
        if validation is not None:
            validation = taught.select(range(len(train), len(taught)))
        train = taught.select(range(len(train)))
        keep = ("teacher_query", "teacher_document")
    trainer = FineTuningTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        teacher_vectors=vectors,
        data_collator=PairCollator(
            tokenizer,
            max_query_length=data_args.max_query_length,
            max_document_length=data_args.max_document_length,
            instruction_dropout=data_args.instruction_dropout,
            token_dropout=data_args.token_dropout,
            keep=keep,
            seed=args.seed,
        ),
    )
    if checkpoint is not None:
        logger.info("going on from %s", checkpoint)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_model()
        if validation is not None:
            trainer.save_metrics("eval", trainer.evaluate())
        trainer.save_state()
    except ValueError as error:  # the arguments were good, or we would not have come so far
        raise RuntimeError(str(error)) from error


#: Of each command what it runs, and the dataclasses whose fields are its flags and its arguments.
COMMANDS: dict[str, tuple[Callable[..., None], list]] = {
    "finetune": (finetune, [ModelArguments, DataArguments, FineTuningArguments])
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
    except (OSError, RuntimeError, ImportError) as error:
        print(f"train_hf.py {name}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"train_hf.py {name}: interrupted; --resume goes on from the last checkpoint", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
