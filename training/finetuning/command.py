"""The command `finetune`: pairs, model, Trainer."""

import logging
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from transformers import PreTrainedTokenizerBase, set_seed

from mose.configuration_mose import MoSEConfig
from mose.data.retrieval.collator import PairCollator
from mose.data.retrieval.pairs import load_pairs
from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.data.source.report import ReadingReport
from mose.modeling_mose import MoSEModel
from mose.training import setup
from mose.training.arguments import select_fields
from mose.training.finetuning.arguments import (
    LORA_HELD_OUT_SHARE,
    DataArguments,
    FineTuningArguments,
    ModelArguments,
)
from mose.training.finetuning.held_out import HeldOutReport, as_retrieval_set, hold_out
from mose.training.finetuning.initialization import grow, start_embeddings_from, start_exits_alike, token_strings
from mose.training.finetuning.lora import LoRAModel, check_base, digests, lora_config, save_merged
from mose.training.finetuning.teacher import attach_teacher, teacher_embeddings
from mose.training.finetuning.trainer import FineTuningTrainer

logger = logging.getLogger("mose.train")

ARGUMENTS = (ModelArguments, DataArguments, FineTuningArguments)
LENGTHS = ("max_query_length", "max_document_length")
AUGMENTATIONS = ("instruction_dropout", "token_dropout", "word_replacement")


@dataclass
class FineTuningData:
    """Pairs to train and validate on, the retrieval set of held-out functions, and a teacher's vectors.

    `reading` says which files of the source trees were read and left out.
    """

    train: Dataset
    validation: Dataset | None = None
    held_out: RetrievalSet | None = None
    teacher_vectors: torch.Tensor | None = None
    reading: ReadingReport = field(default_factory=ReadingReport)


def finetune(
    model_args: ModelArguments, data_args: DataArguments, args: FineTuningArguments, evaluate: Any = None
) -> None:
    """Fine-tune for retrieval on pairs of text and code, at every exit; save to --output-dir.

    `evaluate` scores a model on held-out functions, as `mose.eval.held_out.score_exits` does. None: they are held
    out, but not scored.
    """
    reads = (model_args.model, *args.teacher, model_args.init_embeddings_from)
    with setup.output_folder(args, "finetune", *reads):
        _run_finetuning(model_args, data_args, args, evaluate)


def _run_finetuning(
    model_args: ModelArguments, data_args: DataArguments, args: FineTuningArguments, evaluate: Any
) -> None:
    output_dir = Path(args.output_dir)
    cache_dir = Path(args.teacher_cache or output_dir / "teacher")
    checkpoint = _checkpoint(model_args, args, output_dir)
    setup.check_progress(checkpoint, args)

    set_seed(args.seed)
    model, tokenizer = load_base(model_args, cache_dir)
    setup.check_lengths(data_args, LENGTHS, model.config.max_position_embeddings)
    data = load_data(data_args, args.lora)
    _fit_to_data(args, data)
    if args.teacher:
        _attach_teacher(data, args, cache_dir)

    trained = add_adapter(model, str(model_args.model), args, checkpoint) if args.lora else model
    trainer = _build_trainer(trained, tokenizer, data, data_args, args)
    report = None
    if data.held_out is not None and evaluate is not None and args.process_index == 0:
        score = partial(
            evaluate, dtype=torch.bfloat16 if args.bf16 else None, **select_fields(data_args, LENGTHS)
        )
        report = HeldOutReport(output_dir, data.held_out, score, resumed=checkpoint is not None)
        report.measure_before(model, tokenizer)

    with setup.after_argument_checks():
        output, _ = setup.train_and_save(trainer, checkpoint)
        if report is not None:
            seconds = None if checkpoint or output is None else output.metrics["train_runtime"]
            logger.info("%s", report.measure_after(model, tokenizer, seconds))
        if args.lora_merge and args.process_index == 0:
            save_merged(trained, tokenizer, output_dir / "merged")
    setup.log_reading(data.reading)


def _checkpoint(model_args: ModelArguments, args: FineTuningArguments, output_dir: Path) -> Path | None:
    """Return the checkpoint to resume from, after checking that it and the model go with `--lora`."""
    checkpoint = setup.checkpoint_to_resume(output_dir, args.resume)
    if checkpoint is not None and setup.is_adapter(checkpoint) is not args.lora:
        raise ValueError(
            f"{checkpoint} was saved {'without' if args.lora else 'with'} --lora. Resume it likewise."
        )

    for name in ("preset", "grow_to", "init_embeddings_from") if args.lora else ():
        if getattr(model_args, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(f"{flag} changes the base of --lora, which must be a saved model. Pass --model.")
    return checkpoint


def load_base(args: ModelArguments, cache_dir: Path) -> tuple[MoSEModel, PreTrainedTokenizerBase]:
    """Load the model to train, in float32, and its tokenizer; without `model` and `preset` the shipped one.

    `args.model` is filled in. `cache_dir` caches the teacher embeddings of `init_embeddings_from`.

    Raises:
        ValueError: both `model` and `preset` are given, a preset has no tokenizer, the model is not a MoSE or is
            an adapter, or the tokenizer has more tokens than the model.
        OSError: the model is missing or cannot be reached.
    """
    if args.preset:
        if args.model is not None:
            raise ValueError("You must specify at most one of --model and --preset.")
        if not args.tokenizer:
            raise ValueError(f"--preset {args.preset} is an untrained model. Pass a --tokenizer for it.")
        tokenizer = setup.load_tokenizer(args.tokenizer)
        ids = setup.special_token_ids(tokenizer)
        model = MoSEModel(MoSEConfig.from_preset(args.preset, exit_layer=args.exit_layer, **ids))
    else:
        args.model = args.model or setup.shipped_model()
        setup.check_model(args.model)
        tokenizer = setup.load_tokenizer(args.tokenizer or args.model)
        options: dict[str, Any] = {} if args.exit_layer is None else {"exit_layer": args.exit_layer}
        # Weights are trained in float32 whatever the checkpoint's type; autocast does the rest.
        model = MoSEModel.from_pretrained(args.model, dtype="float32", **options)

    vocab_size = model.config.vocab_size
    if len(tokenizer) > vocab_size:
        raise ValueError(f"The tokenizer must have at most vocab_size={vocab_size} tokens, got {len(tokenizer)}.")

    if args.init_embeddings_from:
        vectors = teacher_embeddings(token_strings(tokenizer), args.init_embeddings_from, cache_dir)
        start_embeddings_from(model, tokenizer, vectors)
    if args.grow_to is not None:
        model = grow(model, args.grow_to)
    if args.start_exits_alike:
        start_exits_alike(model)
    return model, tokenizer


def add_adapter(model: MoSEModel, base: str, args: FineTuningArguments, checkpoint: Path | None) -> LoRAModel:
    """Return the model with an adapter to train; ValueError if the run to resume had another base."""
    if checkpoint is not None:
        check_base(checkpoint, digests(model), base)

    lora = LoRAModel(model, lora_config(model, base, args.lora_r, args.lora_alpha, args.lora_dropout))
    trained, total = lora.get_nb_trainable_parameters()
    logger.info("LoRA: %s of %s parameters are trained", f"{trained:,}", f"{total:,}")
    return lora


def load_data(args: DataArguments, lora: bool = False) -> FineTuningData:
    """Load the pairs to train and validate on, and the held-out functions; raises what `load_pairs` does."""
    held_out_share = args.held_out_share
    if held_out_share is None:
        held_out_share = LORA_HELD_OUT_SHARE if lora and args.source_tree else 0.0

    parts, held_out, validation = [], None, None
    report = ReadingReport()
    mining: dict[str, Any] = {"rules": args.rules, "report": report, "classes": args.mine_classes}
    if held_out_share:
        mined = load_pairs(args.source_tree, (), {} if args.dataset else args.columns, **mining)
        seen, unseen = hold_out(mined, held_out_share)
        parts.append(seen)
        held_out = as_retrieval_set(mined, unseen)
    if args.dataset or not held_out_share:
        trees = () if held_out_share else args.source_tree
        parts.append(load_pairs(trees, args.dataset, args.columns, split=args.train_split, **mining))

    if args.validation_dataset:
        validation = load_pairs((), args.validation_dataset, args.columns, split=args.validation_split)
    setup.log_reading(report, args.verbose)
    return FineTuningData(concatenate_datasets(parts), validation, held_out, reading=report)


def _fit_to_data(args: FineTuningArguments, data: FineTuningData) -> None:
    """Choose open batch sizes, check that batches can be filled, and log the amount of data."""
    fit_batches(args, len(data.train), None if data.validation is None else len(data.validation))

    for pairs in filter(None, (data.train, data.validation)):
        if any(len(pairs.unique(side)) < 2 for side in ("query", "document")):
            raise ValueError(
                f"The {len(pairs)} pairs must differ in query and document, or nothing is to be told apart. Pass "
                "other pairs."
            )

    parts = {"train": (data.train, args.train_batch_size), "eval": (data.validation, args.eval_batch_size)}
    for name, (pairs, batch_size) in parts.items():
        if pairs is not None and len(pairs) < (batch_size := batch_size * args.world_size):
            raise ValueError(
                f"--per-device-{name}-batch-size must be at most the {len(pairs)} pairs, got {batch_size}. "
                "Lower it, or add pairs."
            )

    logger.info("%d pairs to train on, %d to validate on", len(data.train), len(data.validation or ()))
    if data.held_out is not None:
        logger.info("%d functions held out, searched for before and after", len(data.held_out.queries))


def fit_batches(args: FineTuningArguments, train: int, validation: int | None) -> None:
    """Shrink batches whose size nobody chose to the number of pairs; ValueError if there is only one pair."""
    if train < 2:
        raise ValueError(f"A contrastive loss needs at least 2 pairs, got {train} pair to train on. Add pairs.")
    if validation is not None and validation < 2:
        raise ValueError(
            f"A contrastive loss needs at least 2 pairs, got {validation} pair to validate on. Add pairs, or "
            "leave out --validation-dataset."
        )

    devices = args.device_count
    if args.batch_size_is_open and train < args.per_device_train_batch_size * devices:
        args.per_device_train_batch_size = max(1, train // devices)
        logger.info("a batch holds all of %d pairs", args.per_device_train_batch_size * devices)

    if args.eval_batch_size_is_open:
        largest = args.per_device_train_batch_size if validation is None else max(1, validation // devices)
        args.per_device_eval_batch_size = min(args.per_device_train_batch_size, largest)


def _attach_teacher(data: FineTuningData, args: FineTuningArguments, cache_dir: Path) -> None:
    """Embed all texts with the teachers, and add their columns to both parts of the data."""
    pairs = data.train if data.validation is None else concatenate_datasets([data.train, data.validation])
    pairs, data.teacher_vectors = attach_teacher(pairs, args.teacher, cache_dir, args.teacher_max_length)

    first = len(data.train)
    data.train = pairs.select(range(first))
    if data.validation is not None:
        data.validation = pairs.select(range(first, len(pairs)))


def _build_trainer(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    data: FineTuningData,
    data_args: DataArguments,
    args: FineTuningArguments,
) -> FineTuningTrainer:
    keep = () if data.teacher_vectors is None else ("teacher_query", "teacher_document")
    options = select_fields(data_args, (*LENGTHS, *AUGMENTATIONS))
    trainer = FineTuningTrainer(
        model=model,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.validation,
        processing_class=tokenizer,
        teacher_vectors=data.teacher_vectors,
        data_collator=PairCollator(tokenizer, keep=keep, seed=args.seed, **options),
    )
    trainer.datasets = tuple(data_args.dataset)
    return trainer
