"""Synthetic released checkpoints: transformers' Starcoder2Model with the published heads.

Independent of the code under test. As in the released code, all blocks are run and hidden states are picked
afterwards. Heads, pooling and normalisation are written out token by token.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast, Starcoder2Config, Starcoder2Model

CORPUS = [
    "def add(first, second):\n    return first + second",
    "Represent this python code snippet for retrieval:",
]
CARD = """---
license: bigcode-openrail-m
language: [code]
datasets:
- bigcode/the-stack-v2
---
# A released model
"""


class Released(nn.Module):
    """A released model of any size.

    Args:
        exits: its exits; the last is the number of blocks.
        heads: number of linear layers of each projection head; 0 means no heads.
        pretraining: whether it has the heads of pre-training.
    """

    def __init__(
        self,
        exits: tuple[int, ...] = (1, 2, 4),
        heads: int = 2,
        pretraining: bool = False,
        hidden: int = 32,
        vocab: int = 328,
        theta: float = 999_999.44,
        epsilon: float = 1e-3,
        seed: int = 0,
    ):
        super().__init__()
        torch.manual_seed(seed)
        self.exits = exits
        self.settings: dict[str, Any] = {
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": 48,
            "num_hidden_layers": exits[-1],
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "norm_epsilon": epsilon,
            "initializer_range": 0.1,
            "use_bias": True,
            "hidden_act": "gelu_pytorch_tanh",
            "pad_token_id": 0,
            "attention_dropout": 0.1,
            "residual_dropout": 0.1,
            "embedding_dropout": 0.1,
        }
        rope = {"rope_type": "default", "rope_theta": theta}
        config = Starcoder2Config(**self.settings, rope_parameters=rope, attn_implementation="eager")
        config.is_causal = False
        self.starEncoder2 = Starcoder2Model(config)
        self.settings |= {
            "model_type": "ModularStarEncoder",
            "rope_theta": theta,
            "matryoshka_layers": list(exits),
            "layer_matryoshka_loss": True,
            "conditional_size": 4,
            "sliding_window": None,
        }
        if heads:
            self.projection_heads = nn.ModuleList()
            for _ in exits:
                layers: list[nn.Module] = [nn.Linear(hidden, hidden)]
                for _ in range(heads - 1):
                    layers += [nn.LeakyReLU(), nn.Linear(hidden, hidden)]
                self.projection_heads.append(nn.Sequential(*layers))
        if pretraining:
            conditioned = hidden + 4
            self.conditional_embeddings = nn.Embedding(len(exits), 4)
            self.predictions = nn.ModuleDict(
                {
                    "transform": nn.ModuleDict(
                        {"dense": nn.Linear(conditioned, hidden), "LayerNorm": nn.LayerNorm(hidden, epsilon)}
                    ),
                    "decoder": nn.Linear(hidden, vocab),
                }
            )
            self.pooler = nn.ModuleDict({"dense": nn.Linear(hidden, hidden)})
            self.seq_relationship = nn.Linear(conditioned, 2)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.1)
        self.eval()

    @torch.no_grad()
    def states(self, ids: Tensor, mask: Tensor) -> dict[int, Tensor]:
        """Run all blocks and return the states at the exits; only those of the last one are normed."""
        every = self.starEncoder2(
            ids,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        return {e: every[e] for e in self.exits}

    @torch.no_grad()
    def embeddings(self, ids: Tensor, mask: Tensor, pooling: str, norm: str) -> dict[int, Tensor]:
        """Return the embeddings per exit, (batch, hidden)."""
        result = {}
        for number, (e, states) in enumerate(self.states(ids, mask).items()):
            head = self.projection_heads[number] if hasattr(self, "projection_heads") else nn.Identity()
            rows = []
            for row, real in zip(states, mask.bool(), strict=True):
                tokens = torch.stack([head(token) for token in row[real]])
                vector = tokens[-1] if pooling == "cls" else tokens.sum(0) / len(tokens)
                length = vector.norm()
                rows.append(vector / (length if norm == "unit" or length > 1 else 1))
            result[e] = torch.stack(rows)
        return result

    @torch.no_grad()
    def heads(self, ids: Tensor, mask: Tensor) -> dict[int, tuple[Tensor, Tensor]]:
        """Return per exit the MLM logits (batch, tokens, vocab) and the ICC logits (batch, 2)."""
        result = {}
        for number, (e, states) in enumerate(self.states(ids, mask).items()):
            condition = self.conditional_embeddings.weight[number]
            both = torch.cat((states, condition.expand(*states.shape[:2], -1)), dim=-1)
            transform = self.predictions["transform"]
            inner = transform["LayerNorm"](F.gelu(transform["dense"](both), approximate="tanh"))
            last = [int(row.nonzero().max()) for row in mask]
            pooled = torch.tanh(self.pooler["dense"](states[range(len(ids)), last]))
            conditioned = torch.cat((pooled, condition.expand(len(ids), -1)), dim=-1)
            result[e] = (self.predictions["decoder"](inner), self.seq_relationship(conditioned))
        return result

    def tensors(self, heads_prefix: str = "") -> dict[str, Tensor]:
        """Return the state dict as a checkpoint stores it, with a prefix on the names of the heads."""
        return {
            name if name.startswith("starEncoder2.") else heads_prefix + name: tensor.clone()
            for name, tensor in self.state_dict().items()
        }


def write(
    folder: Path,
    tensors: dict[str, Tensor],
    settings: dict[str, Any],
    shards: int = 1,
    card: str | None = CARD,
) -> Path:
    """Write a released repository: weights in a number of files, configuration, tokenizer, card."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(settings))
    if shards == 1:
        save_file(tensors, folder / "model.safetensors")
    else:
        names, places = sorted(tensors), {}
        for shard in range(shards):
            file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
            part = names[shard::shards]
            save_file({name: tensors[name] for name in part}, folder / file)
            places |= dict.fromkeys(part, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    if card is not None:
        (folder / "README.md").write_text(card)
    tokenizer().save_pretrained(folder)
    return folder


def truncated(tensors: dict[str, Tensor], exit_layer: int) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint without the blocks after an exit."""
    return {
        name: tensor
        for name, tensor in tensors.items()
        if not name.startswith("starEncoder2.layers.") or int(name.split(".")[2]) < exit_layer
    }


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE without post-processor, with special tokens at its end like StarCoder-2's."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    backend.add_special_tokens(["<sep>", "<cls>", "<mask>"])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="<|end|>",
        sep_token="<sep>",
        cls_token="<cls>",
        mask_token="<mask>",
        padding_side="left",
    )
