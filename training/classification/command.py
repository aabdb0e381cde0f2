"""Wires the command `classify`: examples, model, Trainer."""

import logging
from pathlib import Path

from transformers import PreTrainedTokenizerFast, set_seed
from transformers.utils import logging as transformers_logging

from mose.data.classification.examples import ClassificationCollator, check_like, label_names, load_examples
from mose.modeling_mose import MoSEForSequenceClassification
from mose.tokenization.build import input_template
from mose.training.classification.arguments import (
    ClassificationArguments,
    ClassificationDataArguments,
    ClassificationModelArguments,
)
from mose.training.classification.trainer import ClassificationTrainer, majority_metrics
from mose.training.setup import check_model, checkpoint_to_resume, load_tokenizer, shipped_model

logger = logging.getLogger("mose.train")


def load_classifier(
    args: ClassificationModelArguments, labels: list[str]
) -> tuple[MoSEForSequenceClassification, PreTrainedTokenizerFast]:
    """The model in float32, with a new classifier per exit unless it has one for the same classes; the tokenizer.

    Exit 0 is left out: a classifier reads `<cls>`, which has met no other token there.

    Raises:
        ValueError: the model is no MoSE, or has no such exit.
        OSError: the model cannot be found or reached.
    """
    name = args.model or shipped_model()
    config = check_model(name)
    options: dict = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    # Where no block was run, `<cls>` has seen nothing of the text.
    exits = tuple(e for e in config.get("exit_layers") or () if e > 0)
    if args.exit_layer is not None:
        if args.exit_layer not in exits:
            raise ValueError(
                f"exit_layer={args.exit_layer}: this model can classify at {', '.join(map(str, exits))}"
                + (" (exit 0 runs no block: its <cls> knows nothing of the text)" if args.exit_layer == 0 else "")
            )
        exits = (args.exit_layer,)  # the others would have classifiers that nobody has trained
        options["exit_layer"] = args.exit_layer
    if not exits:
        raise ValueError(f"--model {name}: it has exit 0 alone, which runs no block and cannot classify")
    options["exit_layers"] = exits
    tokenizer = load_tokenizer(args.tokenizer or name)
    # Others will hand it two texts: `tokenizer(a, b)`, as pipelines do.
    backend = tokenizer.backend_tokenizer
    backend.post_processor = input_template(backend, str(tokenizer.sep_token), str(tokenizer.cls_token))
    # That classifiers are new, and that exits are left out, is as it should be.
    transformers_logging.set_verbosity_error()
    try:
        model = MoSEForSequenceClassification.from_pretrained(
            name, dtype="float32", problem_type="single_label_classification",
            ignore_mismatched_sizes=True, **options,
        )  # fmt: skip
    finally:
        transformers_logging.set_verbosity_warning()
    return model, tokenizer


def classify(
    model_args: ClassificationModelArguments,
    data_args: ClassificationDataArguments,
    args: ClassificationArguments,
) -> None:
    """Trains classifiers of snippets or pairs (clone detection), at every exit or one; saves to --output-dir."""
    output_dir = Path(str(args.output_dir))
    checkpoint = checkpoint_to_resume(output_dir, args.resume)
    set_seed(args.seed)
    train = load_examples(data_args.train_file, data_args.columns, data_args.train_split)
    labels = label_names(train, data_args.train_file)
    validation = None
    if data_args.validation_file:
        validation = load_examples(data_args.validation_file, data_args.columns, data_args.validation_split)
        check_like(validation, data_args.validation_file, train, labels)
    positive = 1
    if data_args.positive_label is not None:
        if data_args.positive_label not in labels:
            raise ValueError(f"positive_label={data_args.positive_label!r}: the labels are {', '.join(labels)}")
        positive = labels.index(data_args.positive_label)
    model, tokenizer = load_classifier(model_args, labels)
    max_length = min(data_args.max_length, model.config.max_position_embeddings)
    tokenizer.model_max_length = max_length  # so that a pipeline with truncation=True cuts where training did
    logger.info(
        "%d examples to train on, %d to validate on; labels %s",
        *(len(train), len(validation or ()), ", ".join(labels)),
    )
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
    if checkpoint is not None:
        logger.info("going on from %s", checkpoint)
    try:
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        trainer.save_model()
        if validation is not None:
            results = trainer.evaluate()
            ids = [labels.index(label) for label in validation["label"]]
            majority = majority_metrics(ids, positive, len(labels))
            results |= {f"majority_{name}": value for name, value in majority.items()}
            trainer.save_metrics("eval", results)
            for e in trainer.exits:
                figures = {name: results[f"eval_{name}_exit_{e}"] for name in majority}
                logger.info("exit %d: %s", e, ", ".join(f"{name} {v:.3f}" for name, v in figures.items()))
            logger.info("majority: %s", ", ".join(f"{name} {v:.3f}" for name, v in majority.items()))
        trainer.save_state()
    except ValueError as error:  # the arguments were good, or we would not have come so far
        raise RuntimeError(str(error)) from error
