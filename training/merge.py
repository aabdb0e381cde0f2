"""Wires the command `merge`: an adapter folded into its base."""

import logging
from pathlib import Path

from mose.disk import check_free
from mose.training.lora import load_adapter, save_merged
from mose.training.lora_arguments import MergeArguments
from mose.training.wiring import load_tokenizer

logger = logging.getLogger("mose.train")


def merge(args: MergeArguments) -> None:
    """Folds a LoRA adapter into its base; saves a plain MoSE repository to --output-dir."""
    folder = Path(args.output_dir)
    try:
        check_free(folder)
    except FileExistsError as error:
        raise ValueError(f"--output-dir {error}") from error
    model = load_adapter(args.adapter, args.model, args.exit_layer)
    save_merged(model, load_tokenizer(args.adapter), folder)
    logger.info("merged model in %s", folder)
