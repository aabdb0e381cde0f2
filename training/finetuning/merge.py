"""The command `merge`: fold a LoRA adapter into its base."""

import logging
from pathlib import Path

from mose.training.finetuning.arguments import MergeArguments
from mose.training.finetuning.lora import load_adapter, save_merged
from mose.training.setup import load_tokenizer
from mose.utils.files import check_new_folder

logger = logging.getLogger("mose.train")


def merge(args: MergeArguments) -> None:
    """Save the base with its adapter merged into it as a plain MoSE repository.

    Raises:
        ValueError: the output folder is in use, or the adapter does not fit its base.
        OSError: the base is missing or cannot be reached.
    """
    folder = Path(args.output_dir)
    try:
        check_new_folder(folder)
    except FileExistsError as error:
        raise ValueError(f"--output-dir {error}") from error

    model = load_adapter(args.adapter, args.model, args.exit_layer)
    save_merged(model, load_tokenizer(args.adapter), folder)
    logger.info("merged model in %s", folder)
