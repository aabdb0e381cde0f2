"""The command `pretrain`: corpus, tokenizer, model, stream, Trainer."""

import logging
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, set_seed

from mose.configuration_mose import MoSEConfig
from mose.data.pretraining.corpus import Corpus, EmptyPartError, load_corpus
from mose.data.pretraining.masking import MLMCollator
from mose.data.pretraining.stream import PreTrainingStream
from mose.data.source.report import ReadingReport
from mose.modeling_mose import MoSEForPreTraining
from mose.tokenization.build import STARCODER2_SIZE, build_tokenizer, extend_starcoder2
from mose.training import setup
from mose.training.arguments import select_fields
from mose.training.pretraining.arguments import (
    RECIPES,
    PreTrainingArguments,
    PreTrainingDataArguments,
    PreTrainingModelArguments,
)
from mose.training.pretraining.trainer import PreTrainingTrainer

logger = logging.getLogger("mose.train")

#: Share of the repositories that is held out, if there are enough.
DEFAULT_HELD_OUT = 0.05

ARGUMENTS = (PreTrainingModelArguments, PreTrainingDataArguments, PreTrainingArguments)


def pretrain(
    model_args: PreTrainingModelArguments, data_args: PreTrainingDataArguments, args: PreTrainingArguments
) -> None:
    """Pre-train on repositories, with MLM and In-Context Classification at every exit; save to --output-dir."""
    with setup.output_folder(args, "pretrain", model_args.model):
        _run_pretraining(model_args, data_args, args)


def _run_pretraining(
    model_args: PreTrainingModelArguments, data_args: PreTrainingDataArguments, args: PreTrainingArguments
) -> None:
    output_dir = Path(args.output_dir)
    max_length = data_args.max_length or RECIPES[str(args.recipe)]["max_length"]
    checkpoint = setup.checkpoint_to_resume(output_dir, args.resume)
    setup.check_progress(checkpoint, args)

    set_seed(args.seed)
    corpus, held_out = load_parts(data_args, args.seed)
    setup.log_reading(_reading(corpus, held_out))
    with args.main_process_first(local=False, desc="choosing the tokenizer"):
        # The first process trains the tokenizer of a new run, and the others read it.
        anew = checkpoint is None and args.process_index == 0
        tokenizer = choose_tokenizer(model_args, corpus, output_dir / "tokenizer", max_length, anew)

    # A tokenizer that was just trained has used random numbers.
    set_seed(args.seed)
    model = load_pretraining_model(model_args, tokenizer, max_length)
    settings = (tokenizer, max_length, data_args.context_objective)
    share = data_args.same_language_intruders
    build = partial(PreTrainingStream, seed=args.seed, same_language_intruders=share)
    sharding = {"rank": args.process_index, "world_size": args.world_size, "lanes": data_args.lanes}
    stream = build(corpus, *settings, batch_size=args.train_batch_size, **sharding)
    examples = None
    if held_out is not None:
        held_out_stream = build(held_out, *settings, epochs=1)
        examples = list(islice(held_out_stream, data_args.eval_examples))
        if len(examples) < args.world_size:
            raise ValueError(
                f"held_out={data_args.held_out} must give at least one example per process ({args.world_size}), "
                f"got {len(examples)}. Hold out more repositories, or 0."
            )

    trainer = PreTrainingTrainer(
        model=model,
        args=args,
        train_dataset=stream,
        eval_dataset=examples,
        processing_class=tokenizer,
        data_collator=MLMCollator(tokenizer, data_args.mlm_probability, seed=args.seed),
    )
    trainer.datasets = tuple(data_args.dataset)
    facts = (model.num_parameters(), ", ".join(map(str, model.model.exit_layers)), len(examples or ()))
    logger.info("%d parameters, exits %s; %d examples held out", *facts)
    with setup.after_argument_checks():
        setup.train_and_save(trainer, checkpoint)
    setup.log_reading(_reading(corpus, held_out), data_args.verbose)


def _reading(corpus: Corpus, held_out: Corpus | None) -> ReadingReport:
    """Return what this process has read of the source trees so far, and what was left out."""
    report = corpus.reading()
    if held_out is not None:
        # Both parts have listed the same trees, and counted the same files of other languages.
        other = held_out.reading()
        other.other_files.clear()
        report.update(other)
    return report


def choose_tokenizer(
    args: PreTrainingModelArguments, corpus: Corpus, cache: Path, max_length: int, anew: bool = False
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the arguments; for a preset without one, train it on the corpus.

    A trained tokenizer is saved in `cache`. `anew` ignores it: a new run may have another corpus or size than the
    run that wrote it, which may also have been killed while writing.

    Raises:
        ValueError: the tokenizer lacks a special token, or the preset's vocabulary is too large for a corpus.
    """
    if args.tokenizer:
        plain = PreTrainedTokenizerFast.from_pretrained(args.tokenizer)
        if len(plain) == STARCODER2_SIZE and plain.mask_token is None:
            return extend_starcoder2(plain, max_length)
        return setup.load_tokenizer(args.tokenizer, split_special_tokens=False)
    if args.model:
        return setup.load_tokenizer(args.model, split_special_tokens=False)

    if args.preset == "mose-1b" and args.vocab_size is None:
        raise ValueError(
            "--preset mose-1b needs a tokenizer. Pass --tokenizer bigcode/starcoder2-3b (the paper's), another, "
            "or --vocab-size to train one on the corpus."
        )
    if not anew and (cache / "tokenizer.json").exists():
        return setup.load_tokenizer(str(cache), split_special_tokens=False)

    size = args.vocab_size or MoSEConfig.from_preset(str(args.preset)).vocab_size
    logger.info("training a tokenizer of %d tokens on up to %d files", size, args.tokenizer_files)
    texts = (row["text"] for row in islice(iter(corpus), args.tokenizer_files))
    tokenizer = build_tokenizer(texts, size, max_length)
    tokenizer.save_pretrained(cache)
    return tokenizer


def load_pretraining_model(
    args: PreTrainingModelArguments, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> MoSEForPreTraining:
    """Load the model with its heads, in float32.

    Raises:
        ValueError: it is not a MoSE, or its vocabulary or special tokens are not the tokenizer's.
        OSError: it is missing or cannot be reached.
    """
    ids = setup.special_token_ids(tokenizer)
    options: dict[str, Any] = {} if args.exit_layer is None else {"exit_layer": args.exit_layer}

    if args.preset:
        if args.tokenizer is None:
            # The tokenizer was trained for this preset.
            options["vocab_size"] = len(tokenizer)
        config = MoSEConfig.from_preset(args.preset, **{**ids, **options, **args.overrides})
    else:
        setup.check_model(str(args.model))
        config = MoSEConfig.from_pretrained(str(args.model), **options)
    _check_tokenizer(tokenizer, ids, config)

    config.max_position_embeddings = max(config.max_position_embeddings, max_length)
    if args.preset:
        return MoSEForPreTraining(config)
    return MoSEForPreTraining.from_pretrained(str(args.model), config=config, dtype="float32")


def _check_tokenizer(tokenizer: PreTrainedTokenizerBase, ids: dict[str, int], config: MoSEConfig) -> None:
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"The tokenizer must have at most vocab_size={config.vocab_size} tokens, got {len(tokenizer)}. Pass "
            "the model's own --tokenizer, or with --preset --config-overrides '{\"vocab_size\": …}'."
        )

    different = {name: value for name, value in ids.items() if getattr(config, name) != value}
    if different:
        expected = {name: getattr(config, name) for name in different}
        raise ValueError(
            f"The tokenizer must have the model's {expected}, got {different}. Pass the model's own --tokenizer."
        )


def load_parts(args: PreTrainingDataArguments, seed: int) -> tuple[Corpus, Corpus | None]:
    """Return the repositories to train on, and the held-out ones or None; raises what `load_corpus` does.

    `args.held_out` is filled in.
    """
    options = select_fields(args, ("shuffle_buffer", "near_duplicates", "files_per_repository"))
    options |= {"split": args.train_split, "seed": seed, "rules": args.rules}
    load_part = partial(load_corpus, args.source_tree, args.dataset, args.columns, **options)

    share = DEFAULT_HELD_OUT if args.held_out is None else args.held_out
    try:
        parts = (
            load_part(part="train", held_out=share),
            load_part(part="held_out", held_out=share) if share else None,
        )
    except EmptyPartError as error:
        if args.held_out is not None:
            raise
        logger.warning("%s Without --held-out, nothing is held out and no loss is evaluated.", error)
        share, parts = 0.0, (load_part(part="train", held_out=0.0), None)
    args.held_out = share
    return parts
