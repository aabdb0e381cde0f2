"""Configuration of MoSE models: sizes, exits, and presets.

The Hub serves this file as remote code, so it imports only transformers.
"""

from typing import Any

from transformers import PreTrainedConfig

PRESETS: dict[str, dict[str, Any]] = {
    # The defaults of `MoSEConfig` are the paper's model; a preset lists what differs from them.
    "mose-1b": {},
    "mose-nano": {
        "vocab_size": 16_384,
        "hidden_size": 384,
        "intermediate_size": 1536,
        "num_hidden_layers": 3,
        "num_attention_heads": 12,
        "num_key_value_heads": 3,
        "max_position_embeddings": 1024,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        # About 1 / sqrt(hidden_size): narrow layers learn faster from it.
        "initializer_range": 0.05,
        "embedding_dropout": 0.0,
        "exit_layers": (0, 1, 2, 3),
        "pooling": "gated",
        "pad_token_id": 0,
        "sep_token_id": 1,
        "cls_token_id": 2,
        "mask_token_id": 3,
    },
}
#: Two thirds of the width: what shipped before, and the models that `recipes/depth` compares.
PRESETS["mose-nano-256"] = PRESETS["mose-nano"] | {
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}

#: More than any model has. Names of blocks are listed one by one.
MAX_BLOCKS = 10_000
#: Fields that take one of a few values.
FIELD_CHOICES: dict[str, tuple[Any, ...]] = {
    "exit_norm": ("every", "final"),
    "pooling": ("mean", "cls", "gated"),
    "projection_layers": (1, 2),
    "embedding_norm": ("unit", "at_most_one"),
    "context_pooler": ("conditioned", "plain"),
}


def _invalid(name: str, requirement: str, value: Any, remedy: str) -> ValueError:
    return ValueError(f"{name} must be {requirement}, got {value!r}. {remedy}")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class MoSEConfig(PreTrainedConfig):
    """Configuration of a MoSE encoder.

    The defaults describe the paper's 1 B model (arXiv 2503.03008, section 3). Fields that `Starcoder2Config` has
    keep its names. The others are:

    Args:
        exit_layers (`tuple[int, ...]`): Depths of the exits, as numbers of blocks run. 0 is the token embeddings
            without any block. Sorted, distinct, at most `num_hidden_layers`.
        exit_layer (`int`, *optional*): The deepest exit to build, one of `exit_layers`. Deeper blocks and heads
            do not exist in such a model. None builds all of them.
        exit_norm (`str`): "every" gives each exit its own LayerNorm. "final" norms only the exit after the last
            block, as in the paper's released weights; the others read the un-normed residual stream.
        pooling (`str`): How an exit pools token states: "mean"; "cls", the last real token; "gated", a weighted
            mean with a learned score per token.
        gate_size (`int`): Hidden width of the gate ("gated" pooling).
        gate_kernel_size (`int`): Number of tokens the gate sees: the token itself and those before it.
        conditional_size (`int`): Width of the learned exit embedding that conditions the pre-training heads.
        projection_layers (`int`): 1 is one linear layer that reads the pooled state. 2 is the head of the paper's
            released weights: linear, `projection_act`, linear. It reads every token's state before pooling.
        projection_act (`str`): Activation of a two-layer projection, by its name in transformers.
        embedding_norm (`str`): "unit" scales embeddings to norm 1. "at_most_one" only shortens longer ones, as in
            the paper's forerunner.
        context_pooler (`str`): How the In-Context Classification head is conditioned on the exit embedding:
            before its pooler ("conditioned"), or after it ("plain", as in the paper's released weights).
        similarity_scale_init (`float`): Initial value of the learned scale of cosine similarities.
        truncate_dim (`int`, *optional*): Keep this many leading dimensions of an embedding and renormalise.
            None keeps all.
        matryoshka_dims (`list[int]`, *optional*): Truncated sizes that the model was trained for (Matryoshka).
        aligned_exits (`bool`): Whether training aligned all exits in one space. Queries embedded at one exit can
            then be compared with documents embedded at another.
        sep_token_id, cls_token_id, mask_token_id (`int`): Ids of `<sep>`, `<cls>` and `<mask>`.

    Example:
        >>> MoSEConfig().exit_layers
        (4, 9, 18, 27, 36)
        >>> MoSEConfig.from_preset("mose-nano", exit_layer=2).built_exit_layers
        (0, 1, 2)
    """

    model_type = "mose"
    default_theta = 999_999.4420358813

    vocab_size: int = 49_156
    hidden_size: int = 1024
    intermediate_size: int = 12_288
    num_hidden_layers: int = 36
    num_attention_heads: int = 16
    num_key_value_heads: int = 4
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 2048
    initializer_range: float = 0.018042
    norm_epsilon: float = 1e-5
    use_bias: bool = True
    rope_parameters: dict | None = None
    attention_dropout: float = 0.1
    residual_dropout: float = 0.1
    embedding_dropout: float = 0.1
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    sep_token_id: int | None = 49_152
    cls_token_id: int | None = 49_153
    mask_token_id: int | None = 49_154

    exit_layers: tuple[int, ...] | list[int] = (4, 9, 18, 27, 36)
    exit_layer: int | None = None
    exit_norm: str = "every"
    pooling: str = "mean"
    gate_size: int = 64
    gate_kernel_size: int = 4
    conditional_size: int = 4
    projection_layers: int = 1
    projection_act: str = "leaky_relu"
    embedding_norm: str = "unit"
    context_pooler: str = "conditioned"
    similarity_scale_init: float = 10.0
    truncate_dim: int | None = None
    matryoshka_dims: list[int] | tuple[int, ...] | None = None
    aligned_exits: bool = False
    auto_map: dict[str, str] | None = None

    def __post_init__(self, **kwargs):
        # Always all classes: saving one alone would drop the others from config.json.
        tasks = ("", "ForMaskedLM", "ForPreTraining", "ForSequenceClassification")
        self.auto_map = {"AutoConfig": "configuration_mose.MoSEConfig"}
        self.auto_map |= {f"AutoModel{task}": f"modeling_mose.MoSE{task or 'Model'}" for task in tasks}

        self._check_exits()
        self._check_choices()
        self._check_sizes()
        self._check_numbers()
        self._check_heads()
        self.resolve_exit_layer(self.exit_layer)
        for dim in (self.truncate_dim, *(self.matryoshka_dims or ())):
            self.resolve_truncate_dim(dim)

        self.exit_layers = tuple(self.exit_layers)
        super().__post_init__(**kwargs)

        rope_type = (self.rope_parameters or {}).get("rope_type", "default")
        if rope_type != "default":
            raise _invalid("rope_type", "'default'", rope_type, "Remove it from rope_parameters.")

    def _check_exits(self) -> None:
        exits, deepest = self.exit_layers, self.num_hidden_layers
        if not isinstance(exits, tuple | list) or not exits or any(type(e) is not int for e in exits):
            raise _invalid("exit_layers", "a non-empty list of integers", exits, "Pass depths in blocks.")

        distinct = sorted(set(exits))
        if list(exits) != distinct:
            raise _invalid("exit_layers", "sorted and distinct", list(exits), f"Pass {distinct}.")
        if exits[0] < 0 or exits[-1] > deepest:
            allowed = f"in [0, num_hidden_layers={deepest}]"
            raise _invalid("exit_layers", allowed, list(exits), "Remove the exits outside.")

    def _check_choices(self) -> None:
        for name, allowed in FIELD_CHOICES.items():
            value = getattr(self, name)
            if value not in allowed or isinstance(value, bool):
                raise _invalid(name, f"one of {', '.join(map(repr, allowed))}", value, "Pass one of them.")

    def _check_sizes(self) -> None:
        sizes = [name for name in MoSEConfig.__annotations__ if name.endswith("_size")]
        for name in (*sizes, "num_attention_heads", "num_key_value_heads", "max_position_embeddings"):
            value = getattr(self, name)
            # Not a bool, nor a float that happens to be whole: they fail later, far from here.
            if type(value) is not int or value < 1:
                raise _invalid(name, "at least 1", value, "Pass a positive integer.")

        blocks = self.num_hidden_layers
        if type(blocks) is not int or not 0 <= blocks <= MAX_BLOCKS:
            raise _invalid("num_hidden_layers", f"in [0, {MAX_BLOCKS}]", blocks, "Pass a number of blocks.")

        for name in ("pad_token_id", "sep_token_id", "cls_token_id", "mask_token_id"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 0):
                raise _invalid(name, "None or at least 0", value, "Pass the id of a token.")

    def _check_numbers(self) -> None:
        for name in ("attention_dropout", "residual_dropout", "embedding_dropout"):
            if not _is_number(value := getattr(self, name)) or not 0 <= value < 1:
                raise _invalid(name, "in [0, 1)", value, "Pass a probability.")
        for name in ("norm_epsilon", "initializer_range", "similarity_scale_init"):
            if not _is_number(value := getattr(self, name)) or not 0 <= value < float("inf"):
                raise _invalid(name, "a finite number >= 0", value, "Pass one.")

    def _check_heads(self) -> None:
        hidden, heads, groups = self.hidden_size, self.num_attention_heads, self.num_key_value_heads
        if hidden % heads:
            raise _invalid("num_attention_heads", f"a divisor of hidden_size={hidden}", heads, "Change one.")
        if heads % groups:
            raise _invalid(
                "num_key_value_heads", f"a divisor of num_attention_heads={heads}", groups, "Change one."
            )
        # Rotary positions rotate pairs of dimensions.
        if hidden // heads % 2:
            remedy = f"Change hidden_size={hidden} or num_attention_heads={heads}."
            raise _invalid("hidden_size / num_attention_heads", "even", hidden // heads, remedy)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Build a configuration from a dictionary, with overrides by keyword.

        Overrides are validated, which transformers does not do. `exit_layer=None` keeps the stored value: a
        checkpoint that was cut at an exit holds nothing deeper.
        """
        overrides = {name: kwargs.pop(name) for name in cls.__annotations__ if name in kwargs}
        if overrides.get("exit_layer", 0) is None:
            del overrides["exit_layer"]

        return super().from_dict({**config_dict, **overrides}, **kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "MoSEConfig":
        """Return the preset `name`, one of `PRESETS`, with fields overridden by keyword.

        Raises:
            ValueError: There is no such preset.
        """
        if name not in PRESETS:
            raise _invalid("preset", f"one of {', '.join(PRESETS)}", name, "Pass one of them.")

        return cls(**{**PRESETS[name], **overrides})

    @property
    def built_exit_layers(self) -> tuple[int, ...]:
        """Exits that a model of this configuration has: those up to `exit_layer`."""
        return tuple(e for e in self.exit_layers if self.exit_layer is None or e <= self.exit_layer)

    @property
    def embedding_size(self) -> int:
        """Width of an untruncated embedding."""
        return self.hidden_size

    @property
    def exit_weights(self) -> dict[int, float]:
        """Weight of each exit in the training loss: its depth over the number of blocks (paper, section 3).

        Exit 0 counts as one block; it would not be trained otherwise.
        """
        return {e: max(e, 1) / max(self.num_hidden_layers, 1) for e in self.exit_layers}

    def resolve_exit_layer(self, exit_layer: int | None = None) -> int:
        """Return `exit_layer`, or the deepest exit built for None.

        Raises:
            ValueError: The model has no such exit, or was loaded up to a shallower one.
        """
        built = self.built_exit_layers
        if exit_layer is None:
            return built[-1]

        if exit_layer not in self.exit_layers or isinstance(exit_layer, bool | float):
            allowed = f"one of {', '.join(map(str, self.exit_layers))}"
            raise _invalid("exit_layer", allowed, exit_layer, "Pass one of them.")
        if exit_layer not in built:
            allowed = f"one of {', '.join(map(str, built))} in a model loaded up to exit {self.exit_layer}"
            raise _invalid("exit_layer", allowed, exit_layer, f"Load it at exit_layer={exit_layer}.")
        return exit_layer

    def resolve_truncate_dim(self, truncate_dim: int | None = None) -> int:
        """Return the width of embeddings: `truncate_dim`, or the configuration's for None.

        Raises:
            ValueError: `truncate_dim` is not in [1, `embedding_size`].
        """
        if truncate_dim is None:
            truncate_dim = self.truncate_dim
        if truncate_dim is None:
            return self.embedding_size

        if type(truncate_dim) is not int or not 1 <= truncate_dim <= self.embedding_size:
            allowed = f"an integer in [1, {self.embedding_size}]"
            raise _invalid("truncate_dim", allowed, truncate_dim, "Pass None to keep all dimensions.")
        return truncate_dim


MoSEConfig.register_for_auto_class()

__all__ = ["MoSEConfig"]
