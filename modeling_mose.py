"""MoSE: a bidirectional StarCoder-2 encoder with an embedding at every exit (arXiv 2503.03008).

From top to bottom: outputs, block (attention and MLP), exit (norm, pooling, projection), the trunk `MoSEModel`,
task heads. The Hub serves this file as remote code: it imports only torch, transformers and the configuration.
"""

import copy
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.weak import WeakIdKeyDictionary
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN, GELUTanh
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, TransformersKwargs, can_return_tuple, logging
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration_mose import MoSEConfig

logger = logging.get_logger(__name__)

#: Divisor of a summed loss. None: the number of items in this batch.
Count = Tensor | int | None
#: Bounds of the learned similarity scale, as in the paper's forerunner.
SIMILARITY_SCALE_RANGE = (1e-4, 30.0)
#: Masked tokens whose logits are in memory at once. A larger value makes peak memory grow with the exits.
LOGIT_ROWS = 256
#: Tokens whose taps are computed at once for the table of exit 0.
TABLE_ROWS = 2048
#: In inference on a CPU: tokens from which casting weights for fused kernels pays, and up to which sequences are
#: short enough for materialised attention scores.
FUSED_TOKENS, FOLDED_TOKENS = 128, 512


@dataclass
class MoSEModelOutput(ModelOutput):
    """Output of `MoSEModel`.

    Args:
        last_hidden_state: (batch, tokens, hidden), normed by the exit that was run.
        pooler_output: (batch, dim), the embedding at that exit, with unit norm. dim is `truncate_dim` or hidden.
        exit_embeddings: With `output_all_exits`: one (batch, dim) per exit, shallow to deep.
        similarity_scale: With `output_all_exits`: (1,), multiplies cosine similarities in the contrastive loss.
        exit_states: With `output_exit_states`: exit -> (batch, tokens, hidden), normed, shallow to deep.
        hidden_states: One (batch, tokens, hidden) for the embeddings and one per block run, un-normed except the
            last, which is `last_hidden_state`.
        attentions: One (batch, heads, tokens, tokens) per block run. Empty unless attention is "eager".
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    exit_embeddings: tuple[Tensor, ...] | None = None
    similarity_scale: Tensor | None = None
    exit_states: dict[int, Tensor] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MoSEForPreTrainingOutput(ModelOutput):
    """Output of `MoSEForPreTraining`.

    Args:
        loss: Scalar, the weighted sum over exits of both tasks (paper, section 3), if labels were given.
        mlm_losses, icc_losses: (exits,), unweighted batch means without gradients, shallow to deep; for logging.
        mlm_accuracies, icc_accuracies: (exits,), fractions of correct masked tokens and contexts.
        prediction_logits: (batch, tokens, vocab) at the exit; only without `labels`.
        context_logits: (batch, 2): logits for 0 = snippets from different repositories, 1 = all from one.
    """

    loss: Tensor | None = None
    mlm_losses: Tensor | None = None
    icc_losses: Tensor | None = None
    mlm_accuracies: Tensor | None = None
    icc_accuracies: Tensor | None = None
    prediction_logits: Tensor | None = None
    context_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MoSESequenceClassifierOutput(ModelOutput):
    """Output of `MoSEForSequenceClassification`.

    Args:
        loss: Scalar, the weighted sum over the exits that were trained, if labels were given.
        logits: (batch, num_labels) at the exit.
        exit_losses: (exits,), unweighted, without gradients, shallow to deep; for logging.
        exit_logits: With `output_all_exits`: one (batch, num_labels) per exit.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    exit_losses: Tensor | None = None
    exit_logits: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


# --- Block: StarCoder-2's, bidirectional -------------------------------------------------------------------


def rotary_embedding(position_ids: Tensor, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotary angles, each (batch, 1, tokens, head_size), in float32.

    They are computed on the fly: a stored buffer could be spoiled by a cast to bf16 or a partial load.
    """
    exponents = torch.arange(0, head_size, 2, device=position_ids.device, dtype=torch.float32) / head_size
    angles = position_ids[:, None, :, None].float() * base**-exponents
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(states: Tensor, cos: Tensor, sin: Tensor, fused: bool = False) -> Tensor:
    """Apply rotary positions to queries or keys (batch, heads, tokens, head_size), pairing halves as in Llama.

    `fused` needs fewer passes over memory, and has no gradient.
    """
    first, second = states.chunk(2, dim=-1)
    if not fused:
        return states * cos + torch.cat((-second, first), dim=-1) * sin

    # In place and into a contiguous tensor, as the products that follow need it.
    rotated = torch.mul(states, cos, out=torch.empty(states.shape, dtype=states.dtype))
    half = first.shape[-1]
    rotated[..., :half].addcmul_(second, sin[..., :half], value=-1)
    rotated[..., half:].addcmul_(first, sin[..., half:])
    return rotated


def eager_attention_forward(
    module, query: Tensor, key: Tensor, value: Tensor, attention_mask, scaling: float, dropout: float, **kwargs
) -> tuple[Tensor, Tensor]:
    """Return mixed values (batch, tokens, heads, head_size) and weights (batch, heads, tokens, tokens)."""
    batch, heads, tokens, head_size = query.shape
    groups = key.shape[1]

    # The query heads of a group become rows of one product with their shared key-value head. Keys and values
    # are never repeated; on a CPU this trains faster than the fused kernels.
    folded = query.reshape(batch, groups, -1, head_size)
    scores = (folded @ key.transpose(2, 3) * scaling).view(batch, heads, tokens, -1)
    if attention_mask is not None:
        scores = scores + attention_mask

    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)

    mixed = weights.view(batch, groups, -1, weights.shape[-1]) @ value
    return mixed.view(batch, heads, tokens, head_size).transpose(1, 2).contiguous(), weights


# --- Inference on a CPU: fewer passes over memory, the same results ----------------------------------------


def is_cpu_inference(module: nn.Module, states: Tensor) -> bool:
    """Return whether nothing but inference on a CPU is going on: no training, no autograd, no tracing.

    Training has passes without autograd, too, which must round as those with it.
    """
    if module.training or states.device.type != "cpu" or torch.is_grad_enabled():
        return False
    return not torch.compiler.is_compiling() and not torch.jit.is_tracing()


def fused_dtype(layer: nn.Module, states: Tensor) -> torch.dtype | None:
    """Return the type in which oneDNN can apply a linear layer to states (…, hidden) itself, or None."""
    # An adapter or a quantised layer is another class, or its weight is.
    if (
        type(layer) is not nn.Linear
        or type(layer.weight) is not nn.Parameter
        or layer._forward_hooks
        or layer._forward_pre_hooks
    ):
        return None
    if (
        not is_cpu_inference(layer, states)
        or layer.weight.device.type != "cpu"
        or not torch.backends.mkldnn.enabled
    ):
        return None

    stored = layer.weight.dtype
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else states.dtype
    # Weights are cast at each call, where autocast keeps them: worth it for more than a query.
    if dtype != stored and states.shape[:-1].numel() < FUSED_TOKENS:
        return None
    if not torch.backends.mkldnn.is_available():
        return None
    supported = dtype == torch.float32 or dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return dtype if supported else None


def fused_linear(layer: nn.Linear, states: Tensor, dtype: torch.dtype, act: str = "none") -> Tensor:
    """Apply a linear layer and, with `act="gelu"`, GELU's tanh approximation, in one kernel of oneDNN."""
    weight, bias = (None if p is None else p.to(dtype) for p in (layer.weight, layer.bias))
    algorithm = "tanh" if act == "gelu" else ""
    return torch.ops.mkldnn._linear_pointwise(states.to(dtype), weight, bias, act, [], algorithm)


def linear(layer: nn.Module, states: Tensor) -> Tensor:
    """Apply a linear layer, by oneDNN where that is possible: up to a fifth faster than torch's own choice."""
    dtype = fused_dtype(layer, states)
    return layer(states) if dtype is None else fused_linear(cast(nn.Linear, layer), states, dtype)


def folded_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scaling: float) -> Tensor:
    """Return mixed values (batch, tokens, heads, head_size) of queries (batch, heads, tokens, head_size).

    Keys and values are (batch, groups, tokens, head_size), `bias` (batch, 1, tokens) is added to the scores of
    each key. On a CPU, materialised scores are faster than flash attention for the lengths of functions.
    """
    batch, heads, tokens, head_size = query.shape
    groups = key.shape[1]
    folded = query.reshape(batch * groups, -1, head_size)
    key, value = (states.reshape(batch * groups, tokens, head_size) for states in (key, value))

    added = query.new_zeros(1, 1, 1) if bias is None else bias.to(query.dtype).repeat_interleave(groups, dim=0)
    scores = torch.baddbmm(added, folded, key.transpose(1, 2), beta=bias is not None, alpha=scaling)
    mixed = scores.softmax(dim=-1) @ value
    return mixed.view(batch, heads, tokens, head_size).transpose(1, 2)


class MoSEAttention(nn.Module):
    """Bidirectional grouped-query self-attention over the whole sequence."""

    def __init__(self, config: MoSEConfig, layer_idx: int):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.num_key_value_groups = config.num_attention_heads // config.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False

        key_value_size = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)
        self.k_proj = nn.Linear(config.hidden_size, key_value_size, bias=config.use_bias)
        self.v_proj = nn.Linear(config.hidden_size, key_value_size, bias=config.use_bias)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        position_embeddings: tuple,
        folded: bool = False,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        # (batch, heads, tokens, head_size) each; keys and values have fewer heads.
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        hidden_states = hidden_states.to(fused_dtype(self.q_proj, hidden_states) or hidden_states.dtype)
        query, key, value = (
            linear(layer, hidden_states).view(shape).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )

        cos, sin = (angle.to(query.dtype) for angle in position_embeddings)
        inference = folded and is_cpu_inference(self, hidden_states)
        query, key = (rotate(states, cos, sin, fused=inference) for states in (query, key))

        if folded:
            mixed = folded_attention(query, key, value, attention_mask, self.scaling)
            mixed = linear(self.o_proj, mixed.reshape(hidden_states.shape))
            return F.dropout(mixed, p=self.config.residual_dropout, training=self.training), None

        implementation = self.config._attn_implementation
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        settings = {"scaling": self.scaling, "dropout": self.config.attention_dropout if self.training else 0.0}
        mixed, weights = attention(self, query, key, value, attention_mask, **settings, **kwargs)

        mixed = self.o_proj(mixed.reshape(hidden_states.shape).contiguous())
        return F.dropout(mixed, p=self.config.residual_dropout, training=self.training), weights


class MoSEMLP(nn.Module):
    """Two linear layers with an activation between them, without a gate."""

    def __init__(self, config: MoSEConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.use_bias)
        self.act = ACT2FN[config.hidden_act]
        self.c_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)
        self.dropout = config.residual_dropout

    def forward(self, hidden_states: Tensor) -> Tensor:
        dtype = fused_dtype(self.c_fc, hidden_states) if isinstance(self.act, GELUTanh) else None
        if dtype is None:
            hidden_states = self.act(self.c_fc(hidden_states))
        else:
            hidden_states = fused_linear(self.c_fc, hidden_states, dtype, act="gelu")
        return F.dropout(linear(self.c_proj, hidden_states), self.dropout, self.training)


class MoSEBlock(GradientCheckpointingLayer):
    """One pre-LayerNorm transformer block."""

    def __init__(self, config: MoSEConfig, layer_idx: int):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.self_attn = MoSEAttention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.mlp = MoSEMLP(config)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None, position_embeddings: tuple, **kwargs
    ) -> Tensor:
        normed = self.input_layernorm(hidden_states)
        mixed, _ = self.self_attn(normed, attention_mask, position_embeddings, **kwargs)
        hidden_states = hidden_states + mixed
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states))


# --- Exits -------------------------------------------------------------------------------------------------


def widen(values: Tensor) -> Tensor:
    """Cast to at least float32, for computations that half precision would spoil."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def last_positions(attention_mask: Tensor) -> Tensor:
    """Return the position of each row's last real token, `<cls>`: (batch,). Padding may be on either side."""
    positions = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    return ((attention_mask != 0) * positions).argmax(dim=1)


def last_token(hidden_states: Tensor, attention_mask: Tensor | None) -> Tensor:
    """Return the state of the last real token, `<cls>`: (batch, hidden)."""
    if attention_mask is None:
        return hidden_states[:, -1]

    rows = torch.arange(len(hidden_states), device=hidden_states.device)
    return hidden_states[rows, last_positions(attention_mask)]


def put_at_last_token(states: Tensor, embedding: Tensor, attention_mask: Tensor) -> Tensor:
    """Return states (batch, tokens, dim) with the embedding (batch, dim) at `<cls>`, and zeros for padding."""
    states = states[..., : embedding.shape[-1]] * (attention_mask != 0)[..., None]
    rows = torch.arange(len(states), device=states.device)
    return states.index_put((rows, last_positions(attention_mask)), embedding.to(states.dtype))


class MoSEPlace(nn.Module):
    """A linear layer with one input, the position: (…, 1) -> (…, gate_size).

    It is no `nn.Linear`, which int8 quantizers would convert: a matrix of one column does not survive that.
    """

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size, 1))
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, position: Tensor) -> Tensor:
        return position * self.weight[:, 0] + self.bias


class ShiftedSum(torch.autograd.Function):
    """Sum of slices, each shifted along the tokens by its number: one pass over memory for each."""

    @staticmethod
    def forward(ctx, base: Tensor, taps: Tensor) -> Tensor:
        """Return base[t] + Σ_s taps[t - s, slice s], (batch, tokens, size).

        `base` is (batch, tokens, size), `taps` (batch, tokens, slices * size). Before the first token is nothing.
        """
        size, tokens = base.shape[-1], base.shape[1]
        total = base + taps[..., :size]
        for shift in range(1, min(taps.shape[-1] // size, tokens)):
            total[:, shift:] += taps[:, : tokens - shift, shift * size : (shift + 1) * size]
        ctx.shape = taps.shape
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of the base, which is that of the sum, and of each slice, shifted back."""
        size, tokens = gradient.shape[-1], gradient.shape[1]
        taps = gradient.new_zeros(ctx.shape)
        for shift in range(min(ctx.shape[-1] // size, tokens)):
            taps[:, : tokens - shift, shift * size : (shift + 1) * size] = gradient[:, shift:]
        return gradient, taps


class MoSEGate(nn.Module):
    """Scores tokens for the weighted mean, from a token's state, its position and the few tokens before it."""

    def __init__(self, config: MoSEConfig):
        super().__init__()
        self.kernel_size = config.gate_kernel_size
        self.taps = nn.Linear(config.hidden_size, config.gate_kernel_size * config.gate_size)
        self.place = MoSEPlace(config.gate_size)
        # Starts at zero: before training, all tokens weigh the same.
        self.score = nn.Linear(config.gate_size, 1, bias=False)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Return weights (batch, tokens) that sum to 1 over the real tokens of each row."""
        # A causal convolution, as one matrix product whose slices are shifted and added. Padding on either side
        # adds nothing, and a CPU runs it at full speed.
        taps = linear(self.taps, hidden_states) * attention_mask[..., None].to(hidden_states.dtype)
        position = torch.log1p(attention_mask.cumsum(dim=1).to(hidden_states.dtype))[..., None]
        features = ShiftedSum.apply(self.place(position), taps)
        activated = F.gelu(features, approximate="tanh")
        return self.weigh(activated, attention_mask)

    def weigh(self, activated: Tensor, attention_mask: Tensor) -> Tensor:
        """Return the weights (batch, tokens) that belong to activated features (batch, tokens, gate_size)."""
        scores = widen(self.score(activated)[..., 0])
        scores = scores.masked_fill(attention_mask == 0, torch.finfo(scores.dtype).min)
        return scores.softmax(dim=-1)


class StaticTables:
    """Tables of what exit 0 reads: the normed state of each token, and its part in the gate's features.

    Exit 0 runs no block, so both depend on the token id alone.

    Args:
        embed_tokens: the token embeddings.
        head: exit 0, with a gate.
        positions: largest number of tokens in a sequence.
    """

    def __init__(self, embed_tokens: nn.Embedding, head: "MoSEExit", positions: int):
        gate, weight = cast(MoSEGate, head.gate), embed_tokens.weight
        self.vocab_size, self.positions = len(weight), positions

        # Not inference tensors, which other contexts could not use, and as exact as the weights under autocast.
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(weight.device.type, enabled=False):
            self.normed = torch.cat([head.norm(rows) for rows in weight.split(TABLE_ROWS)])
            taps = torch.cat([gate.taps(rows) for rows in self.normed.split(TABLE_ROWS)])

            # Row `id * kernel_size + shift` is the tap of the token `shift` places before. A token after the last
            # is what precedes a sequence, or padding: it adds nothing. Then come the positions.
            taps = F.pad(taps, (0, 0, 0, 1)).view(-1, taps.shape[1] // gate.kernel_size)
            counts = torch.arange(positions + 1, dtype=weight.dtype)[:, None]
            self.features = torch.cat((taps, gate.place(counts.log1p())))
            self.first_place = len(taps)

            # Aliases keep their storage, so that no later weight can be at the same address.
            self.sources = [(p.detach(), p._version) for p in self.parameters(embed_tokens, head)]
            self.column = weight[:, 0].clone()

    @staticmethod
    def parameters(embed_tokens: nn.Embedding, head: "MoSEExit") -> list[Tensor]:
        """Return the parameters that the tables are computed from."""
        gate = cast(MoSEGate, head.gate)
        modules = (embed_tokens, head.norm, gate.taps, gate.place)
        return [parameter for module in modules for parameter in module.parameters()]

    @torch.autocast("cpu", enabled=False)
    def fit(self, parameters: list[Tensor], head: "MoSEExit", ids: Tensor, length: int) -> bool:
        """Return whether the tables reach `length` tokens and the weights are still those of the tables."""
        if length > self.positions or len(parameters) != len(self.sources):
            return False
        for parameter, (source, version) in zip(parameters, self.sources, strict=True):
            same = parameter.data_ptr() == source.data_ptr() and parameter.dtype == source.dtype
            if not same or parameter._version != version:
                return False

        # Changes of `weight.data` count no version, so values are compared as well: one of each token (of all
        # tokens, if that is quicker), and all that the first token's row comes from.
        gate, embeddings, first = cast(MoSEGate, head.gate), parameters[0], ids.flatten()[0]
        size, row = gate.kernel_size, first * gate.kernel_size
        place = gate.place(self.features.new_ones(1, 1).log1p())  # of the first token of a sequence
        computed = torch.cat((gate.taps(head.norm(embeddings[first])).view(size, -1), place))
        stored = torch.cat((self.features[row : row + size], self.features[self.first_place + 1, None]))
        tolerance = max(1e-5, 4 * torch.finfo(stored.dtype).eps) * stored.abs().max()
        unchanged = (computed - stored).abs().max() <= tolerance
        read = ids if ids.numel() < self.vocab_size // 8 else slice(None)
        return bool(unchanged) and torch.equal(embeddings[:, 0][read], self.column[read])

    @torch.autocast("cpu", enabled=False)
    def look_up(self, head: "MoSEExit", ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return normed states (batch, tokens, hidden) and the gate's weights (batch, tokens)."""
        gate = cast(MoSEGate, head.gate)
        size, absent = gate.kernel_size, self.vocab_size
        normed = F.embedding(ids, self.normed)

        known = F.pad(ids.masked_fill(attention_mask == 0, absent), (size - 1, 0), value=absent)
        known = known.unfold(1, size, 1)
        activated = self.activated_features(known.flatten(0, 1), attention_mask.cumsum(dim=1).flatten())
        return normed, gate.weigh(activated.view(*ids.shape, -1), attention_mask)

    @torch.autocast("cpu", enabled=False)
    def pool(self, head: "MoSEExit", ids: Tensor, lengths: Tensor) -> Tensor:
        """Return pooled states (texts, hidden) of texts whose ids (tokens,) lie one after the other."""
        gate = cast(MoSEGate, head.gate)
        size, absent = gate.kernel_size, self.vocab_size
        starts = lengths.cumsum(0) - lengths
        places = torch.arange(len(ids)) - starts.repeat_interleave(lengths)

        # A text's first tokens must not see the text before it.
        known = F.pad(ids, (size - 1, 0), value=absent).unfold(0, size, 1)
        known = known.masked_fill(places[:, None] < torch.arange(size - 1, -1, -1), absent)
        scores = widen(gate.score(self.activated_features(known, places + 1))[:, 0])

        # A softmax within each text.
        scores -= torch.segment_reduce(scores, "max", lengths=lengths).repeat_interleave(lengths)
        weights = scores.exp_()
        weights /= torch.segment_reduce(weights, "sum", lengths=lengths).repeat_interleave(lengths)
        weights = weights.to(self.normed.dtype)
        return F.embedding_bag(ids, self.normed, starts, mode="sum", per_sample_weights=weights)

    def activated_features(self, known: Tensor, counts: Tensor) -> Tensor:
        """Return the gate's features after GELU, (tokens, gate_size).

        `known` (tokens, kernel_size) are the ids of a token and those before it, the token itself last. `counts`
        (tokens,) are positions from 1.
        """
        size = known.shape[1]
        taps, places = known * size + torch.arange(size - 1, -1, -1), counts[:, None] + self.first_place
        rows = torch.cat((taps, places), dim=1)
        features = F.embedding_bag(rows, self.features, mode="sum")

        # GELU's tanh approximation, written as x · sigmoid(2 z): twice as fast on a CPU.
        activated = features.square().mul_(0.044715).add_(1).mul_(features).mul_(8**0.5 / torch.pi**0.5)
        return activated.sigmoid_().mul_(features)


#: Model -> its tables. Not an attribute: neither copies nor saved files of a model should hold them.
_STATIC_TABLES: MutableMapping["MoSEModel", StaticTables] = WeakIdKeyDictionary()


class MoSEExit(nn.Module):
    """One exit: norm, pooling, projection and normalisation of the embedding."""

    def __init__(self, config: MoSEConfig, exit_layer: int):
        super().__init__()
        self.pooling = config.pooling
        self.project_tokens = config.projection_layers == 2
        # The least norm to divide by: with 1, shorter vectors keep their length.
        self.min_divisor = 1.0 if config.embedding_norm == "at_most_one" else 1e-12

        normed = config.exit_norm == "every" or exit_layer == config.num_hidden_layers
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon) if normed else nn.Identity()
        self.gate = MoSEGate(config) if config.pooling == "gated" else None
        linear = partial(nn.Linear, config.hidden_size, config.hidden_size, bias=config.use_bias)
        self.projection: nn.Module = (
            nn.Sequential(linear(), ACT2FN[config.projection_act], linear()) if self.project_tokens else linear()
        )

    def forward(
        self,
        normed: Tensor,
        attention_mask: Tensor,
        truncate_dim: int | None = None,
        token_weights: Tensor | None = None,
    ) -> Tensor:
        """Return the embedding (batch, hidden or `truncate_dim`) from normed states (batch, tokens, hidden).

        Task heads read the normed states too, so the caller computes them with `norm`. `token_weights` (batch,
        tokens) are those of the pooling, if they are known already.
        """
        if self.pooling == "cls":
            pooled = self.projection(last_token(normed, attention_mask))
        else:
            if token_weights is None:
                token_weights = self._token_weights(normed, attention_mask)
            weights = token_weights.to(normed.dtype)[:, None]
            if self.project_tokens:
                pooled = (weights @ self.projection(normed))[:, 0]
            else:
                # Weights sum to 1, so this equals pooling the projected tokens, at a fraction of the cost.
                pooled = self.projection((weights @ normed)[:, 0])

        return self.normalize(pooled, truncate_dim)

    def normalize(self, pooled: Tensor, truncate_dim: int | None) -> Tensor:
        """Return embeddings of projected, pooled states (batch, hidden), cut to `truncate_dim`."""
        embedding = widen(pooled)[:, :truncate_dim]
        return F.normalize(embedding, dim=-1, eps=self.min_divisor).to(pooled.dtype)

    def _token_weights(self, normed: Tensor, attention_mask: Tensor) -> Tensor:
        if self.gate is not None:
            return self.gate(normed, attention_mask)
        return attention_mask / attention_mask.sum(dim=1, keepdim=True).clamp(min=1)


# --- Trunk -------------------------------------------------------------------------------------------------


def check_inputs(
    input_ids: Tensor | None, inputs_embeds: Tensor | None, attention_mask: Tensor | None, longest: int
) -> None:
    """Raise ValueError unless there is one non-empty input of at most `longest` tokens and the mask fits it."""
    if (input_ids is None) == (inputs_embeds is None):
        raise ValueError("You must specify exactly one of input_ids or inputs_embeds")

    name, dims, values = ("input_ids", "(batch, tokens)", input_ids)
    if inputs_embeds is not None:
        name, dims, values = ("inputs_embeds", "(batch, tokens, hidden)", inputs_embeds)
    shape = tuple(cast(Tensor, values).shape)
    if len(shape) != dims.count(",") + 1:
        raise ValueError(f"{name} must have shape {dims}, got {shape}. Add or remove dimensions.")
    if 0 in shape[:2]:
        raise ValueError(f"{name} must hold at least one token, got shape {shape}. Skip empty batches.")
    if attention_mask is not None and attention_mask.shape != shape[:2]:
        raise ValueError(
            f"attention_mask must have shape (batch, tokens) = {shape[:2]}, got {tuple(attention_mask.shape)}. "
            "Pass 1 for each real token and 0 for padding."
        )

    # The compiler's lengths are symbols, for which a comparison is a promise.
    if not torch.compiler.is_compiling() and shape[1] > longest:
        tokens = shape[1] if attention_mask is None else int(attention_mask.count_nonzero(dim=1).max())
        if tokens > longest:
            limit = f"at most max_position_embeddings={longest} tokens"
            raise ValueError(f"{name} must have {limit}, got {tokens}. Truncate the texts.")


def loads_on_cpu(device_map: Any = None, **kwargs) -> bool:
    """Return whether `from_pretrained` with these arguments puts a model on the CPU."""
    if device_map is None:
        return torch.get_default_device().type == "cpu"
    devices = device_map.values() if isinstance(device_map, dict) else [device_map]
    # "auto" and its like choose an accelerator if there is one.
    return all(str(d) == "cpu" or not torch.accelerator.is_available() for d in devices)


@contextmanager
def without_bare_names(quantizer: Any) -> Iterator[None]:
    """Leave tensors whose names have no dot out of torchao's list while a model is saved.

    torchao splits the names of its list at their last dots when it loads, and stumbles over `similarity_scale`.
    Tensors that are not quantized load without the list.
    """
    if quantizer is None:
        yield
        return

    flatten = quantizer.get_state_dict_and_metadata

    def flatten_dotted(model: Any) -> tuple[Any, dict[str, str]]:
        state_dict, metadata = flatten(model)
        if "tensor_names" in metadata:
            names = [name for name in json.loads(metadata["tensor_names"]) if "." in name]
            metadata["tensor_names"] = json.dumps(names)
        return state_dict, metadata

    quantizer.get_state_dict_and_metadata = flatten_dotted
    try:
        yield
    finally:
        del quantizer.get_state_dict_and_metadata


class MoSEPreTrainedModel(PreTrainedModel):
    """Base class of MoSE models: loading up to an exit, initialisation, capabilities."""

    config_class = MoSEConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MoSEBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _can_record_outputs = {
        # Both record outputs: exit 0 runs no block whose input could be recorded.
        "hidden_states": [
            OutputRecorder(nn.Dropout, layer_name="embedding_dropout", capture_initial_hidden_state=False),
            OutputRecorder(MoSEBlock, capture_initial_hidden_state=False),
        ],
        "attentions": MoSEAttention,
    }
    # Losses are batch means, so `Trainer` has to divide them by its accumulation steps.
    accepts_loss_kwargs = False
    #: Patterns of other tasks' heads, which a checkpoint may hold without a warning.
    _ignored_heads: tuple[str, ...] = ()
    #: Of the weights as they were loaded, if the configuration claims something of their embeddings.
    _loaded_sample: dict[str, Tensor] | None = None

    config: MoSEConfig

    def __init__(self, config: MoSEConfig, exit_layer: int | None = None):
        if exit_layer is not None:
            config = copy.deepcopy(config)  # leave the caller's unchanged
            config.exit_layer = exit_layer
        # The field may have been set after the configuration was validated.
        deepest = config.resolve_exit_layer(config.exit_layer)
        super().__init__(config)

        # Deeper tensors of a checkpoint are skipped without a warning.
        self._keys_to_ignore_on_load_unexpected = [
            *(rf"(^|\.)layers\.{block}\." for block in range(deepest, config.num_hidden_layers)),
            *(rf"(^|\.)(exits|classifiers)\.{e}\." for e in config.exit_layers if e > deepest),
            *self._ignored_heads,
        ]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path, *args, output_loading_info=False, use_safetensors=None, **kwargs
    ):
        """Load a model as transformers does, but only from safetensors and only with a complete trunk.

        On a CPU the default `dtype` is float32: in bfloat16 an embedding depends on its batch, by up to 2e-3.
        "auto" keeps the checkpoint's, which is also the default if `device_map` names an accelerator.

        Raises:
            ValueError: `use_safetensors` is False, or the checkpoint lacks blocks or exits up to `exit_layer`.
            OSError: There are no safetensors weights.
        """
        if use_safetensors is False:
            raise ValueError(
                "use_safetensors must be True or None, got False: a pickle can run any code. "
                "Convert the weights to safetensors."
            )
        kwargs |= {"output_loading_info": True, "use_safetensors": True}
        if kwargs.get("dtype") is None and kwargs.get("torch_dtype") is None and loads_on_cpu(**kwargs):
            kwargs["dtype"] = torch.float32
        model, info = cast(Any, super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs))

        trunk = {f"{prefix}{name}" for prefix in ("", "model.") for name in model.base_model.state_dict()}
        missing = sorted(name for name in info["missing_keys"] if name in trunk)
        if missing:
            exit_layer = model.config.resolve_exit_layer(model.config.exit_layer)
            raise ValueError(
                f"{pretrained_model_name_or_path} cannot be loaded at exit_layer={exit_layer}: it lacks "
                f"{len(missing)} tensors, the first is {missing[0]}. Load it at an exit it holds."
            )
        if model.config.aligned_exits or model.config.matryoshka_dims:
            model._loaded_sample = model._sample_weights()
        return (model, info) if output_loading_info else model

    def save_pretrained(self, *args, **kwargs) -> None:
        """Save a model as transformers does; after a training, without claims that held for the loaded weights.

        `aligned_exits` and `matryoshka_dims` are kept if the weights are as they were loaded, or after
        `describe_space`.
        """
        if self._loaded_sample is not None and self._has_changed(self._loaded_sample):
            logger.warning(
                "The weights have changed since they were loaded. Saved with aligned_exits=False and without "
                "matryoshka_dims: training that keeps them calls `describe_space`."
            )
            self.describe_space()
        with without_bare_names(getattr(self, "hf_quantizer", None)):
            super().save_pretrained(*args, **kwargs)

    def describe_space(self, aligned_exits: bool = False, matryoshka_dims: list[int] | None = None) -> None:
        """Record in the configuration what these weights were trained for, or checked to have."""
        self.config.aligned_exits, self.config.matryoshka_dims = aligned_exits, matryoshka_dims
        self._loaded_sample = None

    def _sample_weights(self) -> dict[str, Tensor]:
        """Return a few values of each tensor of the trunk, by name; quantized tensors are left out."""
        sample = {}
        for name, parameter in self.base_model.named_parameters():
            values = parameter.detach()
            if type(values) is Tensor and values.is_floating_point() and values.device.type != "meta":
                sample[name] = values.reshape(-1)[:: max(1, values.numel() // 16)].cpu().clone()
        return sample

    def _has_changed(self, before: dict[str, Tensor]) -> bool:
        after = self._sample_weights()
        return before.keys() != after.keys() or any(
            values.shape != after[name].shape or bool((values.to(after[name].dtype) != after[name]).any())
            for name, values in before.items()
        )

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MoSEPlace):
            init.normal_(module.weight, std=self.config.initializer_range)
            init.zeros_(module.bias)
        if isinstance(module, MoSEModel):
            init.constant_(module.similarity_scale, self.config.similarity_scale_init)
            # Gates are initialised here: transformers skips modules without parameters of their own.
            for gate in (cast(MoSEExit, head).gate for head in module.exits.values()):
                if gate is not None:
                    init.zeros_(gate.score.weight)


class MoSEModel(MoSEPreTrainedModel):
    """The encoder: token embeddings, blocks up to `config.exit_layer`, and the exits on the way.

    The argument `exit_layer` overrides `config.exit_layer`; None builds up to the deepest exit.
    """

    def __init__(self, config: MoSEConfig, exit_layer: int | None = None):
        super().__init__(config, exit_layer)
        config = self.config
        self.embed_tokens: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.embedding_dropout = nn.Dropout(config.embedding_dropout)
        self.layers = nn.ModuleList(MoSEBlock(config, i) for i in range(self.exit_layers[-1]))
        self.exits = nn.ModuleDict({str(e): MoSEExit(config, e) for e in self.exit_layers})
        self.similarity_scale = nn.Parameter(torch.full((1,), config.similarity_scale_init))

        self.gradient_checkpointing = False
        self.post_init()

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """Exits that this model has, shallow to deep."""
        return self.config.built_exit_layers

    def train(self, mode: bool = True) -> "MoSEModel":
        """Set the training mode. Training frees the tables of exit 0."""
        if mode:
            _STATIC_TABLES.pop(self, None)
        return super().train(mode)

    def _apply(self, fn, recurse=True):
        # Called by `to`, `half` and the like: tables of the former weights would only take memory.
        _STATIC_TABLES.pop(self, None)
        return super()._apply(fn, recurse)

    def _weigh_tokens(
        self, depth: int, states: Tensor, input_ids: Tensor | None, mask: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return an exit's normed states (batch, tokens, hidden), and its tokens' weights if tables have them."""
        head = cast(MoSEExit, self.exits[str(depth)])
        if depth == 0 and input_ids is not None:
            tables = self._static_tables(input_ids, input_ids.shape[1])
            if tables is not None:
                return tables.look_up(head, input_ids, mask)
        return head.norm(states), None

    def _static_tables(self, input_ids: Tensor, length: int) -> StaticTables | None:
        """Return the tables of exit 0 for inference on a CPU, computed anew if weights have changed.

        None where they cannot be used, or spare nothing: without a gate little is left. `length` is the number of
        tokens of the longest sequence.
        """
        head = cast(MoSEExit, self.exits["0"])
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or torch.jit.is_tracing():
            return None
        # An adapter, a parametrization or a quantised layer is another class.
        modules = (self.embed_tokens, *((head.gate.taps, head.gate.place) if head.gate is not None else ()))
        hooks = self.embed_tokens._forward_hooks
        if hooks or tuple(map(type, modules)) != (nn.Embedding, nn.Linear, MoSEPlace):
            return None
        parameters = StaticTables.parameters(cast(nn.Embedding, self.embed_tokens), head)
        if any(parameter.device.type != "cpu" or parameter.is_inference() for parameter in parameters):
            return None

        tables = _STATIC_TABLES.get(self)
        if tables is None or not tables.fit(parameters, head, input_ids, length):
            positions = max(self.config.max_position_embeddings, length)
            tables = StaticTables(cast(nn.Embedding, self.embed_tokens), head, positions)
            _STATIC_TABLES[self] = tables
        return tables

    def _folds_attention(self, states: Tensor) -> bool:
        """Return whether attention to all of short sequences is computed by `folded_attention`, on a CPU."""
        config, dropout = self.config, self.training and self.config.attention_dropout > 0
        if states.device.type != "cpu" or states.shape[1] > FOLDED_TOKENS or dropout:
            return False
        traced = torch.compiler.is_compiling() or torch.jit.is_tracing()
        return config._attn_implementation == "sdpa" and not traced

    def _block_inputs(
        self, states: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None, mask: Tensor
    ) -> dict[str, Any]:
        """Return the arguments that all blocks share: attention mask and rotary positions."""
        if position_ids is None:
            position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)
        elif position_ids.dim() == 1:
            position_ids = position_ids[None]

        config, padding = self.config, None if attention_mask is None else mask
        head_size = config.hidden_size // config.num_attention_heads
        base = cast(dict, config.rope_parameters)["rope_theta"]
        positions = rotary_embedding(position_ids, head_size, base)

        if self._folds_attention(states):
            # Added to scores. No softmax sees a difference to infinity, and float16 can hold it.
            bias = None if mask.all() else torch.zeros(mask.shape).masked_fill(mask == 0, -3e4)[:, None]
            return {"attention_mask": bias, "position_embeddings": positions, "folded": True}
        block_mask = create_bidirectional_mask(config, inputs_embeds=states, attention_mask=padding)
        return {"attention_mask": block_mask, "position_embeddings": positions}

    def _warn_of_misuse(
        self, input_ids: Tensor | None, attention_mask: Tensor | None, exit_layer: int, reads_others: bool
    ) -> None:
        """Warn once of padding without a mask, and of training that reads one exit of several."""
        if torch.compiler.is_compiling():
            return
        # `warn_if_padding_and_no_attention_mask` of transformers needs a BOS token.
        pad = self.config.pad_token_id
        if input_ids is not None and attention_mask is None and pad is not None and pad in input_ids[:, [0, -1]]:
            logger.warning_once(
                "input_ids have padding, which counts as text without an attention_mask. Pass both."
            )
        if not reads_others and self.training and torch.is_grad_enabled() and len(self.exit_layers) > 1:
            logger.warning_once(
                f"Training at exit {exit_layer} alone: the heads of the other exits learn nothing. "
                "mose.training.MultiExitLoss trains all of them."
            )

    @capture_outputs
    def forward(  # type: ignore[misc]  # TransformersKwargs has position_ids, too
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        exit_layer: int | None = None,
        output_all_exits: bool = False,
        truncate_dim: int | None = None,
        output_exit_states: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MoSEModelOutput:
        """Embed sequences at one exit, or at all exits up to it. No block runs beyond `exit_layer`.

        Args:
            input_ids: (batch, tokens), token ids.
            attention_mask: (batch, tokens), 1 for real tokens. None: all are, and `input_ids` hold no padding.
                A row without real tokens changes no other row; its own embedding is finite and means nothing.
            position_ids: (batch, tokens). None: real tokens are counted from 0, so padding moves no position.
            inputs_embeds: (batch, tokens, hidden), instead of `input_ids`.
            exit_layer: Number of blocks to run, one of `exit_layers`. None: the deepest exit built.
            output_all_exits: Return every exit's embedding, from one pass.
            truncate_dim: Keep this many dimensions of each embedding. None: `config.truncate_dim`, or all.
            output_exit_states: Return the states that task heads read (`exit_states`) instead of embeddings: of
                every exit with `output_all_exits`, else of `exit_layer`.
            kwargs: `output_hidden_states`, `output_attentions` and `return_dict`, as in transformers.

        Raises:
            ValueError: There is no such exit or dimension, or the input has a wrong shape or more tokens than
                `config.max_position_embeddings`.
        """
        check_inputs(input_ids, inputs_embeds, attention_mask, self.config.max_position_embeddings)
        deepest = self.config.resolve_exit_layer(exit_layer)
        dim = self.config.resolve_truncate_dim(truncate_dim)
        exits = self.exit_layers if output_all_exits else (deepest,)

        states = self.embedding_dropout(self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds)
        if attention_mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.long, device=states.device)
        else:
            mask = (attention_mask != 0).long()

        # Exit 0 runs no block.
        block_inputs = self._block_inputs(states, attention_mask, position_ids, mask) if deepest > 0 else {}

        # Embeddings are computed on the way, so that no exit's token states outlive the next block.
        exit_states: dict[int, Tensor] = {}
        embeddings: list[Tensor] = []
        for depth in range(deepest + 1):
            if depth > 0:
                states = self.layers[depth - 1](states, **block_inputs, **kwargs)

            if depth in exits:
                head = cast(MoSEExit, self.exits[str(depth)])
                if output_exit_states:
                    exit_states[depth] = normed = head.norm(states)
                else:
                    normed, weights = self._weigh_tokens(depth, states, input_ids, mask)
                    embeddings.append(head(normed, mask, dim, weights))

        self._warn_of_misuse(input_ids, attention_mask, deepest, output_all_exits or output_exit_states)
        all_embeddings = output_all_exits and not output_exit_states
        return MoSEModelOutput(
            last_hidden_state=normed,
            pooler_output=None if output_exit_states else embeddings[-1],
            exit_embeddings=tuple(embeddings) if all_embeddings else None,
            similarity_scale=self.similarity_scale.clamp(*SIMILARITY_SCALE_RANGE) if all_embeddings else None,
            exit_states=exit_states if output_exit_states else None,
        )

    def look_up(self, ids: Tensor, lengths: Tensor) -> Tensor | None:
        """Return the embeddings (texts, dim) at exit 0 of texts whose ids (tokens,) lie one after the other.

        They are those of `forward`, without padding and without states for each token. None where the tables of
        exit 0 cannot be used: outside inference on a CPU, with adapters or hooks, or if each token is projected.
        `lengths` (texts,) are the tokens of each text.
        """
        head = cast(MoSEExit, self.exits["0"])
        hooks = [m._forward_hooks or m._forward_pre_hooks for m in (self, head)]
        tables = None if head.project_tokens or any(hooks) else self._static_tables(ids, int(lengths.max()))
        if tables is None:
            return None
        pooled = head.projection(tables.pool(head, ids, lengths))
        return head.normalize(pooled, self.config.resolve_truncate_dim(None))

    def token_and_text_embeddings(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        exit_layer: int | None = None,
        truncate_dim: int | None = None,
    ) -> dict[str, Any]:
        """Return what sentence-transformers reads: the tokens' states, with the text's embedding at `<cls>`.

        Its stock pooling of the last token finds the embedding there. Arguments are those of `forward`.

        Returns:
            "token_embeddings": (batch, tokens, dim) at the exit, zero for padding. With
            `config.output_hidden_states` also "hidden_states": the same for each exit up to it, shallow to deep.
            sentence-transformers' losses over layers train these.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        options: dict[str, Any] = {"exit_layer": exit_layer, "return_dict": True}
        if not getattr(self.config, "output_hidden_states", False):
            out = self(input_ids, attention_mask, truncate_dim=truncate_dim, **options)
            return {"token_embeddings": put_at_last_token(out.last_hidden_state, out.pooler_output, mask)}

        out = self(input_ids, attention_mask, output_all_exits=True, output_exit_states=True, **options)
        dim = self.config.resolve_truncate_dim(truncate_dim)
        embeddings = {e: self.exits[str(e)](states, mask, dim) for e, states in out.exit_states.items()}
        every_exit = tuple(put_at_last_token(out.exit_states[e], embeddings[e], mask) for e in embeddings)
        return {"token_embeddings": every_exit[-1], "hidden_states": every_exit}


# --- Heads -------------------------------------------------------------------------------------------------


class MoSEPredictions(nn.Module):
    """The masked-language-model head: BERT's prediction transform, then projection onto the vocabulary."""

    def __init__(self, config: MoSEConfig):
        super().__init__()
        transform = OrderedDict[str, nn.Module](
            dense=nn.Linear(config.hidden_size + config.conditional_size, config.hidden_size),
            act=ACT2FN[config.hidden_act],
            LayerNorm=nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon),
        )
        self.transform = nn.Sequential(transform)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, states: Tensor) -> Tensor:
        return self.decoder(self.transform(states))


class MaskedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a projection onto the vocabulary, with its gradients, `LOGIT_ROWS` rows at a time.

    Gradients are computed in the forward pass, so logits are neither kept nor recomputed (the idea of Cut
    Cross-Entropy, arXiv 2411.09009). One call takes the rows of all exits: only one gradient has vocabulary size.
    """

    @staticmethod
    def forward(ctx, rows, weight, bias, targets, scales, needs_gradients):
        """Compute Σ_r scales_r · CE_r of `rows` (rows, hidden), projected by `weight` (vocab, hidden) and `bias`.

        `targets` (rows,) are token ids; `scales` (rows,) weight the cross-entropies. `needs_gradients` says that
        a backward pass may follow.

        Returns:
            The sum, a scalar. Without gradients: the cross-entropies (rows,), and 1 where the target has the
            highest logit (rows,). All at least float32.
        """
        device = rows.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype
        losses, hits = (torch.empty(len(rows), dtype=scales.dtype, device=rows.device) for _ in range(2))
        # Backward multiplies by it again: divided by a large batch, gradients would vanish in float16.
        ctx.unit = scales.max() if len(rows) else scales.new_ones(())

        with torch.autocast(device, enabled=False):
            states, projection, offset = rows.to(dtype), weight.to(dtype), bias.to(dtype)
            if needs_gradients:
                grad_rows = torch.empty_like(states)
                grad_weight, grad_bias = (
                    torch.zeros_like(widen(p), memory_format=torch.contiguous_format) for p in (weight, bias)
                )

            for start in range(0, len(rows), LOGIT_ROWS):
                part = slice(start, start + LOGIT_ROWS)
                logits = widen(torch.addmm(offset, states[part], projection.T))
                top, right = logits.amax(dim=1, keepdim=True), logits.gather(1, targets[part, None])
                exponentials = logits.sub_(top).exp_()
                sums = exponentials.sum(dim=1, keepdim=True)
                losses[part] = (sums.log() + top - right)[:, 0]
                hits[part] = (right == top)[:, 0]

                if not needs_gradients:
                    continue

                # d CE / d logits = softmax - one-hot of the target.
                scale = scales[part, None] / ctx.unit
                slopes = exponentials.mul_(scale / sums).scatter_add_(1, targets[part, None], -scale)
                grad_bias += slopes.sum(dim=0)

                slopes = slopes.to(dtype)
                torch.mm(slopes, projection, out=grad_rows[part])
                if dtype == grad_weight.dtype:
                    grad_weight.addmm_(slopes.T, states[part])
                else:
                    grad_weight += slopes.T @ states[part]

        if needs_gradients:
            ctx.save_for_backward(
                grad_rows.to(rows.dtype), grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)
            )

        ctx.mark_non_differentiable(losses, hits)
        return losses @ scales, losses, hits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient, *_):
        """Scale the gradients that `forward` computed."""
        factor = gradient * ctx.unit
        return *(saved * factor.to(saved.dtype) for saved in ctx.saved_tensors), None, None, None


class MoSEForMaskedLM(MoSEPreTrainedModel):
    """Masked language model at every exit, with one shared head (paper, section 3).

    The head is conditioned on the exit: it reads the hidden state concatenated with a learned embedding of the
    exit. Checkpoints of `MoSEForPreTraining` can be loaded.
    """

    _tied_weights_keys = {"predictions.decoder.weight": "model.embed_tokens.weight"}
    # Losses are sums over `num_items_in_batch`, which `Trainer` counts over its accumulation steps.
    accepts_loss_kwargs = True
    _ignored_heads: tuple[str, ...] = (r"^pooler\.", r"^seq_relationship\.")

    def __init__(self, config: MoSEConfig, exit_layer: int | None = None):
        super().__init__(config, exit_layer)
        config = self.config
        self.model = MoSEModel(config)
        self.conditional_embeddings = nn.Embedding(len(config.exit_layers), config.conditional_size)
        self.predictions = MoSEPredictions(config)
        self.post_init()

    def get_output_embeddings(self) -> nn.Linear:
        return self.predictions.decoder

    def set_output_embeddings(self, value: nn.Linear) -> None:
        self.predictions.decoder = value

    def condition(self, states: Tensor, exit_layer: int) -> Tensor:
        """Concatenate the exit's embedding: (…, hidden) -> (…, hidden + conditional_size)."""
        index = torch.tensor(self.config.exit_layers.index(exit_layer), device=states.device)
        embedding = self.conditional_embeddings(index).to(states.dtype)
        return torch.cat((states, embedding.expand(*states.shape[:-1], -1)), dim=-1)

    def mlm_loss(self, exit_states: dict[int, Tensor], labels: Tensor, num_items: Count) -> tuple[Tensor, ...]:
        """Return Σ_i w_i MLM_i, and without gradients each exit's mean loss (exits,) and accuracy (exits,).

        `exit_states` are normed, (batch, tokens, hidden) each, and are consumed. `labels` (batch, tokens) are
        -100 for tokens that are not predicted.
        """
        transform, decoder = self.predictions.transform, self.predictions.decoder
        masked = (labels != -100).nonzero(as_tuple=True)
        targets = labels[masked]
        count = max(len(targets), 1)

        # Only masked tokens reach the vocabulary projection, those of all exits in one call. Popping frees each
        # exit's states before the logits take memory.
        exits = list(exit_states)
        rows = torch.cat([transform(self.condition(exit_states.pop(e)[masked], e)) for e in exits])
        weights = [self.config.exit_weights[e] for e in exits]
        scales = torch.tensor(weights, dtype=widen(rows).dtype, device=rows.device)
        scales = (scales / (count if num_items is None else num_items)).repeat_interleave(len(targets))

        loss, losses, hits = MaskedCrossEntropy.apply(
            rows, decoder.weight, decoder.bias, targets.repeat(len(exits)), scales, torch.is_grad_enabled()
        )
        means = (values.view(len(exits), -1).sum(dim=1) / count for values in (losses, hits))
        return loss, *means

    @can_return_tuple
    def forward(  # type: ignore[misc]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        exit_layer: int | None = None,
        num_items_in_batch: Count = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MaskedLMOutput:
        """Predict tokens at `exit_layer`. With labels, the loss is Σ_i w_i MLM_i over the exits up to it.

        `labels` (batch, tokens) hold the token to predict, or -100. `num_items_in_batch` counts the masked tokens
        of all batches of a step, which losses are divided by; None counts those of this batch. Other arguments
        are those of `MoSEModel`.

        Logits (batch, tokens, vocab) are not returned in training with labels: they would outweigh the model.
        """
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds, exit_layer)
        outputs = self.model(
            *inputs, output_all_exits=labels is not None, output_exit_states=True, return_dict=True, **kwargs
        )

        loss = logits = None
        if labels is not None:
            loss, *_ = self.mlm_loss(outputs.exit_states, labels, num_items_in_batch)
        if labels is None or not self.training:
            deepest = self.config.resolve_exit_layer(exit_layer)
            logits = self.predictions(self.condition(outputs.last_hidden_state, deepest))

        return MaskedLMOutput(
            loss=loss, logits=logits, hidden_states=outputs.hidden_states, attentions=outputs.attentions
        )


class MoSEForPreTraining(MoSEForMaskedLM):
    """MLM and In-Context Classification at every exit, one shared head per task (paper, section 3)."""

    _ignored_heads = ()

    def __init__(self, config: MoSEConfig, exit_layer: int | None = None):
        super().__init__(config, exit_layer)
        config = self.config

        plain, conditioned = config.hidden_size, config.hidden_size + config.conditional_size
        before_pooler = config.context_pooler == "conditioned"
        self.pooler = nn.Linear(conditioned if before_pooler else plain, config.hidden_size)
        self.seq_relationship = nn.Linear(plain if before_pooler else conditioned, 2)
        self.post_init()

    def context_logits(self, normed: Tensor, attention_mask: Tensor | None, exit_layer: int) -> Tensor:
        """Classify whether all snippets are from one repository, from the state of `<cls>`: (batch, 2)."""
        states = last_token(normed, attention_mask)
        if self.config.context_pooler == "conditioned":
            return self.seq_relationship(self.pooler(self.condition(states, exit_layer)).tanh())
        return self.seq_relationship(self.condition(self.pooler(states).tanh(), exit_layer))

    @staticmethod
    def _context_share(labels: Any, context_labels: Tensor, num_items: Count, num_examples: Count) -> Any:
        """Return the weight of this batch's mean ICC loss in its step."""
        if num_examples is not None:
            return len(context_labels) / num_examples
        if num_items is not None and labels is not None:
            return len((labels != -100).nonzero()) / max(num_items, 1)  # a step may have no masked token
        return 1.0

    def icc_loss(
        self, exit_logits: dict[int, Tensor], labels: Tensor, share: Tensor | float
    ) -> tuple[Tensor, ...]:
        """Return Σ_i w_i ICC_i times `share`, and each exit's loss and accuracy (exits,) without gradients."""
        losses = {e: F.cross_entropy(widen(logits), labels) for e, logits in exit_logits.items()}
        hits = [widen(logits.argmax(dim=1) == labels).mean() for logits in exit_logits.values()]
        loss = sum(part * self.config.exit_weights[e] * share for e, part in losses.items())
        return cast(Tensor, loss), torch.stack(list(losses.values())).detach(), torch.stack(hits)

    @can_return_tuple
    def forward(  # type: ignore[misc]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        context_labels: Tensor | None = None,
        exit_layer: int | None = None,
        num_items_in_batch: Count = None,
        num_examples_in_batch: Count = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MoSEForPreTrainingOutput:
        """Compute the loss L = Σ_i w_i (MLM_i + ICC_i) over the exits up to `exit_layer`, or the logits there.

        w_i is `config.exit_weights`. `labels` (batch, tokens) hold the token to predict, or -100.
        `context_labels` (batch,) are 1 if all snippets are from one repository, else 0. Other arguments are those
        of `MoSEModel`.

        `num_items_in_batch` and `num_examples_in_batch` count the masked tokens and examples of all batches of a
        step, which the two losses are divided by; None counts those of this batch. With the first alone, as
        `Trainer` passes it, a batch's share of the ICC loss is its share of the masked tokens.
        """
        every_exit = labels is not None or context_labels is not None
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds, exit_layer)
        outputs = self.model(
            *inputs, output_all_exits=every_exit, output_exit_states=True, return_dict=True, **kwargs
        )
        exit_states, deepest = outputs.exit_states, self.config.resolve_exit_layer(exit_layer)

        loss = mlm_losses = icc_losses = mlm_accuracies = icc_accuracies = prediction_logits = None
        if context_labels is None:
            context_logits = self.context_logits(outputs.last_hidden_state, attention_mask, deepest)
        else:
            exit_logits = {e: self.context_logits(s, attention_mask, e) for e, s in exit_states.items()}
            share = self._context_share(labels, context_labels, num_items_in_batch, num_examples_in_batch)
            loss, icc_losses, icc_accuracies = self.icc_loss(exit_logits, context_labels, share)
            context_logits = exit_logits[deepest]

        if labels is None:
            prediction_logits = self.predictions(self.condition(outputs.last_hidden_state, deepest))
        else:
            # Last, because it consumes the states.
            mlm_loss, mlm_losses, mlm_accuracies = self.mlm_loss(exit_states, labels, num_items_in_batch)
            loss = mlm_loss if loss is None else loss + mlm_loss

        return MoSEForPreTrainingOutput(
            loss=loss,
            mlm_losses=mlm_losses,
            icc_losses=icc_losses,
            mlm_accuracies=mlm_accuracies,
            icc_accuracies=icc_accuracies,
            prediction_logits=prediction_logits,
            context_logits=context_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class MoSEClassificationHead(nn.Module):
    """Classifier of a sequence, or of a pair `<sep> a <sep> b <cls>`, from the state of `<cls>`."""

    def __init__(self, config: MoSEConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.residual_dropout)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, cast(int, config.num_labels))

    def forward(self, states: Tensor) -> Tensor:
        return self.out_proj(self.dropout(self.dense(self.dropout(states)).tanh()))


class MoSEForSequenceClassification(MoSEPreTrainedModel):
    """Sequence classifier with a head at every exit, read from `<cls>`."""

    def __init__(self, config: MoSEConfig, exit_layer: int | None = None):
        super().__init__(config, exit_layer)
        config = self.config
        self.num_labels = config.num_labels
        self.model = MoSEModel(config)
        self.classifiers = nn.ModuleDict({str(e): MoSEClassificationHead(config) for e in self.model.exit_layers})
        self.post_init()

    def classification_loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Compute one exit's loss. Infer `config.problem_type` from the labels if it is not set."""
        if self.config.problem_type is None:
            if self.num_labels == 1:
                self.config.problem_type = "regression"
            elif labels.is_floating_point():
                self.config.problem_type = "multi_label_classification"
            else:
                self.config.problem_type = "single_label_classification"

        if self.config.problem_type == "regression":
            return F.mse_loss(widen(logits.view(labels.shape)), widen(labels))
        if self.config.problem_type == "multi_label_classification":
            return F.binary_cross_entropy_with_logits(widen(logits), widen(labels))
        return F.cross_entropy(widen(logits), labels.view(-1))

    @can_return_tuple
    def forward(  # type: ignore[misc]
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        exit_layer: int | None = None,
        output_all_exits: bool = False,
        **kwargs: Unpack[TransformersKwargs],
    ) -> MoSESequenceClassifierOutput:
        """Classify at `exit_layer`, and with `output_all_exits` at every exit up to it.

        `labels` are class indices (batch,), regression targets (batch,) if `num_labels` is 1, or floats
        (batch, num_labels) for multi-label classification. Without `exit_layer`, the loss is the weighted sum
        over all exits; with it, the loss at that exit alone. Other arguments are those of `MoSEModel`.
        """
        train_all = labels is not None and exit_layer is None
        every_exit = output_all_exits or train_all
        inputs = (input_ids, attention_mask, position_ids, inputs_embeds, exit_layer)
        outputs = self.model(
            *inputs, output_all_exits=every_exit, output_exit_states=True, return_dict=True, **kwargs
        )

        deepest = self.config.resolve_exit_layer(exit_layer)
        cls_states = {e: last_token(states, attention_mask) for e, states in outputs.exit_states.items()}
        logits = {e: self.classifiers[str(e)](states) for e, states in cls_states.items()}

        loss = exit_losses = None
        if labels is not None:
            weights = self.config.exit_weights if train_all else {deepest: 1.0}
            losses = {e: self.classification_loss(logits[e], labels) for e in logits if e in weights}

            loss = sum(weights[e] * part for e, part in losses.items())
            exit_losses = torch.stack(list(losses.values())).detach()

        return MoSESequenceClassifierOutput(
            loss=cast(Tensor | None, loss),
            logits=logits[deepest],
            exit_losses=exit_losses,
            exit_logits=tuple(logits.values()) if output_all_exits else None,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


MoSEModel.register_for_auto_class("AutoModel")
MoSEForMaskedLM.register_for_auto_class("AutoModelForMaskedLM")
MoSEForPreTraining.register_for_auto_class("AutoModelForPreTraining")
MoSEForSequenceClassification.register_for_auto_class("AutoModelForSequenceClassification")

__all__ = [
    "MoSEForMaskedLM",
    "MoSEForPreTraining",
    "MoSEForSequenceClassification",
    "MoSEModel",
    "MoSEPreTrainedModel",
]
