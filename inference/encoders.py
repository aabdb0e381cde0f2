"""What turns the texts of a retrieval set into embeddings: one interface for a MoSE at its exits and for peers.

An encoder can be loaded again by another process, and says by a fingerprint what its embeddings depend on; so
corpora can be encoded by several processes, and kept on disk.
"""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from mose.inference.encoding import Progress, encode, fingerprint, wanted_exits
from mose.tokenization.prompts import prompt_for
from mose.utils.locations import is_hub_id


class Encoder(Protocol):
    """Gives every text one embedding under each of its keys.

    Attributes:
        name: what reports and folders call it.
        keys: the exits, or the one model.
        settings: what embeddings depend on beside weights and texts; ready for JSON.
        device: where it runs.
        load: makes the same encoder on the device named, in another process: pickle carries it there.
    """

    name: str
    keys: tuple[str, ...]
    settings: dict[str, Any]
    device: torch.device
    load: Callable[[str], "Encoder"]

    def fingerprint(self) -> str:
        """SHA-256 of the weights, of how they are used, and of the tokenizer."""
        ...

    def encode(
        self,
        texts: Sequence[str],
        languages: Sequence[str],
        query: bool,
        keys: Sequence[str] | None = None,
        progress: bool | Progress = False,
    ) -> dict[str, np.ndarray]:
        """Key → (texts, dim) float32, unit rows, under the keys wanted (None: all).

        Args:
            texts, languages: equally many; the languages choose the prompts where the model has such.
            query: whether the texts are queries or documents.
        """
        ...


def load_model(
    source: str,
    exit_layers: Sequence[int] | None = None,
    device: str | None = None,
    trust_remote_code: bool = True,
) -> tuple[Any, Any, tuple[int, ...]]:
    """A MoSE in float32, as deep as the wanted exits need, and its tokenizer.

    Args:
        source: a folder or a Hub id.
        exit_layers: the wanted exits; None means all.
        device: where to put it; None means a GPU where there is one.
        trust_remote_code: run the code that lies beside the weights; without it, the installed `mose` must do.

    Returns:
        model, tokenizer, the wanted exits.

    Raises:
        ValueError: no MoSE, or an exit that it does not have; found before any weights are read.
        OSError: nothing to load there.
    """
    from transformers import AutoModel, AutoTokenizer

    config = _config(source, trust_remote_code)
    wanted = wanted_exits(config, exit_layers)
    options = {"trust_remote_code": True} if trust_remote_code else {}
    model_class: Any = AutoModel
    if not trust_remote_code:
        from mose.modeling_mose import MoSEModel

        model_class = MoSEModel
    model = model_class.from_pretrained(source, exit_layer=wanted[-1], dtype=torch.float32, **options)
    tokenizer = AutoTokenizer.from_pretrained(source, config=config, **options)
    return model.to(device or default_device()).eval(), tokenizer, wanted


def find_exits(source: str, exit_layers: Sequence[int] | None) -> tuple[int, ...]:
    """The wanted exits of the MoSE at `source`, from its configuration alone.

    Raises:
        ValueError: no MoSE, or an exit that it does not have.
        OSError: nothing to load there.
    """
    return wanted_exits(_config(source, True), exit_layers)


def _config(source: str, trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    if not Path(source).is_dir() and not is_hub_id(source):
        raise FileNotFoundError("no such folder, and not the id of a Hub model (owner/name)")
    if trust_remote_code:
        config = AutoConfig.from_pretrained(source, trust_remote_code=True)
    else:
        from mose.configuration_mose import MoSEConfig

        config = MoSEConfig.from_pretrained(source)
    if not getattr(config, "exit_layers", None):
        raise ValueError(f"a {config.model_type!r} model has no exits; it can only be a peer")
    return config


def default_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class MoSEEncoder:
    """A MoSE at some of its exits, all of them from one pass; keys are exits as strings.

    Args:
        model, tokenizer: as `load_model` gives them.
        exit_layers: None means all that the model has built.
        max_length: tokens after which a text is cut off; None means what the model allows.
        dtype: compute type, by autocast; None means the type of the weights.
        source: from where another process can load the model.
        trust_remote_code: as for `load_model`.

    Raises:
        ValueError: an exit that the model does not have.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        exit_layers: Sequence[int] | None = None,
        max_length: int | None = None,
        dtype: torch.dtype | None = None,
        source: str | None = None,
        trust_remote_code: bool = True,
    ):
        self.model, self.tokenizer = model, tokenizer
        self.exits = wanted_exits(model.config, exit_layers)
        self.keys = tuple(map(str, self.exits))
        self.max_length, self.dtype = max_length, dtype
        source = source or model.name_or_path
        self.name = Path(source).resolve().name if Path(source).is_dir() else source.split("/")[-1]
        self.load = partial(_load_mose, source, self.exits, max_length, dtype, trust_remote_code)

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def settings(self) -> dict[str, Any]:
        return {"max_length": self.max_length, "dtype": str(self.dtype)}

    def fingerprint(self) -> str:
        return fingerprint(self.model, self.tokenizer, self.exits[-1])

    def encode(
        self,
        texts: Sequence[str],
        languages: Sequence[str],
        query: bool,
        keys: Sequence[str] | None = None,
        progress: bool | Progress = False,
    ) -> dict[str, np.ndarray]:
        exits = self.exits if keys is None else [int(key) for key in keys]
        prompts = [prompt_for(language, query) for language in languages]
        found = encode(
            self.model,
            self.tokenizer,
            texts,
            exits,
            prompts,
            self.max_length,
            dtype=self.dtype,
            progress=progress,
        )
        return {str(exit_layer): embeddings for exit_layer, embeddings in found.items()}


def _load_mose(
    source: str,
    exits: Sequence[int],
    max_length: int | None,
    dtype: torch.dtype | None,
    trust_remote_code: bool,
    device: str,
) -> MoSEEncoder:
    model, tokenizer, _ = load_model(source, exits, device, trust_remote_code)
    return MoSEEncoder(model, tokenizer, exits, max_length, dtype, source, trust_remote_code)
