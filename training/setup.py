"""What every training command begins with: the tokenizer, the model, the checkpoint to go on from."""

from pathlib import Path

from datasets import Dataset
from transformers import PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast

import mose
from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEModel
from mose.training.arguments import ModelArguments
from mose.training.checkpoints import last_whole_checkpoint
from mose.training.finetuning.initialization import grow, start_embeddings_from, start_exits_alike, token_strings
from mose.training.finetuning.lora import adapter_base, is_adapter
from mose.training.finetuning.teacher import teacher_embeddings

SPECIAL_TOKENS = ("pad", "sep", "cls", "mask")


def load_tokenizer(name_or_path: str) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder or Hub repository, as a stock fast tokenizer.

    Not through `AutoTokenizer`: that would ask whether to run the code that lies beside a model's weights.

    Raises:
        ValueError: there is none, or it lacks a token that training needs.
    """
    tokenizer = PreTrainedTokenizerFast.from_pretrained(name_or_path)
    if missing := [name for name in SPECIAL_TOKENS if getattr(tokenizer, f"{name}_token_id") is None]:
        raise ValueError(f"tokenizer {name_or_path}: it has no {' and no '.join(missing)} token")
    return tokenizer


def shipped_model() -> str:
    """The folder of the model that ships with this code.

    Raises:
        ValueError: it is not there, as where only the package was installed.
    """
    folder = Path(mose.__file__).parent
    if not (folder / "model.safetensors").is_file():
        raise ValueError(f"give either --model or --preset: no model lies in {folder}")
    return str(folder)


def check_model(name: str) -> dict:
    """The configuration of the MoSE in a folder or Hub repository, as stored.

    Raises:
        ValueError: it is no MoSE, or an adapter without its base.
        OSError: it cannot be found or reached.
    """
    if is_adapter(name):
        raise ValueError(
            f"--model {name} is a LoRA adapter of {adapter_base(name)}: merge it first, or give that"
        )
    try:
        config = PreTrainedConfig.get_config_dict(name)[0]
    except OSError as error:
        raise OSError(f"--model {name}: {error}") from error
    if (kind := config.get("model_type")) != MoSEConfig.model_type:
        raise ValueError(f"--model {name}: its model_type is {kind!r}, not {MoSEConfig.model_type!r}")
    return config


def load_model(args: ModelArguments, cache_dir: Path) -> tuple[MoSEModel, PreTrainedTokenizerBase]:
    """The model, in float32, and the tokenizer that the arguments ask for.

    Raises:
        ValueError: neither or both of `model` and `preset` are given, a preset comes without a tokenizer, the
            model is no MoSE or an adapter, or the tokenizer has more tokens than the model.
        OSError: the model cannot be found or reached.
    """
    if (args.model is None) == (args.preset is None):
        raise ValueError("give either --model or --preset")
    if args.preset:
        if not args.tokenizer:
            raise ValueError(f"--preset {args.preset}: an untrained model needs --tokenizer")
        tokenizer = load_tokenizer(args.tokenizer)
        ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in SPECIAL_TOKENS}
        model = MoSEModel(MoSEConfig.from_preset(args.preset, exit_layer=args.exit_layer, **ids))
    else:
        name = str(args.model)
        check_model(name)
        tokenizer = load_tokenizer(args.tokenizer or name)
        options = {} if args.exit_layer is None else {"exit_layer": args.exit_layer}
        # Trained in float32, whatever the checkpoint is stored in: autocast does the rest.
        model = MoSEModel.from_pretrained(name, dtype="float32", **options)
    if len(tokenizer) > model.config.vocab_size:
        raise ValueError(
            f"the tokenizer has {len(tokenizer)} tokens, the model's vocab_size={model.config.vocab_size}"
        )
    if args.init_embeddings_from:
        strings = token_strings(tokenizer)
        start_embeddings_from(model, tokenizer, teacher_embeddings(strings, args.init_embeddings_from, cache_dir))
    if args.grow_to is not None:
        model = grow(model, args.grow_to)
    if args.start_exits_alike:
        start_exits_alike(model)
    return model, tokenizer


def check_size(pairs: Dataset, batch_size: int, flag: str) -> None:
    """Raises ValueError where there is not even one batch of `batch_size`, over all processes."""
    if len(pairs) < batch_size:
        raise ValueError(f"{len(pairs)} pairs do not fill one batch: lower {flag} {batch_size}, or add pairs")


def checkpoint_to_resume(output_dir: Path, resume: bool) -> Path | None:
    """The last whole checkpoint in a run's folder; None for a run that begins.

    Raises:
        ValueError: there is one, and `resume` does not say to go on from it.
    """
    checkpoint = last_whole_checkpoint(output_dir)
    if checkpoint is not None and not resume:
        raise ValueError(f"{output_dir} holds {checkpoint.name}: add --resume, or choose another --output-dir")
    return checkpoint
