"""Which tensor of the paper's released checkpoints is which of ours, and what their files leave open.

Known is the trunk, Starcoder2Model under `starEncoder2.`; that pre-training heads are named as BERT's, and that
the fine-tuned ones have a list `projection_heads`. The rest is read from names and shapes. What these do not say
is asked for (`Choices`), and a plan accounts for every tensor of the file and for every parameter of the model,
or is not made.
"""

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mose.configuration_mose import MoSEConfig
from mose.hub.shards import TensorSource

TRUNK = r"(?:.+\.)?starEncoder2\."
HEADS = r"(?:.+\.)?"
#: Names there, and what they are: names here, but for `{…}`, which depends on the rest of the file.
PATTERNS = (
    (TRUNK + r"embed_tokens\.weight", "embed_tokens.weight"),
    (TRUNK + r"layers\.(\d+)\.(self_attn\.[qkvo]_proj|mlp\.c_(?:fc|proj))\.(weight|bias)", r"layers.\1.\2.\3"),
    (TRUNK + r"layers\.(\d+)\.((?:input|post_attention)_layernorm)\.(weight|bias)", r"layers.\1.\2.\3"),
    (TRUNK + r"norm\.(weight|bias)", r"{norm}.\1"),
    (TRUNK + r"(?:layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq", "{rotary}"),
    (HEADS + r"predictions\.transform\.(dense|LayerNorm)\.(weight|bias)", r"predictions.transform.\1.\2"),
    (HEADS + r"predictions\.decoder\.(weight|bias)", r"predictions.decoder.\1"),
    (HEADS + r"predictions\.bias", "predictions.decoder.bias"),
    (HEADS + r"seq_relationship\.(weight|bias)", r"seq_relationship.\1"),
    (HEADS + r"conditional_embeddings(?:\.weight)?", "conditional_embeddings.weight"),
    (HEADS + r"pooler(?:\.dense)?\.(weight|bias)", r"pooler.\1"),
    (HEADS + r"projection_heads\.(\d+)\.(?:(.+)\.)?(weight|bias)", r"{head}.\1.\2.\3"),
    (HEADS + r"temp(?:erature)?_coef", "similarity_scale"),
)
PRETRAINING = ("predictions.", "seq_relationship.", "conditional_embeddings.", "pooler.")


@dataclass(frozen=True)
class Choices:
    """What the files may leave open. None: not chosen, and asked for where it matters.

    Args:
        pooling: "mean" or "cls".
        embedding_norm, projection_act, projection_input: as in `MoSEConfig`.
        projection_layers: names of the linear layers inside a projection head, in the order in which they run.
        head_exits: the exits that the projection heads belong to, in the order of their numbers.
        exit_layers: all exits of the model that was trained, deeper than the file goes or not.
        last_norm: of a truncated checkpoint, whether its deepest exit is normed: "apply" or "drop".
        rope_theta: base of the rotary positions.
        similarity_scale: the learned scale; no embedding depends on it.
        new_heads: where the file has no projection heads: "none", or "identity" for heads to be trained that
            begin by changing nothing.
        leave_out: regular expressions of tensors that are not wanted.
    """

    pooling: str | None = None
    embedding_norm: str | None = None
    projection_act: str | None = None
    projection_input: str | None = None
    projection_layers: Sequence[str] | None = None
    head_exits: Sequence[int] | None = None
    exit_layers: Sequence[int] | None = None
    last_norm: str | None = None
    rope_theta: float | None = None
    similarity_scale: float | None = None
    new_heads: str = "none"
    leave_out: Sequence[str] = ()


@dataclass
class Plan:
    """A model that the file fills.

    Args:
        config: of the model.
        tensors: by their names in the model.
        pretraining: whether the heads of pre-training are among them.
        left_out: names in the file that have no place in the model, and why.
        notes: what a user should know of the choices made.
    """

    config: MoSEConfig
    tensors: dict[str, TensorSource]
    pretraining: bool
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class OpenQuestions(ValueError):
    """The file does not say, and nobody chose; names the options that do."""

    def __init__(self, questions: Mapping[str, str]):
        lines = "".join(f"\n  {option}: {question}" for option, question in questions.items())
        super().__init__(f"the checkpoint leaves open, and you have to say:{lines}")


class Unaccounted(ValueError):
    """Tensors of the file without a place, parameters of the model without a tensor, and what does not fit."""

    def __init__(self, unplaced: Sequence[str], unfilled: Sequence[str], misfits: Sequence[str]):
        lines = [f"tensor without a place in the model: {name}" for name in unplaced]
        lines += [f"parameter without a tensor in the file: {name}" for name in unfilled]
        lines += [f"misfit: {line}" for line in misfits]
        super().__init__("the checkpoint does not fit:" + "".join(f"\n  {line}" for line in lines))


class Ledger:
    """The books of one import: where each tensor went, what was asked, what is left.

    Args:
        settings: the checkpoint's config.json.
        sources: its tensors.
        choices: what to do where these say nothing.
    """

    def __init__(self, settings: Mapping[str, Any], sources: Mapping[str, TensorSource], choices: Choices):
        self.settings, self.sources, self.choices = settings, sources, choices
        self.questions: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self.notes: list[str] = []
        self.unplaced: list[str] = []
        self.misfits: list[str] = []
        #: By their names here (or `{…}`), the names there.
        self.found: dict[str, list[str]] = defaultdict(list)
        #: By their names here, what was placed.
        self.tensors: dict[str, TensorSource] = {}

    def sort(self) -> None:
        """Looks every name up in `PATTERNS`."""
        for pattern in self.choices.leave_out:
            matching = [name for name in self.sources if re.search(pattern, name)]
            if not matching:
                raise ValueError(f"--leave-out {pattern}: no tensor of the checkpoint is called so")
            self.left_out |= dict.fromkeys(matching, "left out as asked")
        for name in self.sources:
            if name in self.left_out:
                continue
            for pattern, ours in PATTERNS:
                match = re.fullmatch(pattern, name)
                if match:
                    self.found[_filled(ours, match)].append(name)
                    break
            else:
                self.unplaced.append(name)

    def choose(self, field: str, allowed: Sequence[str], question: str) -> str | None:
        """A choice that is needed; None, and a question, where it was not made."""
        value, option = getattr(self.choices, field), f"--{field.replace('_', '-')}"
        if value is None:
            self.questions[option] = f"{question} ({', '.join(allowed)})"
        elif value not in allowed:
            raise ValueError(f"{option} {value}: allowed are {', '.join(allowed)}")
        return value

    def shape(self, name: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Of the tensor that has this name here."""
        names = self.found.get(name)
        return self.sources[names[0]].shape if names else default

    def same(self, *ours: str) -> bool:
        """Whether all tensors of these names here are equal."""
        sources = [self.sources[name] for our in ours for name in self.found.get(our, ())]
        first, *others = sources
        return all(
            other.shape == first.shape and other.dtype == first.dtype and torch.equal(other.read(), first.read())
            for other in others
        )


def _filled(template: str, match: re.Match[str]) -> str:
    return re.sub(r"\\(\d)", lambda group: match[int(group[1])] or "", template)
