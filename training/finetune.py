"""Wires the command `finetune`: pairs, model, Trainer."""

import logging
from pathlib import Path

from datasets import Dataset, concatenate_datasets
from transformers import set_seed

from mose.data.collators import PairCollator
from mose.data.pairs import load_pairs
from mose.training.arguments import DataArguments, FineTuningArguments, ModelArguments
from mose.training.teacher import attach_teacher
from mose.training.trainer import FineTuningTrainer
from mose.training.wiring import check_size, checkpoint_to_resume, load_model

logger = logging.getLogger("mose.train")


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


def fit_batches(args: FineTuningArguments, train: int, validation: int | None) -> None:
    """Makes batches whose size nobody has chosen no larger than the pairs that there are.

    Args:
        args: Changed in place.
        train, validation: How many pairs there are.

    Raises:
        ValueError: There is but one to train on.
    """
    if train < 2:
        raise ValueError(f"{train} pair to train on: a contrastive loss needs at least 2 pairs")
    devices = args.world_size * max(1, args.n_gpu)
    if args.batch_size_is_open and train < args.per_device_train_batch_size * devices:
        args.per_device_train_batch_size = max(1, train // devices)
        logger.info("a batch holds all of %d pairs", args.per_device_train_batch_size * devices)
    if args.eval_batch_size_is_open:
        largest = args.per_device_train_batch_size if validation is None else max(1, validation // devices)
        args.per_device_eval_batch_size = min(args.per_device_train_batch_size, largest)


def finetune(model_args: ModelArguments, data_args: DataArguments, args: FineTuningArguments) -> None:
    """Fine-tunes for retrieval on pairs of text and code, at every exit; saves to --output-dir."""
    output_dir = Path(str(args.output_dir))
    checkpoint = checkpoint_to_resume(output_dir, args.resume)
    set_seed(args.seed)
    cache_dir = Path(args.teacher_cache or output_dir / "teacher")
    model, tokenizer = load_model(model_args, cache_dir)
    train, validation = load_data(data_args)
    fit_batches(args, len(train), None if validation is None else len(validation))
    check_size(train, args.train_batch_size * args.world_size, "--per-device-train-batch-size")
    if validation is not None:
        check_size(validation, args.eval_batch_size * args.world_size, "--per-device-eval-batch-size")
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
            word_replacement=data_args.word_replacement,
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
