"""The command `classify`: examples, model, Trainer."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerFast, set_seed
from transformers.utils import logging as transformers_logging

from mose.data.classification.examples import ClassificationCollator, check_like, label_names, load_examples
from mose.modeling_mose import MoSEForSequenceClassification
from mose.tokenization.build import input_template
from mose.training import setup
from mose.training.classification.arguments import (
    ClassificationArguments,
    ClassificationDataArguments,
    ClassificationModelArguments,
)
from mose.training.classification.trainer import ClassificationTrainer, majority_metrics

logger = logging.getLogger("mose.train")

#: Tokens of an input, if nothing else is asked for.
DEFAULT_LENGTH = 512

ARGUMENTS = (ClassificationModelArguments, ClassificationDataArguments, ClassificationArguments)


def train_classifier(
    model_args: ClassificationModelArguments,
    data_args: ClassificationDataArguments,
    args: ClassificationArguments,
) -> None:
    """Train classifiers of snippets or pairs (clone detection), at every exit or one; save to --output-dir."""
    with setup.output_folder(args, "classify", model_args.model):
        _run_classification(model_args, data_args, args)


def _run_classification(
    model_args: ClassificationModelArguments,
    data_args: ClassificationDataArguments,
    args: ClassificationArguments,
) -> None:
    checkpoint = setup.checkpoint_to_resume(Path(args.output_dir), args.resume)
    setup.check_progress(checkpoint, args)

    set_seed(args.seed)
    train, validation, labels = _load_data(data_args)
    positive_label = data_args.positive_label
    if positive_label is not None and positive_label not in labels:
        raise ValueError(f"positive_label must be one of the labels {', '.join(labels)}, got {positive_label!r}.")
    positive = 1 if positive_label is None else labels.index(positive_label)

    model, tokenizer = build_classifier(model_args, labels)
    context = model.config.max_position_embeddings
    if data_args.max_length is not None:
        setup.check_lengths(data_args, ("max_length",), context)
    max_length = min(DEFAULT_LENGTH, context) if data_args.max_length is None else data_args.max_length
    # A pipeline with truncation=True then truncates as training did.
    tokenizer.model_max_length = max_length
    counts = (len(train), len(validation or ()))
    logger.info("%d examples to train on, %d to validate on; labels %s", *counts, ", ".join(labels))

    trainer = ClassificationTrainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=validation,
        processing_class=tokenizer,
        data_collator=ClassificationCollator(tokenizer, labels, max_length),
        exit_layer=model_args.exit_layer,
        positive=positive,
    )
    majority: dict[str, float] = {}
    if validation is not None:
        majority = majority_metrics([labels.index(label) for label in validation["label"]], positive, len(labels))

    with setup.after_argument_checks():
        extra = {f"majority_{name}": value for name, value in majority.items()}
        _, results = setup.train_and_save(trainer, checkpoint, extra)
        if results:
            _log_results(results, majority, trainer.exits)


def _load_data(args: ClassificationDataArguments) -> tuple[Dataset, Dataset | None, list[str]]:
    """Return the examples to train and validate on, and the labels."""
    train = load_examples(args.train_file, args.columns, args.train_split)
    labels = label_names(train, args.train_file)

    validation = None
    if args.validation_file:
        validation = load_examples(args.validation_file, args.columns, args.validation_split)
        check_like(validation, args.validation_file, train, labels)
    return train, validation, labels


def build_classifier(
    args: ClassificationModelArguments, labels: list[str]
) -> tuple[MoSEForSequenceClassification, PreTrainedTokenizerFast]:
    """Load the model in float32 and its tokenizer; classifiers are new unless they are of the same classes.

    Raises:
        ValueError: the model is not a MoSE, or has no such exit.
        OSError: the model is missing or cannot be reached.
    """
    name = args.model or setup.shipped_model()
    config = setup.check_model(name)
    options: dict[str, Any] = {
        "dtype": "float32",
        "problem_type": "single_label_classification",
        "ignore_mismatched_sizes": True,
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
        "exit_layers": _classifier_exits(name, config, args.exit_layer),
    }
    if args.exit_layer is not None:
        options["exit_layer"] = args.exit_layer

    tokenizer = setup.load_tokenizer(args.tokenizer or name)
    # Pipelines call `tokenizer(a, b)` for pairs.
    backend = tokenizer.backend_tokenizer
    backend.post_processor = input_template(backend, str(tokenizer.sep_token), str(tokenizer.cls_token))

    # transformers warns about new classifiers and left out exits, which are intended.
    transformers_logging.set_verbosity_error()
    try:
        model = MoSEForSequenceClassification.from_pretrained(name, **options)
    finally:
        transformers_logging.set_verbosity_warning()
    return model, tokenizer


def _classifier_exits(name: str, config: Mapping[str, Any], exit_layer: int | None) -> tuple[int, ...]:
    """Return the exits to train: `exit_layer`, or all but exit 0, where `<cls>` has seen no other token."""
    exits = tuple(e for e in config.get("exit_layers") or () if e > 0)
    if not exits:
        raise ValueError(f"--model {name} has only exit 0, which runs no block. Pass a deeper model.")
    if exit_layer is None:
        return exits

    if exit_layer not in exits:
        reason = " Exit 0 runs no block: its <cls> has seen nothing of the text." if exit_layer == 0 else ""
        known = ", ".join(map(str, exits))
        raise ValueError(f"exit_layer must be one of {known} for this model, got {exit_layer}.{reason}")
    return (exit_layer,)


def _log_results(results: Mapping[str, float], majority: Mapping[str, float], exits: Sequence[int]) -> None:
    rows = {f"exit {e}": {name: results[f"eval_{name}_exit_{e}"] for name in majority} for e in exits}
    for title, metrics in {**rows, "majority": majority}.items():
        logger.info("%s: %s", title, ", ".join(f"{name} {value:.3f}" for name, value in metrics.items()))
