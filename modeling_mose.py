"""What a MoSE computes: blocks, a trunk that stops at the exit, the exits, and the task heads.

Top to bottom: attention and MLP → block → exit (norm, pooling, projection) → `MoSEModel` → heads with their
losses. The Hub serves this file as remote code, so it imports torch, transformers and the configuration.

Shapes in the docstrings: `batch` sequences of `tokens` tokens, hidden states `hidden` wide.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import MaskedLMOutput
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_mose import MoSEConfig

#: Bounds of the learned similarity scale (the paper's forerunner clamps it so).
SIMILARITY_SCALE_RANGE = (1e-4, 30.0)
#: Masked tokens whose logits are in memory at once: few, or five exits would need more than one exit's tokens do.
LOGIT_ROWS = 256


@dataclass
class MoSEModelOutput(ModelOutput):
    """What `MoSEModel` returns.

    Args:
        last_hidden_state: (batch, tokens, hidden), after the norm of the exit that was run.
        pooler_output: (batch, dim), the embedding at that exit, of unit norm; dim is `truncate_dim`, or hidden.
        exit_embeddings: with `output_all_exits`, one (batch, dim) of unit norm per exit, shallow to deep.
        similarity_scale: with `output_all_exits`, (1,), what multiplies cosines in the contrastive loss.
        hidden_states: one (batch, tokens, hidden) per block run and one for the embeddings; the last is
            `last_hidden_state`, the others are the un-normed residual stream, as everywhere in transformers.
        attentions: one (batch, heads, tokens, tokens) per block run.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    exit_embeddings: tuple[Tensor, ...] | None = None
    similarity_scale: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


@dataclass
class MoSEForPreTrainingOutput(ModelOutput):
    """What `MoSEForPreTraining` returns.

    Args:
        loss: scalar, the weighted sum over exits of both parts (paper, section 3), where labels were given.
        mlm_losses, icc_losses: (exits,), means over this batch, unweighted and detached, shallow to deep; for
            logging.
        mlm_accuracies, icc_accuracies: (exits,), the shares of masked tokens and of contexts that are right.
        prediction_logits: (batch, tokens, vocab) at the exit; only without labels, which need no logits.
        context_logits: (batch, 2) at the exit: another repository took part, or all from one.
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
    """What `MoSEForSequenceClassification` returns.

    Args:
        loss: scalar, the weighted sum over the exits that take part.
        logits: (batch, num_labels) at the exit.
        exit_losses: (exits,), unweighted and detached, shallow to deep; for logging.
        exit_logits: with `output_all_exits`, one (batch, num_labels) per exit.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    exit_losses: Tensor | None = None
    exit_logits: tuple[Tensor, ...] | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


# --- Block: StarCoder-2's, bidirectional -------------------------------------------------------------------


def rotary_embedding(position_ids: Tensor, head_size: int, base: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotary angles, each (batch, 1, tokens, head_size), in float32.

    Computed, not stored: there is no buffer that a cast to bf16 or a partial load could spoil.
    """
    exponents = torch.arange(0, head_size, 2, device=position_ids.device, dtype=torch.float32) / head_size
    angles = position_ids[:, None, :, None].float() * base**-exponents
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on queries or keys (batch, heads, tokens, head_size), halves paired as in Llama."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat((-second, first), dim=-1) * sin


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Attention in plain matrix products; returns (batch, tokens, heads, head_size) and the weights.

    The query heads of a group are folded into the rows of one product with their shared key-value head, so
    that grouped keys and values are never repeated; on a CPU it trains faster than the fused kernels.
    """
    batch, heads, tokens, head_size = query.shape
    groups = key.shape[1]
    folded = query.reshape(batch, groups, -1, head_size)
    scores = (folded @ key.transpose(2, 3) * scaling).view(batch, heads, tokens, -1)
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = F.dropout(weights, p=dropout, training=module.training)
    mixed = weights.view(batch, groups, -1, weights.shape[-1]) @ value
    return mixed.view(batch, heads, tokens, head_size).transpose(1, 2).contiguous(), weights


class MoSEAttention(nn.Module):
    """Grouped-query self-attention over the whole sequence, both ways."""

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
        position_embeddings: tuple[Tensor, Tensor],
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query = self.q_proj(hidden_states).view(shape).transpose(1, 2)
        key = self.k_proj(hidden_states).view(shape).transpose(1, 2)
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)
        cos, sin = (angle.to(query.dtype) for angle in position_embeddings)
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        mixed, weights = attention(
            self,
            rotate(query, cos, sin),
            rotate(key, cos, sin),
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        mixed = self.o_proj(mixed.reshape(hidden_states.shape).contiguous())
        return F.dropout(mixed, p=self.config.residual_dropout, training=self.training), weights


class MoSEMLP(nn.Module):
    """Two linear layers with an activation between, no gate."""

    def __init__(self, config: MoSEConfig):
        super().__init__()
        self.c_fc = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.use_bias)
        self.act = ACT2FN[config.hidden_act]
        self.c_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.use_bias)
        self.dropout = config.residual_dropout

    def forward(self, hidden_states: Tensor) -> Tensor:
        return F.dropout(self.c_proj(self.act(self.c_fc(hidden_states))), self.dropout, self.training)


class MoSEBlock(GradientCheckpointingLayer):
    """One pre-LayerNorm transformer block."""

    def __init__(self, config: MoSEConfig, layer_idx: int):
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.self_attn = MoSEAttention(config, layer_idx)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)
        self.mlp = MoSEMLP(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        **kwargs,
    ) -> tuple[Tensor, Tensor | None]:
        mixed, weights = self.self_attn(
            self.input_layernorm(hidden_states), attention_mask, position_embeddings, **kwargs
        )
        hidden_states = hidden_states + mixed
        return hidden_states + self.mlp(self.post_attention_layernorm(hidden_states)), weights


# --- Exits -------------------------------------------------------------------------------------------------


def widen(values: Tensor) -> Tensor:
    """At least float32, for what a half-precision type would spoil."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def last_token(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    """The last real token's state, (batch, hidden): `<cls>`, whichever side the padding is on."""
    places = torch.arange(1, attention_mask.shape[1] + 1, device=attention_mask.device)
    last = (attention_mask * places).argmax(dim=1)
    return hidden_states[torch.arange(len(hidden_states), device=hidden_states.device), last]


class MoSEGate(nn.Module):
    """Scores each token by its state, its place and the few tokens before it, for the weighted mean.

    The last layer starts at zero: before training all tokens weigh the same.
    """

    def __init__(self, config: MoSEConfig):
        super().__init__()
        self.kernel_size = config.gate_kernel_size
        self.taps = nn.Linear(config.hidden_size, config.gate_kernel_size * config.gate_size)
        self.place = nn.Linear(1, config.gate_size)
        self.score = nn.Linear(config.gate_size, 1, bias=False)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
        """Weights (batch, tokens) that sum to 1 over the real tokens of each row."""
        # A causal convolution, as one matrix product whose slices are shifted and added: padding adds nothing
        # on either side, and a CPU runs it at full speed.
        taps = self.taps(hidden_states) * attention_mask[..., None].to(hidden_states.dtype)
        features: Tensor | None = None
        for shift, tap in enumerate(taps.chunk(self.kernel_size, dim=-1)):
            shifted = F.pad(tap, (0, 0, shift, 0))[:, : tap.shape[1]]
            features = shifted if features is None else features + shifted
        place = torch.log1p(attention_mask.cumsum(dim=1).to(hidden_states.dtype))[..., None]
        scores = widen(self.score(F.gelu(features + self.place(place), approximate="tanh"))[..., 0])
        scores = scores.masked_fill(attention_mask == 0, torch.finfo(scores.dtype).min)
        return scores.softmax(dim=-1)


def projection_head(config: MoSEConfig) -> nn.Module:
    """Return one linear layer, or the two-layer head of the paper's released weights."""
    layers = [
        nn.Linear(config.hidden_size, config.hidden_size, bias=config.use_bias)
        for _ in range(config.projection_layers)
    ]
    if len(layers) == 1:
        return layers[0]
    return nn.Sequential(layers[0], ACT2FN[config.projection_act], layers[1])


class MoSEExit(nn.Module):
    """What stands at one exit: its norm, its pooling, its projection."""

    def __init__(self, config: MoSEConfig, exit_layer: int):
        super().__init__()
        self.pooling = config.pooling
        self.project_tokens = config.projection_layers == 2
        self.least_divisor = 1.0 if config.embedding_norm == "at_most_one" else 1e-12
        normed = config.exit_norm == "every" or exit_layer == config.num_hidden_layers
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon) if normed else nn.Identity()
        self.gate = MoSEGate(config) if config.pooling == "gated" else None
        self.projection = projection_head(config)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, truncate_dim: int | None = None) -> Tensor:
        """The embedding (batch, embedding size, or `truncate_dim`) from normed states (batch, tokens, hidden).

        Its norm is 1, or at most 1 where `embedding_norm` says so. A projection of one linear layer reads the
        pooled vector: the pooling weights sum to 1, so this equals pooling the projected tokens, at a fraction
        of the cost. With an activation in it the order matters, unless a single token is taken.
        """
        if self.pooling == "cls":
            pooled = self.projection(last_token(hidden_states, attention_mask))
        else:
            if self.gate is not None:
                weights = self.gate(hidden_states, attention_mask)
            else:
                weights = attention_mask / attention_mask.sum(dim=1, keepdim=True).clamp(min=1)
            states = self.projection(hidden_states) if self.project_tokens else hidden_states
            pooled = (weights.to(states.dtype)[:, None] @ states)[:, 0]
            pooled = pooled if self.project_tokens else self.projection(pooled)
        embedding = widen(pooled)[:, :truncate_dim]
        return F.normalize(embedding, dim=-1, eps=self.least_divisor).to(hidden_states.dtype)


# --- Models ------------------------------------------------------------------------------------------------


class MoSEPreTrainedModel(PreTrainedModel):
    """Loading, initialisation and capabilities that all MoSE models share."""

    config_class = MoSEConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["MoSEBlock"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    # The losses are means over the batch already: Trainer divides them by its accumulation steps.
    accepts_loss_kwargs = False
    #: Patterns of what a checkpoint may hold for other tasks, left there without a warning.
    _heads_left_out: tuple[str, ...] = ()

    config: MoSEConfig

    def __init__(self, config: MoSEConfig, exit_layer: int | None = None):
        if exit_layer is not None:
            config = copy.deepcopy(config)  # the caller's stays as it is
            config.exit_layer = exit_layer
        # It may have been set since the configuration checked it.
        deepest = config.resolve_exit_layer(config.exit_layer)
        super().__init__(config)
        # What lies deeper in a checkpoint is left there, without a warning.
        self._keys_to_ignore_on_load_unexpected = [
            rf"(^|\.)layers\.{block}\." for block in range(deepest, config.num_hidden_layers)
        ] + [rf"(^|\.)(exits|classifiers)\.{e}\." for e in config.exit_layers if e > deepest]
        self._keys_to_ignore_on_load_unexpected += self._heads_left_out

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *args,
        output_loading_info=False,
        use_safetensors: bool | None = None,
        **kwargs,
    ):
        """As in transformers; but weights come from safetensors alone, and a checkpoint that lacks blocks or
        exits of the depth asked for is refused.

        Raises:
            ValueError: `use_safetensors` is False, the checkpoint is less deep than `exit_layer`, or holds no
                MoSE trunk at all.
            OSError: there are no safetensors weights.
        """
        if use_safetensors is False:
            raise ValueError("use_safetensors=False: a pickle can run any code and is never loaded")
        loaded: Any = super().from_pretrained(
            pretrained_model_name_or_path, *args, output_loading_info=True, use_safetensors=True, **kwargs
        )
        model, info = loaded
        trunk = {f"{prefix}{name}" for prefix in ("", "model.") for name in model.base_model.state_dict()}
        missing = sorted(name for name in info["missing_keys"] if name in trunk)
        if missing:
            raise ValueError(
                f"{pretrained_model_name_or_path} cannot be loaded at exit_layer="
                f"{model.config.resolve_exit_layer(model.config.exit_layer)}: it lacks {len(missing)} of its "
                f"tensors, {missing[0]} first; load it at an exit that it holds"
            )
        return (model, info) if output_loading_info else model

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, MoSEModel):
            init.constant_(module.similarity_scale, self.config.similarity_scale_init)
            # Not when the gates come by: modules of ours without parameters of their own are passed over.
            for gate in (cast(MoSEExit, head).gate for head in module.exits.values()):
                if gate is not None:
                    init.zeros_(gate.score.weight)


class MoSEModel(MoSEPreTrainedModel):
    """The encoder: token embeddings, blocks up to `config.exit_layer`, and the exits on the way.

    Weights are not searched for NaN, which would cost a pass over them; `mose.inference.encoding.encode`, and
    so search and evaluation, refuses the embeddings that such weights give.

    Args:
        config: its `exit_layer` says how many blocks are built (None: up to the deepest exit).
        exit_layer: overrides `config.exit_layer`.
    """

    def __init__(self, config: MoSEConfig, exit_layer: int | None = None):
        super().__init__(config, exit_layer)
        config = self.config
        self.embed_tokens: nn.Module = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(MoSEBlock(config, i) for i in range(self.exit_layers[-1]))
        self.exits = nn.ModuleDict({str(e): MoSEExit(config, e) for e in self.exit_layers})
        self.similarity_scale = nn.Parameter(torch.full((1,), config.similarity_scale_init))
        self.gradient_checkpointing = False
        self.post_init()

    @property
    def exit_layers(self) -> tuple[int, ...]:
        """The exits that this model has, shallow to deep."""
        return self.config.built_exit_layers

    def get_input_embeddings(self) -> nn.Module:
        return self.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embed_tokens = value

    def _exit(self, depth: int) -> MoSEExit:
        return cast(MoSEExit, self.exits[str(depth)])

    def run(
        self,
        input_ids: Tensor | None,
        attention_mask: Tensor | None,
        position_ids: Tensor | None,
        inputs_embeds: Tensor | None,
        exit_layer: int | None,
        hidden_states: list[Tensor] | None = None,
        attentions: list[Tensor | None] | None = None,
        **kwargs,
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Runs blocks and yields, at each exit on the way, its depth, the normed states and the mask.

        Nothing is kept once the consumer has let go of it, and no block runs beyond `exit_layer`.
        `hidden_states` and `attentions` are lists to append to, where those are wanted.
        """
        deepest = self.config.resolve_exit_layer(exit_layer)
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give either input_ids or inputs_embeds, not both and not neither")
        states = self.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if states.dim() != 3:
            raise ValueError(
                f"input of shape {tuple(states.shape[: states.dim() - (inputs_embeds is None)])}: must be "
                "(batch, tokens), or (batch, tokens, hidden) for inputs_embeds"
            )
        batch, tokens = states.shape[:2]
        if batch == 0 or tokens == 0:
            raise ValueError(f"empty input: {batch} sequences of {tokens} tokens; give at least one of each")
        if attention_mask is not None and attention_mask.shape != (batch, tokens):
            raise ValueError(
                f"attention_mask of shape {tuple(attention_mask.shape)}: must be (batch, tokens) = "
                f"({batch}, {tokens})"
            )
        # Positions count real tokens, so that padding, on whichever side, moves none.
        mask = torch.ones(batch, tokens, dtype=torch.long, device=states.device)
        if attention_mask is not None:
            mask = (attention_mask != 0).long()
        if position_ids is None:
            position_ids = (mask.cumsum(dim=1) - 1).clamp(min=0)
        elif position_ids.dim() == 1:
            position_ids = position_ids[None]
        states = F.dropout(states, p=self.config.embedding_dropout, training=self.training)
        if deepest > 0:
            block_mask = create_bidirectional_mask(
                config=self.config,
                inputs_embeds=states,
                attention_mask=None if attention_mask is None else mask,
            )
            position_embeddings = rotary_embedding(
                position_ids,
                self.config.hidden_size // self.config.num_attention_heads,
                cast(dict, self.config.rope_parameters)["rope_theta"],
            )
        for depth in range(deepest + 1):
            if depth > 0:
                states, weights = self.layers[depth - 1](
                    states, attention_mask=block_mask, position_embeddings=position_embeddings, **kwargs
                )
                if attentions is not None:
                    attentions.append(weights)
            normed = self._exit(depth).norm(states) if depth in self.exit_layers else None
            if hidden_states is not None:
                hidden_states.append(states if normed is None or depth < deepest else normed)
            if normed is not None:
                yield depth, normed, mask

    def _recorders(
        self, output_hidden_states: bool | None, output_attentions: bool | None
    ) -> tuple[list | None, list | None]:
        """A list for each of hidden states and attentions that is wanted, None for what is not."""
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if output_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                f"output_attentions: attn_implementation={self.config._attn_implementation!r} keeps no "
                "weights; load the model with attn_implementation='eager'"
            )
        return ([] if output_hidden_states else None), ([] if output_attentions else None)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        exit_layer: int | None = None,
        output_all_exits: bool = False,
        truncate_dim: int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> MoSEModelOutput:
        """Embeds sequences at one exit, or at all exits up to it.

        Args:
            input_ids: (batch, tokens), as the tokenizer gives them.
            attention_mask: (batch, tokens), 1 for real tokens; None: all are real.
            position_ids: (batch, tokens); None: real tokens are counted from 0.
            inputs_embeds: (batch, tokens, hidden), instead of `input_ids`.
            exit_layer: number of blocks to run, one of `exit_layers`; None: the deepest exit built.
            output_all_exits: give every exit's embedding, from one pass.
            truncate_dim: keep so many dimensions of each embedding; None: `config.truncate_dim`, or all.
            output_hidden_states, output_attentions, `return_dict`: as in transformers.

        Raises:
            ValueError: no such exit or dimension, an empty batch, or a mask that is not (batch, tokens).
        """
        hidden_states, attentions = self._recorders(output_hidden_states, output_attentions)
        embeddings = []
        deepest = self.config.resolve_exit_layer(exit_layer)
        dim = self.config.resolve_truncate_dim(truncate_dim)
        for depth, normed, mask in self.run(
            input_ids,
            attention_mask,
            position_ids,
            inputs_embeds,
            deepest,
            hidden_states,
            attentions,
            **kwargs,
        ):
            if output_all_exits or depth == deepest:
                embeddings.append(self._exit(depth)(normed, mask, dim))
        return MoSEModelOutput(
            last_hidden_state=normed,
            pooler_output=embeddings[-1],
            exit_embeddings=tuple(embeddings) if output_all_exits else None,
            similarity_scale=self.similarity_scale.clamp(*SIMILARITY_SCALE_RANGE) if output_all_exits else None,
            hidden_states=None if hidden_states is None else tuple(hidden_states),
            attentions=None if attentions is None else tuple(attentions),
        )


class MoSETransform(nn.Module):
    """BERT's prediction transform on a state and the embedding of the exit that it comes from."""

    def __init__(self, config: MoSEConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size + config.conditional_size, config.hidden_size)
        self.act = ACT2FN[config.hidden_act]
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.norm_epsilon)

    def forward(self, states: Tensor) -> Tensor:
        return self.LayerNorm(self.act(self.dense(states)))


class MaskedCrossEntropy(torch.autograd.Function):
    """Cross-entropy of a projection onto the vocabulary, with its gradients, `LOGIT_ROWS` rows at a time.

    A gradient that is computed while the logits are at hand needs them neither kept nor computed again; the
    idea is that of Cut Cross-Entropy (arXiv 2411.09009) and of `torch.nn.functional.linear_cross_entropy`. One
    call takes the rows of every exit: there is one gradient of the vocabulary's size, however many exits.
    """

    @staticmethod
    def forward(ctx, rows, weight, bias, targets, scales, differentiate):
        """Σ_r scales_r · CE_r, and what is logged of each row.

        Args:
            rows: (rows, hidden).
            weight, bias: (vocab, hidden) and (vocab,), of the projection.
            targets: (rows,), token ids.
            scales: (rows,), what each row's cross-entropy counts.
            differentiate: whether a backward pass may follow.

        Returns:
            The sum, a scalar; the cross-entropies (rows,) and whether the target had the highest logit (rows,),
            both without gradients. At least float32.
        """
        device = rows.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else rows.dtype
        with torch.autocast(device, enabled=False):
            states, projection, offset = rows.to(dtype), weight.to(dtype), bias.to(dtype)
            losses, hits = (torch.empty(len(rows), dtype=scales.dtype, device=rows.device) for _ in range(2))
            # Of the scales' size once backward: divided by a large batch, gradients would vanish in float16.
            ctx.unit = scales.max() if len(rows) else scales.new_ones(())
            if differentiate:
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
                if differentiate:
                    scale = scales[part, None] / ctx.unit
                    slopes = exponentials.mul_(scale / sums).scatter_add_(1, targets[part, None], -scale)
                    grad_bias += slopes.sum(dim=0)
                    slopes = slopes.to(dtype)
                    torch.mm(slopes, projection, out=grad_rows[part])
                    if dtype == grad_weight.dtype:
                        grad_weight.addmm_(slopes.T, states[part])
                    else:
                        grad_weight += slopes.T @ states[part]
        if differentiate:
            ctx.save_for_backward(
                grad_rows.to(rows.dtype), grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)
            )
        ctx.mark_non_differentiable(losses, hits)
        return losses @ scales, losses, hits

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient, *_):
        factor = gradient * ctx.unit
        return *(saved * factor.to(saved.dtype) for saved in ctx.saved_tensors), None, None, None


class MoSEPredictions(nn.Module):
    """The masked-language-model head."""

    def __init__(self, config: MoSEConfig):
        super().__init__()
        self.transform = MoSETransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, states: Tensor) -> Tensor:
        return self.decoder(self.transform(states))


class MoSEForMaskedLM(MoSEPreTrainedModel):
    """The masked language model at every exit: one head, told the exit by a learned embedding of it that is
    concatenated to the hidden state (paper, section 3). Reads the checkpoints of `MoSEForPreTraining`."""

    _tied_weights_keys = {"predictions.decoder.weight": "model.embed_tokens.weight"}
    # The losses count what all batches of a step hold: Trainer says how much that is, and does not divide.
    accepts_loss_kwargs = True
    _heads_left_out: tuple[str, ...] = (r"^pooler\.", r"^seq_relationship\.")

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

    def _condition(self, states: Tensor, exit_layer: int) -> Tensor:
        index = torch.tensor(self.config.exit_layers.index(exit_layer), device=states.device)
        condition = self.conditional_embeddings(index).to(states.dtype)
        return torch.cat((states, condition.expand(*states.shape[:-1], -1)), dim=-1)

    def _transform(self, normed: Tensor, chosen: tuple[Tensor, ...], exit_layer: int) -> Tensor:
        """(masked, hidden), what the vocabulary projection gets of an exit's states (batch, tokens, hidden)."""
        return self.predictions.transform(self._condition(normed[chosen], exit_layer))

    def _mlm_loss(
        self, rows: dict[int, Tensor], targets: Tensor, items: Tensor | int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The weighted sum over exits of their summed cross-entropies over `items`.

        Args:
            rows: of each exit (masked, hidden), from `_transform`.
            targets: (masked,), token ids.
            items: what the sums are divided by.

        Returns:
            The loss; mean cross-entropy and accuracy of each exit, (exits,) without gradients, 0 for no rows.
        """
        decoder, weights = self.predictions.decoder, self.config.exit_weights
        stacked = torch.cat(list(rows.values()))
        by_exit = torch.tensor([weights[e] for e in rows], dtype=widen(stacked).dtype, device=targets.device)
        loss, losses, hits = MaskedCrossEntropy.apply(
            stacked,
            decoder.weight,
            decoder.bias,
            targets.repeat(len(rows)),
            (by_exit / items).repeat_interleave(len(targets)),
            torch.is_grad_enabled(),
        )
        means = (each.view(len(rows), -1).sum(dim=1) / max(len(targets), 1) for each in (losses, hits))
        return loss, *means

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        exit_layer: int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        **kwargs,
    ) -> MaskedLMOutput:
        """Predicts tokens at one exit. With labels, the loss is Σ_i w_i MLM_i over the exits up to it.

        Args:
            labels: (batch, tokens), the token to predict, -100 where there is none.
            exit_layer: one of `exit_layers`; None: the deepest built.
            num_items_in_batch: masked tokens that the losses are divided by, those of all batches of a step;
                None: those of this batch.

        Other arguments as in `MoSEModel`. Returns `logits` (batch, tokens, vocab) at the exit, except in training
        with labels, where every logit would outweigh the model.
        """
        hidden_states, attentions = self.model._recorders(output_hidden_states, output_attentions)
        chosen = () if labels is None else (labels != -100).nonzero(as_tuple=True)
        rows: dict[int, Tensor] = {}
        for depth, normed, _ in self.model.run(
            input_ids,
            attention_mask,
            position_ids,
            inputs_embeds,
            exit_layer,
            hidden_states,
            attentions,
            **kwargs,
        ):
            if labels is not None:
                rows[depth] = self._transform(normed, chosen, depth)
        loss = None
        if labels is not None:
            items = max(len(chosen[0]), 1) if num_items_in_batch is None else num_items_in_batch
            loss = self._mlm_loss(rows, labels[chosen], items)[0]
        wanted = labels is None or not self.training
        return MaskedLMOutput(
            loss=loss,
            logits=self.predictions(self._condition(normed, depth)) if wanted else None,
            hidden_states=None if hidden_states is None else tuple(hidden_states),
            attentions=None if attentions is None else tuple(attentions),
        )


class MoSEForPreTraining(MoSEForMaskedLM):
    """MLM and In-Context Classification at every exit (paper, section 3), one head for each task."""

    _heads_left_out = ()

    def __init__(self, config: MoSEConfig, exit_layer: int | None = None):
        super().__init__(config, exit_layer)
        config = self.config
        plain, conditioned = config.hidden_size, config.hidden_size + config.conditional_size
        read, judged = (conditioned, plain) if config.context_pooler == "conditioned" else (plain, conditioned)
        self.pooler = nn.Linear(read, config.hidden_size)
        self.seq_relationship = nn.Linear(judged, 2)
        self.post_init()

    def _context_logits(self, normed: Tensor, mask: Tensor, exit_layer: int) -> Tensor:
        states = last_token(normed, mask)
        if self.config.context_pooler == "conditioned":
            return self.seq_relationship(self.pooler(self._condition(states, exit_layer)).tanh())
        return self.seq_relationship(self._condition(self.pooler(states).tanh(), exit_layer))

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        context_labels: Tensor | None = None,
        exit_layer: int | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        num_items_in_batch: Tensor | int | None = None,
        num_examples_in_batch: Tensor | int | None = None,
        **kwargs,
    ) -> MoSEForPreTrainingOutput:
        """With labels, the loss L = Σ_i w_i (MLM_i + ICC_i) over the exits up to `exit_layer`, where w_i is
        `config.exit_weights`; without, the logits at `exit_layer`.

        Args:
            labels: (batch, tokens), the token to predict, -100 where there is none. Only the others reach the
                vocabulary projection.
            context_labels: (batch,), 1 where all snippets are from one repository, else 0.
            exit_layer: one of `exit_layers`; None: the deepest built.
            num_items_in_batch, num_examples_in_batch: what the sums of MLM and ICC are divided by where a step
                has several batches: the masked tokens and the examples of them all. None: those of this batch.
                With the first alone, as a plain `Trainer` gives it, a batch's ICC counts as much of its step's
                as its masked tokens do.

        Other arguments as in `MoSEModel`.
        """
        hidden_states, attentions = self.model._recorders(output_hidden_states, output_attentions)
        chosen = () if labels is None else (labels != -100).nonzero(as_tuple=True)
        rows: dict[int, Tensor] = {}
        context_losses, context_hits = [], []
        loss: Tensor | None = None
        context_share: Tensor | float = 1.0
        if num_examples_in_batch is not None and context_labels is not None:
            context_share = len(context_labels) / num_examples_in_batch
        elif num_items_in_batch is not None and labels is not None:
            context_share = len(chosen[0]) / max(num_items_in_batch, 1)  # a step may have none
        for depth, normed, mask in self.model.run(
            input_ids,
            attention_mask,
            position_ids,
            inputs_embeds,
            exit_layer,
            hidden_states,
            attentions,
            **kwargs,
        ):
            if labels is not None:
                rows[depth] = self._transform(normed, chosen, depth)
            if context_labels is not None:
                context_logits = self._context_logits(normed, mask, depth)
                part = F.cross_entropy(widen(context_logits), context_labels)
                context_losses.append(part.detach())
                context_hits.append(widen(context_logits.argmax(dim=1) == context_labels).mean())
                part = part * self.config.exit_weights[depth] * context_share
                loss = part if loss is None else loss + part
        mlm_losses = mlm_accuracies = None
        if labels is not None:
            items = max(len(chosen[0]), 1) if num_items_in_batch is None else num_items_in_batch
            part, mlm_losses, mlm_accuracies = self._mlm_loss(rows, labels[chosen], items)
            loss = part if loss is None else loss + part
        return MoSEForPreTrainingOutput(
            loss=loss,
            mlm_losses=mlm_losses,
            icc_losses=torch.stack(context_losses) if context_losses else None,
            mlm_accuracies=mlm_accuracies,
            icc_accuracies=torch.stack(context_hits) if context_hits else None,
            prediction_logits=self.predictions(self._condition(normed, depth)) if labels is None else None,
            context_logits=context_logits
            if context_labels is not None
            else self._context_logits(normed, mask, depth),
            hidden_states=None if hidden_states is None else tuple(hidden_states),
            attentions=None if attentions is None else tuple(attentions),
        )


class MoSEClassificationHead(nn.Module):
    """Classifies a sequence, or a pair `<sep> a <sep> b <cls>`, from the state of `<cls>`."""

    def __init__(self, config: MoSEConfig):
        super().__init__()
        self.dropout = nn.Dropout(config.residual_dropout)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.out_proj = nn.Linear(config.hidden_size, cast(int, config.num_labels))

    def forward(self, states: Tensor) -> Tensor:
        return self.out_proj(self.dropout(self.dense(self.dropout(states)).tanh()))


class MoSEForSequenceClassification(MoSEPreTrainedModel):
    """A classifier at every exit, read from `<cls>`."""

    def __init__(self, config: MoSEConfig, exit_layer: int | None = None):
        super().__init__(config, exit_layer)
        config = self.config
        self.num_labels = config.num_labels
        self.model = MoSEModel(config)
        self.classifiers = nn.ModuleDict({str(e): MoSEClassificationHead(config) for e in self.model.exit_layers})
        self.post_init()

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
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
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        exit_layer: int | None = None,
        output_all_exits: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        **kwargs,
    ) -> MoSESequenceClassifierOutput:
        """Classifies at one exit. With labels and no `exit_layer`, the loss is the weighted sum over all
        exits built; with `exit_layer`, the loss at that exit alone.

        Args:
            labels: (batch,), class indices; targets for regression (`num_labels` = 1); (batch, num_labels),
                floats, for several labels at once.
            exit_layer: one of `exit_layers`; None: the deepest built.
            output_all_exits: give every exit's logits, from one pass.

        Other arguments as in `MoSEModel`.
        """
        hidden_states, attentions = self.model._recorders(output_hidden_states, output_attentions)
        deepest = self.config.resolve_exit_layer(exit_layer)
        every = labels is not None and exit_layer is None
        exit_logits, exit_losses, total = [], [], None
        for depth, normed, mask in self.model.run(
            input_ids,
            attention_mask,
            position_ids,
            inputs_embeds,
            deepest,
            hidden_states,
            attentions,
            **kwargs,
        ):
            if not (every or output_all_exits or depth == deepest):
                continue
            exit_logits.append(self.classifiers[str(depth)](last_token(normed, mask)))
            if labels is not None and (every or depth == deepest):
                loss = self._loss(exit_logits[-1], labels)
                exit_losses.append(loss.detach())
                loss = loss * self.config.exit_weights[depth] if every else loss
                total = loss if total is None else total + loss
        return MoSESequenceClassifierOutput(
            loss=total,
            logits=exit_logits[-1],
            exit_losses=torch.stack(exit_losses) if exit_losses else None,
            exit_logits=tuple(exit_logits) if output_all_exits else None,
            hidden_states=None if hidden_states is None else tuple(hidden_states),
            attentions=None if attentions is None else tuple(attentions),
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
