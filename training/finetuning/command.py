"""Wires the command `finetune`: pairs, model, Trainer."""

import logging
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets
from transformers import set_seed

from mose.data.retrieval.collator import PairCollator
from mose.data.retrieval.pairs import load_pairs
from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.modeling_mose import MoSEModel
from mose.training.arguments import DataArguments, ModelArguments
from mose.training.finetuning.arguments import FineTuningArguments
from mose.training.finetuning.held_out import HeldOut, as_retrieval_set, hold_out
from mose.training.finetuning.lora import LoRAModel, check_base, digests, is_adapter, lora_config, save_merged
from mose.training.finetuning.teacher import attach_teacher
from mose.training.finetuning.trainer import FineTuningTrainer
from mose.training.setup import check_size, checkpoint_to_resume, load_model, shipped_model

logger = logging.getLogger("mose.train")


def load_data(
    args: DataArguments, held_out_share: float = 0.0
) -> tuple[Dataset, Dataset | None, RetrievalSet | None]:
    """The pairs to train on; those to validate on, and what to search for held-out functions, where asked for.

    Raises:
        ValueError: as in `load_pairs` and `hold_out`.
    """
    parts, searched = [], None
    if args.dataset or not held_out_share:
        trees = () if held_out_share else args.source_tree
        parts.append(load_pairs(trees, args.dataset, args.columns, split=args.train_split))
    if held_out_share:
        mined = load_pairs(args.source_tree, (), {} if args.dataset else args.columns)
        kept, held_out = hold_out(mined, held_out_share)
        parts.insert(0, kept)
        searched = as_retrieval_set(mined, held_out)
    train = concatenate_datasets(parts)
    validation = None
    if args.validation_dataset:
        validation = load_pairs((), args.validation_dataset, args.columns, split=args.validation_split)
    return train, validation, searched


def _check_base_is_saved(args: ModelArguments) -> None:
    for name in ("preset", "grow_to", "init_embeddings_from"):
        if getattr(args, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} changes the base of --lora, which must be a model that is saved: --model")


def adapted(
    model: MoSEModel, model_args: ModelArguments, args: FineTuningArguments, checkpoint: Path | None
) -> LoRAModel:
    """The model with an adapter to train.

    Raises:
        ValueError: the run to resume had another base.
    """
    if checkpoint is not None:
        check_base(checkpoint, digests(model), str(model_args.model))
    config = lora_config(model, str(model_args.model), args.lora_r, args.lora_alpha, args.lora_dropout)
    lora = LoRAModel(model, config)
    trained, total = lora.get_nb_trainable_parameters()
    logger.info("LoRA: %s of %s parameters are trained", f"{trained:,}", f"{total:,}")
    return lora


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
    if checkpoint is not None and is_adapter(checkpoint) is not args.lora:
        raise ValueError(f"{checkpoint} was saved {'without' if args.lora else 'with'} --lora")
    if args.lora:
        _check_base_is_saved(model_args)
    if model_args.model is None and model_args.preset is None:
        model_args.model = shipped_model()
    set_seed(args.seed)
    cache_dir = Path(args.teacher_cache or output_dir / "teacher")
    model, tokenizer = load_model(model_args, cache_dir)
    share = data_args.held_out_share
    if share is None:
        share = 0.1 if args.lora and data_args.source_tree else 0.0
    train, validation, searched = load_data(data_args, share)
    fit_batches(args, len(train), None if validation is None else len(validation))
    check_size(train, args.train_batch_size * args.world_size, "--per-device-train-batch-size")
    if validation is not None:
        check_size(validation, args.eval_batch_size * args.world_size, "--per-device-eval-batch-size")
    logger.info("%d pairs to train on, %d to validate on", len(train), len(validation or ()))
    if searched is not None:
        logger.info("%d functions held out, to be found before and after", len(searched.queries))
    keep: tuple[str, ...] = ()
    vectors = None
    if args.teacher:
        taught, vectors = attach_teacher(
            train if validation is None else concatenate_datasets([train, validation]),
            args.teacher,
            cache_dir,
            model.config.embedding_size,
            args.teacher_max_length,
        )
        if validation is not None:
            validation = taught.select(range(len(train), len(taught)))
        train = taught.select(range(len(train)))
        keep = ("teacher_query", "teacher_document")
    trained = adapted(model, model_args, args, checkpoint) if args.lora else model
    trainer = FineTuningTrainer(
        model=trained,
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
    trainer.datasets = tuple(data_args.dataset or ())
    held_out = None
    if searched is not None and args.process_index == 0:
        held_out = HeldOut(
            output_dir,
            searched,
            resumed=checkpoint is not None,
            max_query_length=data_args.max_query_length,
            max_document_length=data_args.max_document_length,
            dtype=torch.bfloat16 if args.bf16 else None,
        )
        held_out.before(model, tokenizer)
    if checkpoint is not None:
        logger.info("going on from %s", checkpoint)
    try:
        result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_model()
        if validation is not None:
            trainer.save_metrics("eval", trainer.evaluate())
        trainer.save_state()
        if held_out is not None:
            seconds = None if checkpoint else result.metrics["train_runtime"]
            logger.info("%s", held_out.after(model, tokenizer, seconds))
        if args.lora_merge and args.process_index == 0:
            save_merged(trained, tokenizer, output_dir / "merged")
    except ValueError as error:  # the arguments were good, or we would not have come so far
        raise RuntimeError(str(error)) from error
