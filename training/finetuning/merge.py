"""Wires the command `merge`: an adapter folded into its base."""

import logging
from pathlib import Path

from mose.training.finetuning.lora import load_adapter, save_merged
from mose.training.finetuning.lora_arguments import MergeArguments
from mose.training.setup import load_tokenizer
from mose.utils.files import check_new_folder

logger = logging.getLogger("mose.train")


def merge(args: MergeArguments) -> None:
    """Folds a LoRA adapter into its base; saves a plain MoSE repository to --output-dir."""
    folder = Path(args.output_dir)
    try:
        check_new_folder(folder)
    except FileExistsError as error:
        raise ValueError(f"--output-dir {error}") from error
    model = load_adapter(args.adapter, args.model, args.exit_layer)
    save_merged(model, load_tokenizer(args.adapter), folder)
    logger.info("merged model in %s", folder)
