"""One of two processes of `torchrun faulty_rank.py FAULT STEPS FOLDER WORDS…`, of which the second goes wrong.

FAULT is what happens to rank 1 in the STEPS (such as 2,3): "loss" (its loss is NaN, all gradients are finite),
"gradient" (its loss and gradient are NaN), "SIGTERM" or "SIGINT". WORDS are those of `train_hf.py`. Each process
writes FOLDER/rank-N.json: exit status, steps done, steps skipped, and the checksum of the weights.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path

import torch
from transformers import Trainer

from mose.train_hf import main
from mose.training.trainer import MoSETrainer


def checksum(model: torch.nn.Module) -> str:
    digest = hashlib.sha256()
    for parameter in model.parameters():
        digest.update(parameter.detach().numpy().tobytes())
    return digest.hexdigest()


def install(fault: str, steps: set[int], found: dict) -> None:
    """Patch the Trainer so that rank 1 goes wrong, and both note what they end with."""
    training_step, train = Trainer.training_step, MoSETrainer.train
    is_faulty = os.environ["RANK"] == "1"

    def faulty_step(self, *args, **kwargs):
        loss = training_step(self, *args, **kwargs)
        if not is_faulty or self.state.global_step + 1 not in steps:
            return loss
        if fault.startswith("SIG"):
            os.kill(os.getpid(), signal.Signals[fault])
            return loss
        if fault == "gradient":
            next(p for p in self.model.parameters() if p.grad is not None).grad.fill_(float("nan"))
        return loss * float("nan")

    def noted_train(self, *args, **kwargs):
        try:
            return train(self, *args, **kwargs)
        finally:
            found["steps"] = self.state.global_step
            found["skipped"] = self.skipped_steps
            found["weights"] = checksum(self.model)
            found["finite"] = all(bool(p.isfinite().all()) for p in self.model.parameters())

    Trainer.training_step = faulty_step
    MoSETrainer.train = noted_train


if __name__ == "__main__":
    fault, steps, folder, *words = sys.argv[1:]
    found: dict = {}
    install(fault, set(map(int, steps.split(","))), found)
    found["status"] = main(words)
    (Path(folder) / f"rank-{os.environ['RANK']}.json").write_text(json.dumps(found))
    sys.exit(found["status"])
