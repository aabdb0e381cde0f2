"""What every Trainer here logs beside the loss: a figure for each part and exit, averaged between two lines."""

from collections import defaultdict

import torch
from torch import Tensor

from mose.training.hub import HubTrainer


class FigureTrainer(HubTrainer):
    """A `Trainer` whose log takes up what was noted since its last line, those of an evaluation with `eval_`."""

    model: torch.nn.Module

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._parts: dict[bool, dict[str, list[Tensor]]] = {True: defaultdict(list), False: defaultdict(list)}

    def _note(self, name: str, value: Tensor) -> None:
        """Keeps a figure for the next line of the log, on the device: reading it would wait for the step."""
        self._parts[self.model.training][name].append(value.detach())

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        # "loss" while training, "eval_loss" after an evaluation; "train_loss" ends the run and is none of these.
        losses = [key for key in logs if key.endswith("loss") and key != "train_loss"]
        if losses:
            prefix = losses[0].removesuffix("loss")
            parts = self._parts[not prefix]
            if parts:
                means = torch.stack([torch.stack(values).mean() for values in parts.values()])
                means = self.accelerator.reduce(means, "mean")
                logs |= {prefix + name: mean for name, mean in zip(parts, means.tolist(), strict=True)}
            parts.clear()
        super().log(logs, start_time)
