#!/usr/bin/env python
"""Trains a MoSE from the command line: `python train_hf.py finetune …`, with the flags of `TrainingArguments`.

Parses, wires, runs, resumes. What is computed is in `mose.training`, where examples come from in `mose.data`.
"""

import logging
import sys
from pathlib import Path

from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    HfArgumentParser,
    PreTrainedTokenizerBase,
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


def load_model(args: ModelArguments, cache_dir: Path) -> tuple[MoSEModel, PreTrainedTokenizerBase]:
    """The model and tokenizer that the arguments ask for.

    Raises:
        ValueError: neither or both of `model` and `preset` are given, a preset comes without a tokenizer, or
            the tokenizer has more tokens than the model.
    """
    if (args.model is None) == (args.preset is None):
        raise ValueError("give either --model or --preset")
    if args.preset and not args.tokenizer:
        raise ValueError(f"--preset {args.preset}: an untrained model needs --tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer or args.model)
    if args.preset:
        config = MoSEConfig.from_preset(args.preset, exit_layer=args.exit_layer)
        for name in ("pad", "sep", "cls", "mask"):
            setattr(config, f"{name}_token_id", getattr(tokenizer, f"{name}_token_id"))
        model = MoSEModel(config)
    else:
        stored = AutoConfig.from_pretrained(args.model, trust_remote_code=True)
        if stored.model_type != MoSEConfig.model_type:
            raise ValueError(f"--model {args.model}: a {stored.model_type} model, not a {MoSEConfig.model_type}")
        options = {} if args.exit_layer is None else {"exit_layer": args.exit_layer}
        # Trained in float32, whatever the checkpoint is stored in: autocast does the rest.
        model = AutoModel.from_pretrained(args.model, trust_remote_code=True, dtype="float32", **options)
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


def finetune(model_args: ModelArguments, data_args: DataArguments, args: FineTuningArguments) -> None:
    """Fine-tunes for retrieval on pairs, and saves what it trained to `args.output_dir`."""
    output_dir = Path(str(args.output_dir))
    checkpoint = last_whole_checkpoint(output_dir)
    if checkpoint is not None and not args.resume:
        raise ValueError(f"{output_dir} holds {checkpoint.name}: add --resume, or choose another --output-dir")
    set_seed(args.seed)
    cache_dir = Path(args.teacher_cache or output_dir / "teacher")
    model, tokenizer = load_model(model_args, cache_dir)
    dataset = load_pairs(data_args.source_tree, data_args.dataset, data_args.columns)
    validation = load_pairs((), data_args.validation_dataset) if data_args.validation_dataset else None
    keep: tuple[str, ...] = ()
    vectors = None
    if args.teacher:
        dataset, vectors = attach_teacher(
            dataset, args.teacher, cache_dir, model.config.hidden_size, args.teacher_max_length
        )
        keep = ("teacher_query", "teacher_document")
    trainer = FineTuningTrainer(
        model=model,
        args=args,
        train_dataset=dataset,
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
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model()
    if validation is not None:
        trainer.save_metrics("eval", trainer.evaluate())
    trainer.save_state()


COMMANDS = {"finetune": (finetune, (ModelArguments, DataArguments, FineTuningArguments))}


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit status: 0 done, 1 failed, 2 bad arguments."""
    arguments = sys.argv[1:] if argv is None else argv
    if not arguments or arguments[0] not in COMMANDS:
        wanted = bool(arguments) and arguments[0] in ("-h", "--help")
        print(
            f"usage: train_hf.py {{{','.join(COMMANDS)}}} [--help] [options]",
            file=sys.stdout if wanted else sys.stderr,
        )
        return 0 if wanted else 2
    command, dataclasses = COMMANDS[arguments[0]]
    parser = HfArgumentParser(dataclasses, prog=f"train_hf.py {arguments[0]}", description=command.__doc__)
    logging.basicConfig(format="%(message)s", level=logging.INFO, stream=sys.stderr)
    transformers_logging.set_verbosity_warning()
    try:
        parsed = parser.parse_args_into_dataclasses(arguments[1:])
        command(*parsed)
    except ValueError as error:
        print(f"train_hf.py {arguments[0]}: {error}", file=sys.stderr)
        return 2
    except (OSError, RuntimeError) as error:
        print(f"train_hf.py {arguments[0]}: {type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
