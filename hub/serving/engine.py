"""The model of a server: what embeds token ids at an exit, and how long that takes on this machine."""

import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from mose.handler import EndpointHandler
from mose.inference.encoding import Window, default_token_budget, length_sorted_batches
from mose.inference.loading import load_model
from mose.inference.static import StaticEncoder
from mose.utils.locations import package_folder

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
#: Texts and tokens of each of the two measurements that an exit's cost is fitted to.
PROBES = ((1, 16), (8, 128))
PROBE_ROUNDS = 3
#: Tokens of padding that take about as long as another pass of the model.
MAX_PADDING = 128
#: Name of the shipped model, whose folder is the package and is called anything.
SHIPPED_NAME = "mose-nano"


class ExitCost(NamedTuple):
    """Seconds that an exit takes: a constant, and so many for each token."""

    constant: float
    per_token: float

    def seconds(self, tokens: int) -> float:
        """Return the seconds of one pass over texts of so many tokens together."""
        return self.constant + self.per_token * tokens


class Engine:
    """A loaded MoSE. Exit 0 is a lookup without torch, where the model's files allow that.

    Args:
        source: folder or Hub id.
        device: None means a GPU if there is one.
        trust_remote_code: run the code beside the weights. If False, use the installed `mose`.
        max_texts: largest number of texts in a request.
        max_characters: largest number of characters in a request.
        dtype: a key of `DTYPES` to compute in; None means fp32 on a CPU, else the stored type.

    Raises:
        ValueError: `source` is another kind of model.
        OSError: there is no model at `source`.
    """

    def __init__(
        self,
        source: str,
        device: str | None = None,
        trust_remote_code: bool = False,
        max_texts: int = 1_024,
        max_characters: int = 2_000_000,
        dtype: str | None = None,
    ):
        model, tokenizer, self.exit_layers = load_model(source, None, device, trust_remote_code)
        stored = model.config.dtype
        self.dtype: torch.dtype = torch.float32
        if dtype is not None:
            self.dtype = DTYPES[dtype]
        # Loading widens the weights to float32, in which only CPUs are at full speed.
        elif model.device.type != "cpu" and isinstance(stored, torch.dtype):
            self.dtype = stored
        if model.device.type != "cpu":
            model.to(self.dtype)

        self.token_budget = default_token_budget(model.device)
        self.handler = EndpointHandler(source, max_texts, max_characters, loaded=(model, tokenizer))
        self.source, self.device = source, model.device
        is_shipped = Path(source).resolve() == package_folder()
        self.name = SHIPPED_NAME if is_shipped else Path(source).resolve().name
        self.static = _static_encoder(source) if 0 in self.exit_layers else None

    def embed_static(self, ids: list[list[int]], exit_layer: int) -> np.ndarray:
        """Return the embeddings of token ids at exit 0, (texts, dim) float32."""
        assert self.static is not None and exit_layer == 0
        return self.static.encode_ids(ids)

    def embed(self, ids: list[list[int]], exit_layer: int) -> np.ndarray:
        """Return the embeddings of token ids from a pass of the model, (texts, dim) float32."""
        model = self.handler.model
        window = Window.of(ids, self.handler.pad_token_id)
        vectors = np.empty((len(ids), self.handler.dim), dtype=np.float32)

        # Once for all batches, since autocast keeps the weights that it has cast. The sums of a CPU stay float32.
        needs_cast = self.device.type == "cpu" and self.dtype != torch.float32
        autocast = torch.autocast(self.device.type, dtype=self.dtype, enabled=needs_cast)
        with torch.inference_mode(), autocast:
            for rows in length_sorted_batches(window.lengths, self.token_budget, MAX_PADDING):
                batch = {name: tensor.to(self.device) for name, tensor in window.batch(rows).items()}
                vectors[rows] = model(**batch, exit_layer=exit_layer).pooler_output.float().cpu().numpy()
        return vectors

    def measure_costs(self) -> dict[int, ExitCost]:
        """Return exit -> its cost, as measured now. Deeper exits never cost less than shallower ones."""
        costs: dict[int, ExitCost] = {}
        (texts, tokens), (more_texts, more_tokens) = PROBES
        floor = ExitCost(0.0, 0.0)

        for exit_layer in self.exit_layers:
            few, many = (self._time_probe(exit_layer, *probe) for probe in PROBES)
            slope = max((many - few) / (more_texts * more_tokens - texts * tokens), floor.per_token)
            floor = ExitCost(max(few - slope * texts * tokens, floor.constant), slope)
            costs[exit_layer] = floor
        return costs

    def _time_probe(self, exit_layer: int, texts: int, tokens: int) -> float:
        """Return the seconds of the fastest of a few passes."""
        embed = self.embed_static if exit_layer == 0 and self.static else self.embed
        token = self.handler.tokenizer.encode("a", add_special_tokens=False).ids[0]
        ids = [[token] * min(tokens, self.handler.longest)] * texts

        seconds = []
        for _ in range(PROBE_ROUNDS):
            start = time.perf_counter()
            embed(ids, exit_layer)
            seconds.append(time.perf_counter() - start)
        return min(seconds)


def _static_encoder(source: str) -> StaticEncoder | None:
    try:
        return StaticEncoder(source)
    except ValueError:  # an activation or a layout that only torch computes
        return None
