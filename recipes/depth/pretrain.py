#!/usr/bin/env python
"""Pre-train the trunk of one arm on contexts of `prepare.py`: MLM and ICC at every exit, or less.

    python recipes/depth/pretrain.py --arm all --contexts runs/depth/contexts.npz --output-dir runs/depth/all

Arms: `all` (MLM + ICC at every exit), `deepest` (MLM + ICC at the deepest exit only), `mlm` (MLM alone, at every
exit). All see the same contexts in the same order. The loop keeps the contexts on the device, masks them there
and compiles the blocks; `train_hf.py pretrain` has the same losses for corpora of any size.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from arrays import DeviceTexts, load
from torch import Tensor
from training_steps import (
    MAX_NORM,
    choose_device,
    compile_blocks,
    eager_blocks,
    make_optimizer,
    set_learning_rate,
)

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEForPreTraining
from mose.utils.command_line import exit_status

BLOCKS, EXITS = 6, (1, 2, 3, 4, 6)
ARMS = ("all", "deepest", "mlm")
SIZE, MLM_SHARE = 512, 0.15
FIRST_ORDINARY = 4  # ids below are pad, sep, cls and mask
#: Parts of the trunk that only embeddings use.
EMBEDDING_ONLY = ("similarity_scale", ".gate.", ".projection.")


def pretraining_model(arm: str, vocabulary: int) -> MoSEForPreTraining:
    """Return the untrained model of an arm."""
    exits = (BLOCKS,) if arm == "deepest" else EXITS
    config = MoSEConfig.from_preset(
        "mose-nano-256", num_hidden_layers=BLOCKS, exit_layers=list(exits), vocab_size=vocabulary
    )
    model = MoSEForPreTraining(config)
    for name, parameter in model.named_parameters():
        if any(part in f".{name}." for part in EMBEDDING_ONLY):
            parameter.requires_grad_(False)
    return model


def mask_tokens(ids: Tensor, generator: torch.Generator, mask_id: int, vocabulary: int) -> tuple[Tensor, Tensor]:
    """Return the inputs and labels of masked language modelling, BERT's 80/10/10 rule; both (batch, tokens)."""
    chosen = torch.rand(ids.shape, generator=generator, device=ids.device) < MLM_SHARE
    chosen &= ids >= FIRST_ORDINARY
    kind = torch.rand(ids.shape, generator=generator, device=ids.device)
    noise = torch.randint(FIRST_ORDINARY, vocabulary, ids.shape, generator=generator, device=ids.device)

    inputs = torch.where(chosen & (kind < 0.8), mask_id, ids)
    inputs = torch.where(chosen & (kind >= 0.9), noise, inputs)
    return inputs, torch.where(chosen, ids, -100)


def batch_inputs(
    arm: str, texts: DeviceTexts, labels: Tensor, rows: Tensor, generator: torch.Generator, config: MoSEConfig
) -> dict[str, Tensor]:
    """Return the model's inputs for contexts."""
    ids, mask = texts.batch(rows, SIZE)
    inputs, targets = mask_tokens(ids, generator, config.mask_token_id, config.vocab_size)
    batch = {"input_ids": inputs, "attention_mask": mask, "labels": targets}
    return batch if arm == "mlm" else {**batch, "context_labels": labels[rows]}


@torch.no_grad()
def held_out_metrics(model: MoSEForPreTraining, arm: str, texts: DeviceTexts, labels: Tensor, batch: int) -> dict:
    """Return loss and accuracy of both tasks per exit on held-out contexts, with the same masks every time."""
    generator = torch.Generator(texts.ids.device).manual_seed(0)
    sums: dict[str, Tensor] = {}
    model.eval()
    with eager_blocks(model.model):
        starts = range(0, len(texts) - batch + 1, batch)
        for start in starts:
            rows = torch.arange(start, start + batch, device=texts.ids.device)
            with autocast(texts.ids.device):
                outputs = model(**batch_inputs(arm, texts, labels, rows, generator, model.config))
            for name in ("mlm_losses", "mlm_accuracies", "icc_losses", "icc_accuracies"):
                if getattr(outputs, name) is not None:
                    sums[name] = sums.get(name, 0) + getattr(outputs, name)
    model.train()

    exits = model.config.exit_layers
    return {name: dict(zip(exits, (total / len(starts)).tolist(), strict=True)) for name, total in sums.items()}


def autocast(device: torch.device) -> torch.autocast:
    """Return the context of computing in bf16."""
    return torch.autocast(device.type, torch.bfloat16)


def train(options: argparse.Namespace) -> None:
    """Train one arm, and save the model, its log and its settings."""
    device = choose_device()
    torch.manual_seed(options.seed)
    texts, columns = load(options.contexts)
    data = {name: values.to(device) for name, values in texts.items()}
    labels = {name: torch.from_numpy(columns[f"{name}_labels"].astype(np.int64)).to(device) for name in texts}
    data["held_out"].starts = data["held_out"].starts[: options.eval_contexts]

    model = pretraining_model(options.arm, options.vocab_size).to(device)
    if options.compile:
        compile_blocks(model.model)
    optimizer = make_optimizer(model, options.learning_rate, {})
    generator = torch.Generator(device).manual_seed(options.seed)
    order = np.random.default_rng(options.seed)
    log: list[dict] = []
    queue = np.zeros(0, np.int64)
    steps, started = options.max_steps, time.perf_counter()

    for step in range(options.max_steps):
        if len(queue) < options.batch_size:
            queue = np.concatenate([queue, order.permutation(len(data["train"]))])
        rows, queue = torch.from_numpy(queue[: options.batch_size]).to(device), queue[options.batch_size :]

        set_learning_rate(optimizer, step, steps)
        inputs = batch_inputs(options.arm, data["train"], labels["train"], rows, generator, model.config)
        with autocast(device):
            outputs = model(**inputs)
        outputs.loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

        if step % options.log_every == 0 or step + 1 == steps:
            entry = {"step": step, "seconds": time.perf_counter() - started, "loss": outputs.loss.item()}
            entry |= {"gradient_norm": norm.item()}
            if not np.isfinite(entry["loss"]):
                raise RuntimeError(f"loss must be finite, got {entry['loss']} at step {step}. Lower the rate.")
            if step % options.eval_every == 0 or step + 1 == steps:
                entry |= held_out_metrics(
                    model, options.arm, data["held_out"], labels["held_out"], options.batch_size
                )
            log.append(entry)
            print(options.arm, json.dumps(entry), flush=True)

    options.output_dir.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(options.output_dir)
    mean = float(data["train"].lengths.clamp(max=SIZE).float().mean())
    facts = {
        "arm": options.arm,
        "steps": steps,
        "batch_size": options.batch_size,
        "tokens": round(steps * options.batch_size * mean),
        "contexts": len(data["train"]),
        "learning_rate": options.learning_rate,
        "seed": options.seed,
        "seconds": time.perf_counter() - started,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
    }
    (options.output_dir / "pretraining.json").write_text(json.dumps(facts | {"log": log}, indent=1))


def main() -> int:
    """Train one arm and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", choices=ARMS, required=True, help="what is trained at which exits")
    parser.add_argument("--contexts", type=Path, required=True, help="file of prepare.py contexts")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the model and its log")
    parser.add_argument("--vocab-size", type=int, default=16_384, help="tokens of the tokenizer")
    parser.add_argument("--max-steps", type=int, default=6500, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=32, help="contexts of a step")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="peak rate")
    parser.add_argument("--eval-contexts", type=int, default=1024, help="held-out contexts to evaluate on")
    parser.add_argument("--eval-every", type=int, default=500, help="steps between evaluations")
    parser.add_argument("--log-every", type=int, default=50, help="steps between lines of the log")
    parser.add_argument("--compile", action="store_true", help="compile the blocks (needs a compiler)")
    parser.add_argument("--seed", type=int, default=16, help="seed of weights, order and masks")
    options = parser.parse_args()
    return exit_status(parser.prog, lambda: train(options))


if __name__ == "__main__":
    sys.exit(main())
