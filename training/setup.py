"""Steps that all training commands share: tokenizer, checks, checkpoint to resume, and the run itself."""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.trainer_utils import TrainOutput

from mose.configuration_mose import MoSEConfig
from mose.data.source.report import ReadingReport
from mose.tokenization.build import read_prompts
from mose.tokenization.special_tokens import SPECIAL_TOKENS, check_special_tokens
from mose.training.arguments import RunArguments, check_fields
from mose.training.checkpoints import last_whole_checkpoint
from mose.training.interruption import signals_raise
from mose.training.output_folder import claim_output
from mose.training.trainer import MoSETrainer

logger = logging.getLogger("mose.train")

ADAPTER_CONFIG = "adapter_config.json"


def load_tokenizer(name_or_path: str, split_special_tokens: bool = True) -> PreTrainedTokenizerFast:
    """Load the tokenizer of a folder or Hub repository as a stock fast tokenizer.

    Args:
        name_or_path: the folder or repository.
        split_special_tokens: whether the tokenizer, once saved, reads special tokens in a text as text. A masked
            language model needs False, for its users write `<mask>`.

    Raises:
        ValueError: it lacks a token that training needs.
        OSError: there is no tokenizer.
    """
    # `AutoTokenizer` would ask on stdin whether to run the code beside a model's weights.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(name_or_path)
    reader = read_prompts(tokenizer.backend_tokenizer)
    if reader is None and split_special_tokens:
        logger.warning(
            "%s: this kind of tokenizer cannot tell prompts from texts. Special tokens in a text are text to "
            "this package, but special to sentence-transformers.",
            name_or_path,
        )
    else:
        options: dict[str, Any] = {"split_special_tokens": split_special_tokens}
        backend = reader or tokenizer.backend_tokenizer
        tokenizer = PreTrainedTokenizerFast.from_pretrained(name_or_path, tokenizer_object=backend, **options)

    try:
        check_special_tokens(tokenizer)
    except ValueError as error:
        raise ValueError(f"{name_or_path}: {error}") from None
    return tokenizer


def special_token_ids(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Return the ids of the special tokens by their configuration fields, such as `pad_token_id`."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in SPECIAL_TOKENS}


def shipped_model() -> str:
    """Return the folder of the model that ships with this code; ValueError if only the package is installed."""
    folder = Path(__file__).parents[1]
    if not (folder / "model.safetensors").is_file():
        raise ValueError(f"No model was installed in {folder}. Pass either --model or --preset.")
    return str(folder)


def is_adapter(folder: str | Path) -> bool:
    """Return whether a folder holds an adapter instead of a model."""
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def recorded_base(folder: str | Path) -> str:
    """Return the folder or Hub id that an adapter names as its base; ValueError if there is no adapter."""
    if not is_adapter(folder):
        raise ValueError(f"{folder} has no LoRA adapter ({ADAPTER_CONFIG}). Pass the folder of one.")
    path = Path(folder) / ADAPTER_CONFIG
    try:
        base = json.loads(path.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (ValueError, LookupError, TypeError, RecursionError):
        base = None
    if not isinstance(base, str) or not base:
        raise ValueError(f"{path} is damaged: it must name a base_model_name_or_path. Restore it.")
    return base


def check_model(name: str) -> dict:
    """Return the stored configuration of the MoSE in a folder or Hub repository.

    Raises:
        ValueError: it is not a MoSE, or an adapter without its base.
        OSError: it is missing or cannot be reached.
    """
    if is_adapter(name):
        base = recorded_base(name)
        raise ValueError(f"--model {name} is a LoRA adapter of {base}. Merge it first, or pass the base.")
    try:
        config = PreTrainedConfig.get_config_dict(name)[0]
    except OSError as error:
        raise OSError(f"--model {name}: {error}") from error

    expected, model_type = MoSEConfig.model_type, config.get("model_type")
    if model_type != expected:
        raise ValueError(f"--model {name} must have model_type {expected!r}, got {model_type!r}. Pass a MoSE.")
    return config


@contextmanager
def output_folder(args: RunArguments, command: str, *models: str | None) -> Iterator[None]:
    """Hold the output folder of a run, whose `models` it reads (None: none), see `claim_output`."""
    reads = [*models, str(Path(__file__).parents[1])]  # the shipped model lies beside the code
    with ExitStack() as stack:
        with args.main_process_first(local=False, desc="checking the output folder"):
            if args.process_index == 0:
                folder = Path(args.output_dir)
                overwrite = args.overwrite_output_dir
                stack.enter_context(
                    claim_output(folder, command, resume=args.resume, overwrite=overwrite, models=reads)
                )
        stack.enter_context(signals_raise())
        yield


def check_progress(checkpoint: Path | None, args: RunArguments) -> None:
    """Raise ValueError if the run to resume has already gone further than `args` want."""
    if checkpoint is None:
        return
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    if 0 < args.max_steps < state["global_step"]:
        raise ValueError(
            f"max_steps must be at least the {state['global_step']} steps of {checkpoint}, got {args.max_steps}. "
            "Pass more, or begin anew in another --output-dir."
        )
    if args.max_steps <= 0 and args.num_train_epochs < (state["epoch"] or 0) - 1e-6:
        raise ValueError(
            f"num_train_epochs must be at least the {state['epoch']:.2f} epochs of {checkpoint}, got "
            f"{args.num_train_epochs}. Pass more, or begin anew in another --output-dir."
        )


def check_lengths(arguments: Any, names: Iterable[str], context: int) -> None:
    """Raise ValueError for a length that is not in [1, `context`], the tokens that a model reads."""
    requirement = f"in [1, {context}], the context of the model"
    check_fields(arguments, names, lambda length: 1 <= length <= context, requirement, "Pass a shorter length.")


def checkpoint_to_resume(output_dir: Path, resume: bool) -> Path | None:
    """Return the last complete checkpoint in a run's folder; None for a new run.

    Raises:
        ValueError: there is a checkpoint, but `resume` is False.
    """
    checkpoint = last_whole_checkpoint(output_dir)
    if checkpoint is not None and not resume:
        raise ValueError(f"{output_dir} has {checkpoint.name}. Pass --resume, or choose another --output-dir.")
    return checkpoint


def log_reading(report: ReadingReport, verbose: bool = False) -> None:
    """Log what was left out of source trees, a line for each reason; with `verbose`, also the names."""
    for line in report.lines(verbose):
        logger.info("%s", line)


@contextmanager
def after_argument_checks() -> Iterator[None]:
    """Raise a `ValueError` of the block as a `RuntimeError`: once training runs, arguments are not at fault."""
    try:
        yield
    except ValueError as error:
        raise RuntimeError(str(error)) from error


def train_and_save(
    trainer: MoSETrainer, checkpoint: Path | None, extra_results: Mapping[str, Any] | None = None
) -> tuple[TrainOutput | None, dict[str, Any]]:
    """Train, save the model, evaluate if there is validation data, and save results and state.

    Returns the output of `Trainer.train` (None if the run had already finished), and the evaluation's results
    with `extra_results`.
    """
    if checkpoint is not None:
        logger.info("resuming from %s", checkpoint)
    output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    trainer.save_model()

    results: dict[str, Any] = {}
    if trainer.eval_dataset is not None:
        results = trainer.evaluate() | dict(extra_results or {})
        trainer.save_metrics("eval", results)

    trainer.save_state()
    return output, results
