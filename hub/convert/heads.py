"""The heads of the released checkpoints: projections of each exit, and those of pre-training."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from transformers.activations import ACT2FN

from mose.hub.convert.plan_parts import Ledger
from mose.hub.shards import TensorSource


def place_projections(ledger: Ledger, fields: dict[str, Any], built: tuple[int, ...]) -> dict[str, Any]:
    """Places projection heads; gives the fields that describe them.

    Args:
        fields: of the configuration, as far as they are known.
        built: the exits that the file reaches.
    """
    heads: dict[int, dict[str, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
    for ours in [name for name in ledger.found if name.startswith("{head}")]:
        at, layer, kind = re.fullmatch(r"\{head\}\.(\d+)\.(.*)\.(weight|bias)", ours).groups()  # type: ignore
        names = ledger.found.pop(ours)
        heads[int(at)][layer][kind] = names[0]
        ledger.unplaced += names[1:]
    if not heads:
        return _no_heads(ledger, fields, built)
    exits, chosen = tuple(fields["exit_layers"]), ledger.choices.head_exits
    numbers = sorted(heads)
    if chosen is None and numbers == list(range(len(exits))):
        chosen = exits
    elif chosen is None and numbers == list(range(len(built))):
        chosen = built
    if chosen is None or len(chosen) != len(numbers) or not set(chosen) <= set(exits):
        ledger.questions["--head-exits"] = (
            f"to which exits the projection heads {', '.join(map(str, numbers))} belong, in this order; there "
            f"are the exits {', '.join(map(str, exits))}"
        )
        return {}
    layers = _layers(ledger, list(heads[numbers[0]]))
    sizes = _sizes(ledger, heads[numbers[0]], layers, fields["hidden_size"])
    biased = any("bias" in layer for head in heads.values() for layer in head.values())
    for number, e in zip(numbers, chosen, strict=True):
        for name, parts in heads[number].items():
            for kind, theirs in parts.items():
                if e > built[-1]:
                    ledger.left_out[theirs] = f"head of exit {e}, deeper than the file's {built[-1]} blocks"
                elif name not in layers:
                    ledger.unplaced.append(theirs)
                else:
                    ledger.found[_head_name(e, layers.index(name), len(layers), kind)] = [theirs]
    if not biased and fields.get("use_bias", True):  # a layer without a bias is one whose bias is zero
        for e in set(chosen) & set(built):
            _zero_biases(ledger, e, sizes, fields["dtype"])
    described: dict[str, Any] = {"projection_sizes": None if sizes == (fields["hidden_size"],) else sizes}
    if set(chosen) & set(built) != set(built):
        described["exit_layers"] = tuple(e for e in exits if e in chosen)
        ledger.notes.append(f"no projection heads for {sorted(set(built) - set(chosen))}: no exits there")
    described["embedding_norm"] = ledger.choose(
        "embedding_norm", ("unit", "at_most_one"), "whether embeddings of a norm below 1 are left so"
    )
    if len(layers) > 1:
        act = ledger.choices.projection_act
        if act is None:
            ledger.questions["--projection-act"] = (
                f"activation between the layers {', '.join(layers)} of a projection head (leaky_relu in the "
                "forerunner, relu, gelu, …)"
            )
        elif act not in ACT2FN:
            raise ValueError(f"--projection-act {act}: allowed are {', '.join(sorted(ACT2FN))}")
        described["projection_act"] = act
        if fields["pooling"] != "cls":
            described["projection_input"] = ledger.choose(
                "projection_input", ("pooled", "tokens"), "whether heads read the pooled vector or each token"
            )
    return described


def _no_heads(ledger: Ledger, fields: dict[str, Any], built: tuple[int, ...]) -> dict[str, Any]:
    if ledger.choices.new_heads not in ("none", "identity"):
        raise ValueError(f"--new-heads {ledger.choices.new_heads}: allowed are none, identity")
    if ledger.choices.new_heads == "none":
        ledger.notes.append("no projection heads in the file: embeddings are the pooled states")
        return {"projection_sizes": ()}
    ledger.notes.append("projection heads begin as the identity, to be trained")
    size, dtype = fields["hidden_size"], fields["dtype"]
    for e in built:
        ledger.tensors[f"exits.{e}.projection.weight"] = TensorSource(
            (size, size), dtype, lambda: torch.eye(size, dtype=dtype)
        )
        _zero_biases(ledger, e, (size,), dtype)
    return {}


def _zero_biases(ledger: Ledger, exit_layer: int, sizes: Sequence[int], dtype: torch.dtype) -> None:
    for at, size in enumerate(sizes):
        ledger.tensors[_head_name(exit_layer, at, len(sizes), "bias")] = TensorSource(
            (size,), dtype, lambda size=size: torch.zeros(size, dtype=dtype)
        )


def _head_name(exit_layer: int, layer: int, layers: int, kind: str) -> str:
    return f"exits.{exit_layer}.projection.{f'{2 * layer}.' if layers > 1 else ''}{kind}"


def _layers(ledger: Ledger, names: list[str]) -> list[str]:
    """The layers of a head in the order in which they run: by number where that is all they differ in."""
    if ledger.choices.projection_layers is not None:
        wanted = list(ledger.choices.projection_layers)
        if sorted(wanted) != sorted(names):
            raise ValueError(f"--projection-layers {' '.join(wanted)}: a head has {', '.join(names)}")
        return wanted
    if len({re.sub(r"\d+", "#", name) for name in names}) > 1:
        ledger.questions["--projection-layers"] = f"the order in which {', '.join(names)} run inside a head"
    return sorted(names, key=lambda name: [int(number) for number in re.findall(r"\d+", name)])


def _sizes(ledger: Ledger, head: dict[str, dict[str, str]], layers: list[str], entering: int) -> tuple[int, ...]:
    sizes = []
    for name in layers:
        theirs = head[name].get("weight", head[name].get("bias", ""))
        shape = ledger.sources[theirs].shape
        if len(shape) != 2 or shape[1] != entering:
            ledger.misfits.append(f"{theirs} is {shape}: a linear layer here reads {entering} values")
            return ()
        sizes.append(shape[0])
        entering = shape[0]
    return tuple(sizes)


def place_pretraining(ledger: Ledger, hidden: int) -> dict[str, Any]:
    """The fields that describe the heads of pre-training, by their shapes; drops a decoder that is stored twice.

    Args:
        hidden: width of a state.
    """
    condition = ledger.shape("conditional_embeddings.weight")
    fields: dict[str, Any] = {"conditional_size": condition[1]} if len(condition) == 2 else {}
    pooler, judged = ledger.shape("pooler.weight"), ledger.shape("seq_relationship.weight")
    if not pooler:
        fields["context_pooler"] = "none"
    elif pooler == (hidden, hidden) and judged != (2, hidden):
        fields["context_pooler"] = "plain"
    decoder = ledger.found.get("predictions.decoder.weight")
    if decoder is None:
        fields["tie_word_embeddings"] = True
    elif ledger.same("embed_tokens.weight", "predictions.decoder.weight"):
        fields["tie_word_embeddings"] = True
        ledger.left_out |= dict.fromkeys(
            ledger.found.pop("predictions.decoder.weight"), "the token embeddings again"
        )
    else:
        fields["tie_word_embeddings"] = False
    return fields
