"""Layout of the paper's released checkpoints, and a plan that accounts for each of their tensors.

The trunk is transformers' Starcoder2Model under `starEncoder2.`. Pre-training heads follow BERT's names, and a
fine-tuned checkpoint has a list `projection_heads`. `docs/import.md` says how certain each fact is.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.activations import ACT2FN

from mose.configuration_mose import MoSEConfig
from mose.hub.shards import TensorSource
from mose.modeling_mose import MoSEForPreTraining, MoSEModel

_TRUNK, _HEADS = r"(?:.+\.)?starEncoder2\.(?:module\.)?", r"(?:.+\.)?"
#: Pattern of a released name -> our name; `head` and `final_norm` get theirs once the exits are known.
PATTERNS = {
    _TRUNK + r"embed_tokens\.weight": r"embed_tokens.weight",
    _TRUNK + r"layers\.(\d+)\.(self_attn\.[qkvo]_proj|mlp\.c_(?:fc|proj))\.(weight|bias)": r"layers.\1.\2.\3",
    _TRUNK + r"layers\.(\d+)\.((?:input|post_attention)_layernorm)\.(weight|bias)": r"layers.\1.\2.\3",
    _TRUNK + r"norm\.(weight|bias)": r"final_norm.\1",
    _HEADS + r"projection_heads\.([0-9]+)\.(?:[a-z_]+\.?)?(?:([0-9]+)\.)?(weight|bias)": r"head.\1.\2.\3",
    _HEADS + r"predictions\.transform\.(dense|LayerNorm)\.(weight|bias)": r"predictions.transform.\1.\2",
    _HEADS + r"predictions\.decoder\.(weight|bias)": r"predictions.decoder.\1",
    _HEADS + r"predictions\.bias": r"predictions.decoder.bias",
    _HEADS + r"seq_relationship\.(weight|bias)": r"seq_relationship.\1",
    _HEADS + r"conditional_embeddings(?:\.weight)?": r"conditional_embeddings.weight",
    _HEADS + r"pooler(?:\.dense)?\.(weight|bias)": r"pooler.\1",
    _HEADS + r"temp(?:erature)?_coef": r"similarity_scale",
}
PRETRAINING = ("predictions.", "seq_relationship.", "conditional_embeddings.", "pooler.")
#: Keys of config.json that must be there, and keys that default to the paper's values.
REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
COUNTS = ("till_layer", "sliding_window", "max_position_embeddings")  # at least 1 if they are there
OPTIONAL = (
    *("hidden_act", "max_position_embeddings", "initializer_range", "norm_epsilon", "use_bias", "pad_token_id"),
    *("attention_dropout", "residual_dropout", "embedding_dropout"),
)


@dataclass(frozen=True)
class ConversionOptions:
    """Facts that a checkpoint does not state. Only the pooling has no default."""

    pooling: str  # "mean" or "cls"
    projection_act: str = "leaky_relu"  # between the two layers of a projection head
    embedding_norm: str | None = None  # None: "at_most_one" if there are projection heads, else "unit"
    exit_layers: Sequence[int] | None = None  # of the whole model; None: `matryoshka_layers`, or the paper's
    rope_theta: float | None = None  # base of the rotary positions; None: the checkpoint's, or the paper's
    #: A final norm in a truncated checkpoint: "drop" it, as the whole model has none at that exit, or "apply"
    #: it, as transformers' model of that depth does.
    last_norm: str = "drop"
    leave_out: Sequence[str] = ()  # regular expressions of tensors to skip


class MismatchedTensorsError(ValueError):
    """Tensors without a place in the model, parameters without a tensor, or shapes that differ."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("the checkpoint does not fit:" + "".join(f"\n  {problem}" for problem in problems))


@dataclass
class Conversion:
    """A plan: the configuration of a model, and the tensors that fill it."""

    config: MoSEConfig
    tensors: dict[str, TensorSource]  # by their names in the model, not read yet
    left_out: dict[str, str]  # name in the checkpoint -> reason why the model has no place for it
    notes: list[str]  # facts that a user of the model should know


def plan_conversion(
    settings: Mapping[str, Any], sources: Mapping[str, TensorSource], options: ConversionOptions
) -> Conversion:
    """Return how a checkpoint with this config.json and these tensors becomes a MoSE.

    Raises:
        MismatchedTensorsError: a tensor or a parameter is left over, or a shape differs. Names all of them.
        ValueError: a setting or an option has a value that MoSE does not support.
    """
    planner = _Planner(settings, sources, options)
    fields = planner.trunk_fields()
    fields |= planner.place_exits()
    if planner.is_pretraining:
        fields |= {"context_pooler": "plain", "tie_word_embeddings": False}
        condition = planner.stored("conditional_embeddings.weight")
        if condition is not None and len(condition.shape) == 2:
            fields["conditional_size"] = condition.shape[1]

    config = MoSEConfig(**fields)
    planner.place_scale(config)
    return Conversion(config, planner.account(config), planner.left_out, planner.notes)


class _Planner:
    """The state of `plan_conversion`: which tensor goes where."""

    def __init__(
        self, settings: Mapping[str, Any], sources: Mapping[str, TensorSource], options: ConversionOptions
    ):
        self.settings = {name: value for name, value in settings.items() if value is not None}
        self.sources, self.options = sources, options
        _check_settings(self.settings, options.projection_act)
        self.left_out: dict[str, str] = {}
        self.notes: list[str] = []
        self.problems: list[str] = []
        #: Our name -> the checkpoint's; and tensors that the checkpoint lacks, by our names.
        self.names: dict[str, str] = {}
        self.created: dict[str, TensorSource] = {}

        # A pattern without a match is a mistake, most likely in the pattern.
        for pattern in options.leave_out:
            try:
                matching = [name for name in sources if re.search(pattern, name)]
            except re.error as error:
                raise ValueError(f"--leave-out {pattern} is not a regular expression: {error}") from error
            if not matching:
                raise ValueError(f"--leave-out {pattern} matches no tensor of the checkpoint")
            self.left_out |= dict.fromkeys(matching, "left out as requested")

        for name in sources:
            if name in self.left_out:
                continue
            matches = ((re.fullmatch(pattern, name), ours) for pattern, ours in PATTERNS.items())
            ours = next((match.expand(ours) for match, ours in matches if match), None)
            if ours is None:
                self.problems.append(f"tensor without a place in the model: {name}")
            else:
                self._place(ours, name)

    def _place(self, ours: str, name: str) -> None:
        if ours in self.names:
            self.problems.append(f"{self.names[ours]} and {name} are both {ours}. Skip one with --leave-out.")
        else:
            self.names[ours] = name

    def stored(self, ours: str) -> TensorSource | None:
        return self.sources.get(self.names.get(ours, ""))

    @property
    def is_pretraining(self) -> bool:
        return any(name.startswith(PRETRAINING) for name in self.names)

    def trunk_fields(self) -> dict[str, Any]:
        settings = self.settings
        fields = {name: settings[name] for name in (*REQUIRED, *OPTIONAL) if name in settings}
        fields |= {"exit_norm": "final", "pooling": self.options.pooling}
        fields["rope_parameters"] = _rotary_parameters(settings, self.options.rope_theta)

        # The stored vocabulary may be padded. If there is none, `account` reports it.
        embeddings = self.stored("embed_tokens.weight")
        if embeddings is not None and len(embeddings.shape) == 2:
            rows, pad = embeddings.shape[0], fields.get("pad_token_id", 0)
            fields |= {"vocab_size": rows, "dtype": embeddings.dtype}
            if type(pad) is not int or not 0 <= pad < rows:
                raise ValueError(f"config.json: pad_token_id must be in [0, {rows}), got {pad!r}")
        return fields

    def place_exits(self) -> dict[str, Any]:
        """Place projection heads and the final norm; return the fields that describe the exits."""
        settings = self.settings
        depth = settings.get("till_layer") or settings["num_hidden_layers"]
        exits: Any = self.options.exit_layers or settings.get("matryoshka_layers") or MoSEConfig.exit_layers
        # The order matters here: heads belong to exits by their order.
        integers = isinstance(exits, list | tuple) and all(type(exit_layer) is int for exit_layer in exits)
        if not integers or list(exits) != sorted(set(exits)):
            raise ValueError(f"exits must be a list of increasing integers, got {exits!r}. Pass --exit-layers.")
        if depth not in exits:
            known = ", ".join(map(str, exits))
            raise ValueError(
                f"the number of blocks must be one of its exits {known}, got {depth}. Pass --exit-layers."
            )

        built = [exit_layer for exit_layer in exits if exit_layer <= depth]
        fields = self._place_heads(exits, built)

        # Only the exit after the last block of the whole model goes through the final norm.
        blocks = max(settings["num_hidden_layers"], exits[-1])
        norms = {kind: self.names.pop(f"final_norm.{kind}", None) for kind in ("weight", "bias")}
        if depth == blocks or self.options.last_norm == "apply":
            blocks = depth
            self.names |= {f"exits.{depth}.norm.{kind}": name for kind, name in norms.items() if name}
        else:
            reason = "final norm of the whole model, which this exit does not go through"
            self.left_out |= {name: reason for name in norms.values() if name}
        return {"num_hidden_layers": blocks, "exit_layers": built} | fields

    def _place_heads(self, exits: Sequence[int], built: Sequence[int]) -> dict[str, Any]:
        heads = {name: name.split(".")[1:] for name in self.names if name.startswith("head.")}
        if not heads:
            return self._create_heads(built)

        # Layers may have gaps, those of activations: only their order counts.
        numbers = sorted({int(number) for number, _, _ in heads.values()})
        layers = sorted({int(layer or 0) for _, layer, _ in heads.values()})
        owners = _head_owners(numbers, exits, built)
        if not owners or len(layers) > 2:
            heads_of = f"projection heads {', '.join(map(str, numbers))} of {len(layers)} layers"
            expected = f"at most 2 layers and one head per exit {', '.join(map(str, exits))}, from 0"
            raise MismatchedTensorsError([*self.problems, f"{heads_of}, expected {expected}"])

        for ours, (number, layer, kind) in heads.items():
            name = self.names.pop(ours)
            exit_layer = owners[numbers.index(int(number))]
            # Two layers and an activation form a Sequential: 0, 1, 2.
            suffix = f"{2 * layers.index(int(layer or 0))}." if len(layers) == 2 else ""
            if exit_layer in built:
                self._place(f"exits.{exit_layer}.projection.{suffix}{kind}", name)
            else:
                self.left_out[name] = f"head of exit {exit_layer}, deeper than the file's {built[-1]} blocks"

        if without := sorted(set(built) - set(owners)):
            self.notes.append(f"Left out exits without a projection head: {', '.join(map(str, without))}.")

        return {
            "projection_layers": len(layers),
            "projection_act": self.options.projection_act,
            "embedding_norm": self.options.embedding_norm or "at_most_one",
            "exit_layers": sorted(set(built) & set(owners)),
        }

    def _create_heads(self, built: Sequence[int]) -> dict[str, Any]:
        self.notes.append("Projection heads start as the identity: embeddings are the pooled states.")
        size, embeddings = self.settings["hidden_size"], self.stored("embed_tokens.weight")
        dtype = embeddings.dtype if embeddings else torch.float32  # `account` reports it
        identity = TensorSource((size, size), dtype, lambda: torch.eye(size, dtype=dtype))
        zeros = TensorSource((size,), dtype, lambda: torch.zeros(size, dtype=dtype))
        for exit_layer in built:
            self.created[f"exits.{exit_layer}.projection.weight"] = identity
            self.created[f"exits.{exit_layer}.projection.bias"] = zeros
        return {"projection_layers": 1, "embedding_norm": self.options.embedding_norm or "unit"}

    def place_scale(self, config: MoSEConfig) -> None:
        """Place the learned similarity scale, which checkpoints made for embedding may lack."""
        stored = self.stored("similarity_scale")
        if stored is None:
            initial = torch.tensor([config.similarity_scale_init])
            self.created["similarity_scale"] = TensorSource((1,), torch.float32, lambda: initial)
        elif torch.Size(stored.shape).numel() == 1:  # a number, which is a vector of length 1 here
            del self.names["similarity_scale"]
            self.created["similarity_scale"] = TensorSource((1,), stored.dtype, lambda: stored.read().view(1))

    def account(self, config: MoSEConfig) -> dict[str, TensorSource]:
        """Return the tensors by their names in the model, if they are exactly those that it has."""
        pretraining = self.is_pretraining
        cls = MoSEForPreTraining if pretraining else MoSEModel
        config.architectures = [cls.__name__]
        with torch.device("meta"):  # names and shapes without memory
            expected = {name: tuple(tensor.shape) for name, tensor in cls(config).state_dict().items()}

        def full_name(ours: str) -> str:
            is_trunk = pretraining and not ours.startswith(PRETRAINING)
            return f"{cls.base_model_prefix}.{ours}" if is_trunk else ours

        # Report every problem at once, by the names in the checkpoint.
        theirs = {full_name(ours): name for ours, name in self.names.items()}
        tensors = {name: self.sources[source] for name, source in theirs.items()}
        tensors |= {full_name(ours): source for ours, source in self.created.items()}

        unplaced = sorted(theirs.get(name, name) for name in tensors.keys() - expected.keys())
        self.problems += [f"tensor without a place in the model: {name}" for name in unplaced]
        unfilled = sorted(expected.keys() - tensors.keys())
        self.problems += [f"parameter without a tensor in the checkpoint: {name}" for name in unfilled]
        for name in sorted(expected.keys() & tensors.keys()):
            if tensors[name].shape != expected[name]:
                source = theirs.get(name, name)
                self.problems.append(f"{source} must have shape {expected[name]}, got {tensors[name].shape}")
        if self.problems:
            raise MismatchedTensorsError(self.problems)
        return tensors


def _head_owners(numbers: Sequence[int], exits: Sequence[int], built: Sequence[int]) -> Sequence[int]:
    """Return the exits of the projection heads with these numbers; empty if that is unclear."""
    # A single head is that of the deepest exit, numbered alone or among those of the whole model.
    if len(numbers) == 1 and numbers[0] in (0, exits.index(built[-1])):
        return built[-1:]
    # Otherwise there is one per exit of the whole model, or of the file.
    if list(numbers) != list(range(len(numbers))):
        return ()
    return {len(built): built, len(exits): exits}.get(len(numbers), ())


def _check_settings(settings: Mapping[str, Any], projection_act: str) -> None:
    for name in (*REQUIRED, *(name for name in COUNTS if settings.get(name))):
        if type(settings.get(name)) is not int or settings[name] < 1:
            raise ValueError(f"config.json: {name} must be an integer >= 1, got {settings.get(name)!r}")
    for act in (settings.get("hidden_act", "gelu"), projection_act):
        if act not in ACT2FN:
            raise ValueError(f"activations must be among {', '.join(sorted(ACT2FN))}, got {act!r}")

    # Variants of Starcoder2 that MoSE does not have.
    head_dim = settings["hidden_size"] // settings["num_attention_heads"]
    if settings.get("head_dim", head_dim) != head_dim:
        raise ValueError(f"config.json: head_dim must be {head_dim}, got {settings['head_dim']}")
    longest = settings.get("max_position_embeddings", MoSEConfig.max_position_embeddings)
    window = settings.get("sliding_window")
    if window and window < longest:
        raise ValueError(f"config.json: sliding_window must be at least {longest} or null, got {window}")
    if settings.get("rope_scaling"):
        raise ValueError(f"config.json: rope_scaling must be null, got {settings['rope_scaling']}")


def _rotary_parameters(settings: Mapping[str, Any], rope_theta: float | None) -> dict[str, Any]:
    # Older files call the type `type`; MoSEConfig refuses any but the default one.
    stored = settings.get("rope_parameters", {})
    if not isinstance(stored, dict):
        raise ValueError(f"config.json: rope_parameters must be an object, got {stored!r}")
    theta = rope_theta or stored.get("rope_theta") or settings.get("rope_theta")
    rope = {"rope_type": stored.get("type", "default")} | stored
    rope["rope_theta"] = float(theta or MoSEConfig.default_theta)
    if not rope["rope_theta"] > 0:
        raise ValueError(f"rope_theta must be > 0, got {theta}")
    return rope
