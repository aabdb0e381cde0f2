"""What a MoSE is: sizes, exits, and what may be asked of them. Knows nothing of torch and of training.

The Hub serves this file as remote code: it imports transformers alone.
"""

from typing import Any

from transformers import PreTrainedConfig

PRESETS: dict[str, dict[str, Any]] = {
    # The defaults below are the paper's model; a preset holds what differs from them.
    "mose-1b": {},
    "mose-nano": {
        "vocab_size": 16_384,
        "hidden_size": 256,
        "intermediate_size": 1024,
        "num_hidden_layers": 3,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "attention_dropout": 0.0,
        "residual_dropout": 0.0,
        # Narrow layers learn sooner from a start at about 1 / sqrt(hidden_size).
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

#: Fields that count something of which there must be one.
SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "gate_size",
    "gate_kernel_size",
    "conditional_size",
)


class MoSEConfig(PreTrainedConfig):
    """Configuration of a MoSE encoder; the defaults are the paper's 1 B model (section 3).

    Fields that `Starcoder2Config` has bear its names. Ours:

    Args:
        exit_layers (`tuple[int, ...]`): the depths at which an embedding can be taken, as numbers of blocks run
            (0: the token embeddings, no block at all). Sorted, distinct, within `num_hidden_layers`.
        exit_layer (`int`, *optional*): the depth that is built, one of `exit_layers`; deeper blocks and heads do
            not exist in such a model. None: the deepest.
        exit_norm (`str`): "every": each exit has a LayerNorm of its own; "final": only the exit after the last
            block has one and the others read the un-normed residual stream, as the paper's released weights do.
        pooling (`str`): how an exit makes one vector of its tokens: "mean"; "cls", the last real token; "gated",
            a mean weighed by a learned score of each token.
        gate_size (`int`): hidden width of the gate that scores a token ("gated" pooling).
        gate_kernel_size (`int`): how many tokens the gate sees, the token itself and those before it.
        conditional_size (`int`): width of the learned embedding of the exit that the shared pre-training heads
            are conditioned on.
        projection_sizes (`tuple[int, ...]`, *optional*): output widths of the linear layers of a projection
            head; None: one layer of `hidden_size`; empty: no head, the pooled state is the embedding.
        projection_act (`str`): the activation between two of those layers, as transformers names it.
        projection_input (`str`): what a head reads: "pooled", the pooled state; "tokens", every token's state
            before pooling, which differs where a head has an activation and pooling mixes tokens.
        embedding_norm (`str`): "unit": embeddings have norm 1; "at_most_one": those that are shorter stay as they
            are, as in the paper's forerunner.
        context_pooler (`str`): how the In-Context Classification head meets the embedding of the exit:
            "conditioned", its pooler reads it beside the state; "plain", its classifier reads it beside what the
            pooler made of the state; "none", there is no pooler and the classifier reads it beside the state.
        similarity_scale_init (`float`): where the learned scale of the cosine similarity starts.
        truncate_dim (`int`, *optional*): embeddings are cut to their first so many dimensions and have unit norm
            again. None: all of `embedding_size`.
        matryoshka_dims (`list[int]`, *optional*): the shorter embeddings that training has served.
        aligned_exits (`bool`): whether training has put all exits into one space, so that a query at one exit can
            be compared with documents at another.
        sep_token_id, cls_token_id, mask_token_id (`int`): ids of `<sep>`, `<cls>` and `<mask>`.

    Raises:
        ValueError: a field's value is not among what is allowed; the message names both.

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
    projection_sizes: tuple[int, ...] | list[int] | None = None
    projection_act: str = "leaky_relu"
    projection_input: str = "pooled"
    embedding_norm: str = "unit"
    context_pooler: str = "conditioned"
    similarity_scale_init: float = 10.0
    truncate_dim: int | None = None
    matryoshka_dims: list[int] | tuple[int, ...] | None = None
    aligned_exits: bool = False
    auto_map: dict[str, str] | None = None

    def __post_init__(self, **kwargs):
        # All heads, always: saving one class would otherwise write that class alone.
        self.auto_map = {
            "AutoConfig": "configuration_mose.MoSEConfig",
            "AutoModel": "modeling_mose.MoSEModel",
            "AutoModelForMaskedLM": "modeling_mose.MoSEForMaskedLM",
            "AutoModelForPreTraining": "modeling_mose.MoSEForPreTraining",
            "AutoModelForSequenceClassification": "modeling_mose.MoSEForSequenceClassification",
        }
        self._validate()
        self.exit_layers = tuple(self.exit_layers)
        if self.projection_sizes is not None:
            self.projection_sizes = tuple(self.projection_sizes)
        super().__post_init__(**kwargs)
        rope_type = (self.rope_parameters or {}).get("rope_type", "default")
        if rope_type != "default":
            raise ValueError(f"rope_type={rope_type!r}: allowed is 'default'")

    def _validate(self) -> None:
        exits, depth = self.exit_layers, self.num_hidden_layers
        if not isinstance(exits, tuple | list) or not exits or any(type(e) is not int for e in exits):
            raise ValueError(f"exit_layers={exits!r}: allowed is a non-empty list of integers")
        if any(a >= b for a, b in zip(exits, exits[1:], strict=False)):
            raise ValueError(f"exit_layers={list(exits)}: exits must be sorted and distinct")
        if exits[0] < 0 or exits[-1] > depth:
            raise ValueError(f"exit_layers={list(exits)}: exits must lie in 0 … num_hidden_layers={depth}")
        for name, value, allowed in (
            ("exit_norm", self.exit_norm, ("every", "final")),
            ("pooling", self.pooling, ("mean", "cls", "gated")),
            ("projection_input", self.projection_input, ("pooled", "tokens")),
            ("embedding_norm", self.embedding_norm, ("unit", "at_most_one")),
            ("context_pooler", self.context_pooler, ("conditioned", "plain", "none")),
        ):
            if value not in allowed:
                raise ValueError(f"{name}={value!r}: allowed are {', '.join(map(repr, allowed))}")
        sizes = self.projection_sizes
        if sizes is not None and (
            not isinstance(sizes, tuple | list) or any(type(size) is not int or size < 1 for size in sizes)
        ):
            raise ValueError(f"projection_sizes={sizes!r}: allowed are None and a list of integers from 1")
        for name in SIZES:
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        for size, divisor in (
            ("hidden_size", "num_attention_heads"),
            ("num_attention_heads", "num_key_value_heads"),
        ):
            if getattr(self, size) % getattr(self, divisor):
                raise ValueError(f"{divisor}={getattr(self, divisor)}: must divide {size}={getattr(self, size)}")
        if (self.hidden_size // self.num_attention_heads) % 2:
            raise ValueError(
                f"hidden_size={self.hidden_size}, num_attention_heads={self.num_attention_heads}: "
                "rotary positions need an even head size"
            )
        if self.exit_layer is not None:
            self.resolve_exit_layer(self.exit_layer)
        self.resolve_truncate_dim(self.truncate_dim)
        for dim in self.matryoshka_dims or ():
            self.resolve_truncate_dim(dim)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """As in transformers, which would set the keyword overrides of `from_pretrained` unchecked.

        `exit_layer=None` leaves what is stored: a model that was cut at an exit has nothing deeper.
        """
        overrides = {name: kwargs.pop(name) for name in cls.__annotations__ if name in kwargs}
        if overrides.get("exit_layer", 0) is None:
            del overrides["exit_layer"]
        return super().from_dict({**config_dict, **overrides}, **kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "MoSEConfig":
        """The configuration called `name` ("mose-1b" or "mose-nano"), with fields overridden by keyword.

        Raises:
            ValueError: there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"preset={name!r}: there are {', '.join(PRESETS)}")
        return cls(**{**PRESETS[name], **overrides})

    @property
    def built_exit_layers(self) -> tuple[int, ...]:
        """The exits that a model of this configuration has: those up to `exit_layer`."""
        return tuple(e for e in self.exit_layers if self.exit_layer is None or e <= self.exit_layer)

    @property
    def embedding_size(self) -> int:
        """Width of an embedding."""
        return self.projection_sizes[-1] if self.projection_sizes else self.hidden_size

    @property
    def exit_weights(self) -> dict[int, float]:
        """Weight of each exit in the training loss: its depth over the number of blocks (paper, section 3).

        Exit 0 counts as one block, so that it learns.
        """
        return {e: max(e, 1) / max(self.num_hidden_layers, 1) for e in self.exit_layers}

    def resolve_exit_layer(self, exit_layer: int | None = None) -> int:
        """`exit_layer` itself, or the deepest exit built for None.

        Raises:
            ValueError: the model has no such exit, or was built less deep.
        """
        built = self.built_exit_layers
        if exit_layer is None:
            return built[-1]
        if exit_layer not in self.exit_layers or isinstance(exit_layer, bool | float):
            raise ValueError(
                f"exit_layer={exit_layer!r}: this model exits at {', '.join(map(str, self.exit_layers))}"
            )
        if exit_layer not in built:
            raise ValueError(
                f"exit_layer={exit_layer}: this model was loaded up to exit {self.exit_layer} "
                f"and exits at {', '.join(map(str, built))}"
            )
        return exit_layer

    def resolve_truncate_dim(self, truncate_dim: int | None = None) -> int:
        """How many dimensions an embedding has: `truncate_dim`, or the configuration's for None.

        Raises:
            ValueError: more than there are, or none.
        """
        if truncate_dim is None:
            truncate_dim = self.truncate_dim
        if truncate_dim is None:
            return self.embedding_size
        if type(truncate_dim) is not int or not 1 <= truncate_dim <= self.embedding_size:
            raise ValueError(f"truncate_dim={truncate_dim!r}: must lie in 1 … {self.embedding_size}")
        return truncate_dim


MoSEConfig.register_for_auto_class()

__all__ = ["MoSEConfig"]
