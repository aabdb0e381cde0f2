"""Wires the command `pretrain`: corpus, tokenizer, model, stream, Trainer."""

import logging
from itertools import islice
from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast, set_seed

from mose.configuration_mose import MoSEConfig
from mose.data.pretraining.corpus import Corpus, load_corpus
from mose.data.pretraining.masking import MLMCollator
from mose.data.pretraining.stream import PreTrainingStream
from mose.modeling_mose import MoSEForPreTraining
from mose.tokenization.build import STARCODER2_SIZE, build_tokenizer, extend_starcoder2
from mose.training.pretraining.arguments import (
    PreTrainingArguments,
    PreTrainingDataArguments,
    PreTrainingModelArguments,
)
from mose.training.pretraining.trainer import PreTrainingTrainer
from mose.training.setup import SPECIAL_TOKENS, check_model, checkpoint_to_resume, load_tokenizer

logger = logging.getLogger("mose.train")


def choose_tokenizer(
    args: PreTrainingModelArguments, corpus: Corpus, cache: Path, max_length: int, anew: bool = False
) -> PreTrainedTokenizerBase:
    """The tokenizer asked for; for a preset without one, trained on the corpus and kept in `cache`.

    Args:
        anew: do not use what lies in `cache`: a run that begins may have another corpus or size than the one
            that left it there, or that was killed while it wrote.

    Raises:
        ValueError: it lacks a special token, or the preset's vocabulary is too large for a corpus.
    """
    if args.tokenizer:
        plain = PreTrainedTokenizerFast.from_pretrained(args.tokenizer)
        if len(plain) == STARCODER2_SIZE and plain.mask_token is None:
            return extend_starcoder2(plain, max_length)
        return load_tokenizer(args.tokenizer)
    if args.model:
        return load_tokenizer(args.model)
    if args.preset == "mose-1b" and args.vocab_size is None:
        raise ValueError(
            "--preset mose-1b: give --tokenizer bigcode/starcoder2-3b (the paper's), another, or --vocab-size to "
            "train one on the corpus"
        )
    if not anew and (cache / "tokenizer.json").exists():
        return load_tokenizer(str(cache))
    size = args.vocab_size or MoSEConfig.from_preset(str(args.preset)).vocab_size
    logger.info("training a tokenizer of %d tokens on up to %d files", size, args.tokenizer_files)
    texts = (row["text"] for row in islice(iter(corpus), args.tokenizer_files))
    tokenizer = build_tokenizer(texts, size, max_length, show_progress=False)
    tokenizer.save_pretrained(cache)
    return tokenizer


def load_pretraining_model(
    args: PreTrainingModelArguments, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> MoSEForPreTraining:
    """The model, in float32, with its heads.

    Raises:
        ValueError: it is no MoSE, or its vocabulary or special tokens are not the tokenizer's.
        OSError: it cannot be found or reached.
    """
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in SPECIAL_TOKENS}
    options = {} if args.exit_layer is None else {"exit_layer": args.exit_layer}
    if args.preset:
        if args.tokenizer is None:  # it was made for this preset
            options["vocab_size"] = len(tokenizer)
        config = MoSEConfig.from_preset(args.preset, **{**ids, **options, **args.overrides})
    else:
        check_model(str(args.model))
        config = MoSEConfig.from_pretrained(str(args.model), **options)
    if len(tokenizer) > config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's vocab_size={config.vocab_size}: give the "
            "tokenizer that belongs to the model"
            + (", or --config-overrides '{\"vocab_size\": …}'" if args.preset else "")
        )
    if wrong := {name: value for name, value in ids.items() if getattr(config, name) != value}:
        expected = {name: getattr(config, name) for name in wrong}
        raise ValueError(f"the tokenizer has {wrong}, the model {expected}: they do not belong together")
    config.max_position_embeddings = max(config.max_position_embeddings, max_length)
    if args.preset:
        return MoSEForPreTraining(config)
    return MoSEForPreTraining.from_pretrained(str(args.model), config=config, dtype="float32")


def load_parts(args: PreTrainingDataArguments, seed: int) -> tuple[Corpus, Corpus | None]:
    """The repositories to train on, and those held out where some are.

    Raises:
        ValueError: as in `load_corpus`.
    """

    def part(name: str) -> Corpus:
        return load_corpus(
            args.source_tree,
            args.dataset,
            args.columns,
            split=args.train_split,
            shuffle_buffer=args.shuffle_buffer,
            seed=seed,
            near_duplicates=args.near_duplicates,
            files_per_repository=args.files_per_repository,
            held_out=args.held_out,
            part=name,
        )

    return part("train"), part("held_out") if args.held_out else None


def pretrain(
    model_args: PreTrainingModelArguments, data_args: PreTrainingDataArguments, args: PreTrainingArguments
) -> None:
    """Pre-trains on repositories, with MLM and In-Context Classification at every exit; saves to --output-dir."""
    output_dir = Path(str(args.output_dir))
    recipe = args.fill(model_args.preset)
    max_length = data_args.max_length or recipe["max_length"]
    checkpoint = checkpoint_to_resume(output_dir, args.resume)
    set_seed(args.seed)
    corpus, held_out = load_parts(data_args, args.seed)
    with args.main_process_first(local=False, desc="choosing the tokenizer"):
        anew = checkpoint is None and args.process_index == 0  # the others wait for what the first one wrote
        tokenizer = choose_tokenizer(model_args, corpus, output_dir / "tokenizer", max_length, anew)
    set_seed(args.seed)
    model = load_pretraining_model(model_args, tokenizer, max_length)
    stream = PreTrainingStream(
        corpus,
        tokenizer,
        max_length,
        data_args.context_objective,
        seed=args.seed,
        rank=args.process_index,
        world_size=args.world_size,
        lanes=data_args.lanes,
        batch_size=args.train_batch_size,
    )
    examples = None
    if held_out is not None:
        once = PreTrainingStream(
            held_out, tokenizer, max_length, data_args.context_objective, seed=args.seed, epochs=1
        )
        examples = list(islice(once, data_args.eval_examples))
        if len(examples) < args.world_size:
            raise ValueError(
                f"held_out={data_args.held_out}: the repositories held out give {len(examples)} examples; hold "
                "more out, or 0"
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
    logger.info(
        "%d parameters, exits %s; %d examples held out",
        model.num_parameters(),
        ", ".join(map(str, model.model.exit_layers)),
        len(examples or ()),
    )
    if checkpoint is not None:
        logger.info("going on from %s", checkpoint)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_model()
        if examples is not None:
            trainer.save_metrics("eval", trainer.evaluate())
        trainer.save_state()
    except ValueError as error:  # the arguments were good, or we would not have come so far
        raise RuntimeError(str(error)) from error
