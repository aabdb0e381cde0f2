"""One process of the two in `test_ranks.py`: `python ranks_worker.py WORK`, with the variables of torchrun.

Writes what it found to WORK/found-RANK.pt; what it works on is in WORK/given.pt.
"""

import os
import sys
from pathlib import Path

import torch
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from mose.data.retrieval.collator import PairCollator
from mose.modeling_mose import MoSEModel
from mose.training.finetuning.arguments import FineTuningArguments
from mose.training.finetuning.gradcache import embed, gather, gather_ranks
from mose.training.finetuning.objective import Batch, Objective
from mose.training.finetuning.trainer import FineTuningTrainer
from mose.training.setup import load_tokenizer


def gradients(given: dict, rank: int, world: int) -> dict[str, torch.Tensor]:
    """Of the parameters, by `embed`, `gather` and the objective, each process with its part of the batch."""
    model = MoSEModel.from_pretrained(
        given["model"], attention_dropout=0, residual_dropout=0, embedding_dropout=0
    )
    model.double().train()
    wrapped = DistributedDataParallel(model) if world > 1 else model
    rows = slice(0, 5) if world == 1 else (slice(0, 3), slice(3, 5))[rank]  # which no number of processes divides
    own = slice(0, 2) if world == 1 else (slice(0, 0), slice(0, 2))[rank]  # hard negatives: the first has none
    sides = [(ids[part], mask[part]) for (ids, mask), part in zip(given["sides"], (rows, rows, own), strict=True)]
    (queries, documents, negatives), scale = embed(wrapped, sides, 2)
    pairs, further = gather_ranks(rows.stop - rows.start), gather_ranks(own.stop - own.start)

    def everyone(exits, over):
        return {e: gather(embeddings, over) for e, embeddings in exits.items()}

    batch = Batch(everyone(queries, pairs), everyone(documents, pairs), scale, pairs.rows)
    batch.keys = gather(given["keys"][rows], pairs)
    batch.hard_negatives = everyone(negatives, further)
    batch.hard_negative_keys = gather(given["negative_keys"][own], further)
    loss, _ = Objective(align_weight=0.5, distillation="kl")(batch, model.config.exit_weights)
    (loss * pairs.share).backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def trained(given: dict, work: Path, world: int) -> tuple[dict[str, torch.Tensor], list[dict]]:
    """Parameters after a step of the Trainer on the same eight pairs, and its log."""
    model = MoSEModel.from_pretrained(
        given["model"], attention_dropout=0, residual_dropout=0, embedding_dropout=0
    )
    arguments = FineTuningArguments(
        output_dir=str(work / f"out-{world}"),
        use_cpu=True,
        max_steps=1,
        per_device_train_batch_size=8 // world,
        per_device_eval_batch_size=6 // world,
        mini_batch_size=3,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        save_strategy="no",
        disable_tqdm=True,
        distillation="cosine",
        ddp_backend="gloo" if world > 1 else None,
    )
    tokenizer = load_tokenizer(given["model"])
    trainer = FineTuningTrainer(
        model=model,
        args=arguments,
        train_dataset=given["pairs"],
        eval_dataset=given["pairs"],
        processing_class=tokenizer,
        data_collator=PairCollator(tokenizer, 64, 64),
    )
    trainer.train()
    trainer.evaluate()
    return {name: value.detach() for name, value in model.named_parameters()}, trainer.state.log_history


def find(given: dict, work: Path, rank: int = 0, world: int = 1) -> dict:
    """What is compared: gradients, parameters after a step, the log."""
    found: dict = {"gradients": gradients(given, rank, world)}
    found["parameters"], found["log"] = trained(given, work, world)
    return found


def main(work: Path) -> None:
    world, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    given = torch.load(work / "given.pt", weights_only=False)
    dist.init_process_group("gloo")
    torch.save(find(given, work, rank, world), work / f"found-{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
