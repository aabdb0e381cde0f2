"""Reference implementation of the pre-training heads and losses that keeps every logit."""

import torch
from torch.nn import functional as F

CONTEXT = torch.tensor([0, 1, 1])


def masked_labels(batch: dict[str, torch.Tensor], share: float = 0.4) -> torch.Tensor:
    torch.manual_seed(2)
    chosen = (torch.rand(batch["input_ids"].shape) < share) & (batch["attention_mask"] == 1)
    return torch.where(chosen, batch["input_ids"], -100)


def head_states(model, batch, exit_layer: int) -> torch.Tensor:
    """Return what the heads read: (batch, tokens, hidden + conditional_size)."""
    states = model.model(**batch, exit_layer=exit_layer).last_hidden_state
    index = list(model.config.exit_layers).index(exit_layer)
    condition = model.conditional_embeddings.weight[index]
    return torch.cat((states, condition.expand(*states.shape[:2], -1)), dim=-1)


def plain_logits(model, batch, exit_layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return every token's MLM logits and the ICC logits, as in BERT."""
    states = head_states(model, batch, exit_layer)
    transform = model.predictions.transform
    hidden = F.gelu(states @ transform.dense.weight.T + transform.dense.bias, approximate="tanh")
    hidden = F.layer_norm(hidden, (32,), transform.LayerNorm.weight, transform.LayerNorm.bias, eps=1e-5)
    logits = hidden @ model.model.embed_tokens.weight.T + model.predictions.decoder.bias
    last = [int(row.nonzero().max()) for row in batch["attention_mask"]]
    pooled = torch.tanh(model.pooler(states[range(len(last)), last]))
    return logits, model.seq_relationship(pooled)


def plain_loss(model, batch, labels, context_labels, exits) -> torch.Tensor:
    """Return Σ_i w_i (MLM_i + ICC_i) over `exits` of a model of three blocks."""
    total = torch.zeros((), dtype=torch.float64)
    for exit_layer in exits:
        logits, context_logits = plain_logits(model, batch, exit_layer)
        mlm = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        total = total + max(exit_layer, 1) / 3 * (mlm + F.cross_entropy(context_logits, context_labels))
    return total
