"""How a released checkpoint becomes a MoSE: the trunk, its depth and norm, and the final account."""

from collections.abc import Mapping
from typing import Any

import torch

from mose.configuration_mose import MoSEConfig
from mose.hub.convert.heads import place_pretraining, place_projections
from mose.hub.convert.plan_parts import PRETRAINING, Choices, Ledger, OpenQuestions, Plan, Unaccounted
from mose.hub.shards import TensorSource
from mose.modeling_mose import MoSEForPreTraining, MoSEModel

#: Fields of a configuration that must be there, and those that may be, named alike here and there.
REQUIRED = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
OPTIONAL = (
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "norm_epsilon",
    "use_bias",
    "attention_dropout",
    "residual_dropout",
    "embedding_dropout",
    "pad_token_id",
)


def plan(settings: Mapping[str, Any], sources: Mapping[str, TensorSource], choices: Choices) -> Plan:
    """How a released checkpoint becomes a MoSE.

    Args:
        settings: its config.json.
        sources: its tensors.
        choices: what to do where these say nothing.

    Raises:
        OpenQuestions: something has to be chosen.
        Unaccounted: a tensor or a parameter is left over, or a shape differs.
        ValueError: a choice or a setting is impossible.
    """
    ledger = Ledger(settings, sources, choices)
    ledger.sort()
    fields: dict[str, Any] = {"exit_norm": "final", "dtype": _dtype(ledger)}
    for name in REQUIRED:
        value = ledger.settings.get(name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"config.json: {name}={value!r}: must be a whole number, at least 1")
        fields[name] = value
    fields |= {name: ledger.settings[name] for name in OPTIONAL if ledger.settings.get(name) is not None}
    _check_attention(ledger)
    fields["vocab_size"] = ledger.shape("embed_tokens.weight", (ledger.settings.get("vocab_size", 0),))[0]
    if not 0 <= fields.get("pad_token_id", 0) < max(fields["vocab_size"], 1):
        raise ValueError(
            f"config.json: pad_token_id={fields['pad_token_id']}: the embeddings have {fields['vocab_size']}"
        )
    fields["rope_parameters"] = _rope(ledger)
    fields["pooling"] = ledger.choose("pooling", ("mean", "cls"), "how an exit makes one vector of its tokens")
    depth, exits, built = _depth(ledger)
    fields |= {"exit_layers": exits, "exit_layer": None if depth == exits[-1] else depth}
    fields["num_hidden_layers"] = _place_norm(ledger, depth, max(ledger.settings["num_hidden_layers"], exits[-1]))
    if fields["num_hidden_layers"] == depth:
        fields |= {"exit_layers": built, "exit_layer": None}
    fields |= place_projections(ledger, fields, built)
    pretraining = any(name.startswith(PRETRAINING) for name in ledger.found)
    if pretraining:
        fields |= place_pretraining(ledger, fields["hidden_size"])
    if ledger.questions:
        raise OpenQuestions(ledger.questions)
    for name, names in ledger.found.items():
        if not name.startswith("{"):
            _place(ledger, name, names)
    config = MoSEConfig(**{name: value for name, value in fields.items() if value is not None})
    _scale(ledger, config)
    return _account(ledger, config, pretraining)


def _dtype(ledger: Ledger) -> torch.dtype | None:
    names = ledger.found.get("embed_tokens.weight")
    return ledger.sources[names[0]].dtype if names else None


def _check_attention(ledger: Ledger) -> None:
    window, longest = ledger.settings.get("sliding_window"), ledger.settings.get("max_position_embeddings", 0)
    if window and window < longest:
        raise ValueError(f"config.json: sliding_window={window}: blocks here attend to all of {longest} tokens")
    size = ledger.settings["hidden_size"] // ledger.settings["num_attention_heads"]
    if ledger.settings.get("head_dim", size) not in (None, size):
        raise ValueError(f"config.json: head_dim={ledger.settings['head_dim']}: must be {size} here")


def _rope(ledger: Ledger) -> dict[str, Any]:
    rope = {"rope_type": "default"} | dict(ledger.settings.get("rope_parameters") or {})
    theta = ledger.choices.rope_theta or rope.get("rope_theta") or ledger.settings.get("rope_theta")
    if ledger.settings.get("rope_scaling"):
        raise ValueError(f"config.json: rope_scaling={ledger.settings['rope_scaling']}: allowed is none")
    if not theta:
        ledger.questions["--rope-theta"] = "base of the rotary positions (the paper's is 999999.44)"
        return rope
    size = ledger.settings["hidden_size"] // ledger.settings["num_attention_heads"]
    for name in ledger.found.get("{rotary}", ()):
        stored, exponents = ledger.sources[name].read().double(), torch.arange(0, size, 2).double() / size
        if stored.shape != exponents.shape or not torch.allclose(stored, theta**-exponents, rtol=1e-2):
            raise ValueError(f"{name} does not belong to rope_theta={theta}")
        ledger.left_out[name] = "computed here, not stored; it agrees with rope_theta"
    return rope | {"rope_theta": float(theta)}


def _depth(ledger: Ledger) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Blocks of the file, exits of the model that was trained, and those of them that the file reaches."""
    depth = ledger.settings.get("till_layer") or ledger.settings["num_hidden_layers"]
    exits = tuple(ledger.choices.exit_layers or ledger.settings.get("matryoshka_layers") or ())
    if not exits:
        ledger.questions["--exit-layers"] = "all exits of the model that was trained, such as 4 9 18 27 36"
        exits = (depth,)
    if depth not in exits:
        raise ValueError(f"a checkpoint of {depth} blocks ends at none of its exits {', '.join(map(str, exits))}")
    return depth, exits, tuple(e for e in exits if e <= depth)


def _place_norm(ledger: Ledger, depth: int, total: int) -> int:
    """Puts the final norm where it belongs; gives `num_hidden_layers`, whose exit alone is normed."""
    names = {ours: ledger.found.pop(ours) for ours in ("{norm}.weight", "{norm}.bias") if ours in ledger.found}
    truncated = depth < total or ledger.settings.get("till_layer") == depth != max(
        ledger.settings.get("matryoshka_layers") or [depth]
    )
    if truncated and names:
        chosen = ledger.choose(
            "last_norm",
            ("apply", "drop"),
            f"the file ends at block {depth} and has a final norm, which exit {depth} of the whole model does "
            "not go through; is it applied here",
        )
        if chosen != "apply":
            ledger.left_out |= {name: "the final norm of the whole model" for n in names.values() for name in n}
    if truncated and (not names or ledger.choices.last_norm != "apply"):
        if depth == total:
            ledger.questions["--exit-layers"] = f"exit {depth} is not the last; which are all of them"
        return total
    for ours, theirs in names.items():
        ledger.found[ours.replace("{norm}", f"exits.{depth}.norm")] = theirs
    return depth


def _place(ledger: Ledger, ours: str, theirs: list[str]) -> None:
    if len(theirs) > 1 and not ledger.same(ours):
        ledger.misfits.append(f"{' and '.join(theirs)} differ, and both would be {ours}")
    elif len(theirs) > 1:
        ledger.left_out |= dict.fromkeys(theirs[1:], f"{theirs[0]} again")
    ledger.tensors[ours] = ledger.sources[theirs[0]]


def _scale(ledger: Ledger, config: MoSEConfig) -> None:
    """The learned scale, which a checkpoint made for embedding may well lack."""
    stored = ledger.tensors.get("similarity_scale")
    if stored is not None and torch.Size(stored.shape).numel() == 1:
        ledger.tensors["similarity_scale"] = TensorSource((1,), stored.dtype, lambda: stored.read().view(1))
        return
    value = ledger.choices.similarity_scale or config.similarity_scale_init
    if stored is None:
        ledger.notes.append(f"no similarity scale in the file: {value}; no embedding depends on it")
        ledger.tensors["similarity_scale"] = TensorSource((1,), torch.float32, lambda: torch.tensor([value]))


def _account(ledger: Ledger, config: MoSEConfig, pretraining: bool) -> Plan:
    with torch.device("meta"):
        model = MoSEForPreTraining(config) if pretraining else MoSEModel(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if pretraining and config.tie_word_embeddings:
        del expected["predictions.decoder.weight"]
    prefix = "" if not pretraining else "model."
    tensors = {}
    for name, source in ledger.tensors.items():
        tensors[name if name.startswith(PRETRAINING) else prefix + name] = source
    origins = {source.read: name for name, source in ledger.sources.items()}
    for name in sorted(set(tensors) - set(expected)):
        ledger.unplaced.append(origins.get(tensors[name].read, name))
    for name in sorted(set(tensors) & set(expected)):
        if tensors[name].shape != expected[name]:
            theirs = origins.get(tensors[name].read, name)
            ledger.misfits.append(f"{theirs} is {tensors[name].shape}, {name} must be {expected[name]}")
    unfilled = sorted(set(expected) - set(tensors))
    if ledger.unplaced or unfilled or ledger.misfits:
        raise Unaccounted(sorted(set(ledger.unplaced)), unfilled, ledger.misfits)
    return Plan(config, tensors, pretraining, ledger.left_out, ledger.notes)
