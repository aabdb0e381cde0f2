"""The processes that embed parts: this one, or actors of a Ray cluster that hold one model each."""

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from mose.inference.encoders import MoSEEncoder
from mose.inference.loading import load_model
from mose.inference.static import StaticEncoder
from mose.scale.parts import Columns, Part, read_part
from mose.scale.results import PartReport, ResultFolder
from mose.tokenization.prompts import prompt_for

logger = logging.getLogger("mose.scale")
#: CPUs of an actor, if the machines have as many.
CPUS_PER_ACTOR = 4
#: Blocks of parts that wait for each actor: enough to keep it busy, few enough to spread what is left at the end.
BLOCKS_PER_ACTOR = 8


@dataclass(frozen=True)
class EncodeSettings:
    """Everything that a process needs to embed a part. `fingerprint` is of the model that it must load."""

    model: str
    exits: tuple[int, ...]
    columns: Columns
    results: ResultFolder
    fingerprint: str
    query: bool = False
    max_length: int | None = None
    is_bf16: bool = False
    vector_type: str = "float32"
    device: str | None = None
    trust_remote_code: bool = False


class PartEncoder:
    """Embeds parts with one model.

    Args:
        settings: what to load, read and write.
        threads: of torch; None means its own choice.

    Raises:
        RuntimeError: this process finds another model at the same address.
    """

    def __init__(self, settings: EncodeSettings, threads: int | None = None):
        self.settings = settings
        if threads:
            torch.set_num_threads(threads)
        model, tokenizer, exits = load_model(
            settings.model, settings.exits, settings.device, settings.trust_remote_code
        )
        dtype = torch.bfloat16 if settings.is_bf16 else None
        self.encoder = MoSEEncoder(model, tokenizer, exits, settings.max_length, dtype, settings.model)
        if self.encoder.fingerprint() != settings.fingerprint:
            message = f"{settings.model} is another model here than where the run was started"
            raise RuntimeError(f"{message}. Name a folder that all machines share, or a Hub id.")
        self.static = self._static_encoder()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Embed the parts of a batch of Ray Data, and return their reports."""
        reports = [self.encode(Part.from_json(str(text))) for text in batch["part"]]
        return {
            "key": [report.key for report in reports],
            "rows": [report.rows for report in reports],
            "left_out": [report.left_out for report in reports],
            "problems": np.array([*("\n".join(report.problems) for report in reports)], dtype=object),
            "error": np.array([report.error for report in reports], dtype=object),
            "process": [os.getpid()] * len(reports),
        }

    def encode(self, part: Part) -> PartReport:
        """Read, embed and write a part. What goes wrong with it is in the report: other parts go on."""
        try:
            rows = read_part(part, self.settings.columns)
            report = PartReport(part.key, len(rows.texts), rows.left_out, rows.problems)
            vectors = self._embed(rows.texts, rows.languages)
            self.settings.results.write(report, part.source, rows, vectors, self.settings.vector_type)
        # Libraries raise many types for damaged files.
        except Exception as error:
            return PartReport(part.key, error=f"{part.source}: {type(error).__name__}: {str(error)[:300]}")
        return report

    def _embed(self, texts: Sequence[str], languages: Sequence[str]) -> dict[str, np.ndarray]:
        if not texts:
            dim = self.encoder.model.config.embedding_size
            return {key: np.empty((0, dim), dtype=np.float32) for key in self.encoder.keys}
        if self.static is not None:
            prompts = [prompt_for(language, self.settings.query) for language in languages]
            return {"0": self.static.encode(texts, prompts)}
        return self.encoder.encode(texts, languages, self.settings.query)

    def _static_encoder(self) -> StaticEncoder | None:
        """Return the encoder that looks exit 0 up, if that is all that is asked for and it can."""
        if self.encoder.exits != (0,) or self.settings.is_bf16:
            return None
        try:
            return StaticEncoder(self.settings.model, max_length=self.settings.max_length)
        except ValueError:  # an activation or a layout that only torch computes
            return None


def encode_here(settings: EncodeSettings, parts: Sequence[Part]) -> Iterator[PartReport]:
    """Embed parts in this process, and yield the report of each."""
    encoder = PartEncoder(settings)
    for part in parts:
        yield encoder.encode(part)


def encode_on_ray(
    settings: EncodeSettings,
    parts: Sequence[Part],
    address: str | None = None,
    workers: int | None = None,
    cpus: int | None = None,
) -> Iterator[PartReport]:
    """Embed parts on a Ray cluster, and yield the report of each as it comes.

    A part whose actor or machine dies is embedded again by another.

    Args:
        settings: what to load, read and write. All machines must reach the model, the corpus and the results.
        parts: the work.
        address: of the cluster; "local" starts one on this machine; None means $RAY_ADDRESS, or a local one.
        workers: actors. None means as many as the cluster has space for.
        cpus: CPUs of an actor, and its threads if it has no GPU. None means 4, or fewer on small machines.
    """
    import ray  # of the extra [ray], and slow to import
    from ray.data import ActorPoolStrategy, DataContext

    started = not ray.is_initialized()
    if started:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    try:
        # Its lines about plans and progress would hide ours.
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        DataContext.get_current().enable_progress_bars = False

        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        pool = size_pool(machines, workers, cpus, allow_gpus=settings.device != "cpu")
        count = min(pool.workers, len(parts))
        rows = [{"part": part.to_json()} for part in parts]
        blocks = min(len(rows), count * BLOCKS_PER_ACTOR)
        reports = ray.data.from_items(rows, override_num_blocks=blocks).map_batches(
            PartEncoder,
            fn_constructor_args=(settings, None if pool.gpus else pool.cpus),
            batch_size=1,
            compute=ActorPoolStrategy(size=count),
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
        )
        for row in reports.iter_rows():
            problems = row["problems"].split("\n") if row["problems"] else []
            yield PartReport(row["key"], row["rows"], row["left_out"], problems, row["error"])
    finally:
        if started:
            ray.shutdown()


class WorkerPool(NamedTuple):
    """The number of actors, and the CPUs and GPUs of each."""

    workers: int
    cpus: int
    gpus: int


def size_pool(
    machines: Sequence[Mapping[str, float]], workers: int | None, cpus: int | None, allow_gpus: bool
) -> WorkerPool:
    """Return the actors that suit a cluster.

    Args:
        machines: the resources of each, as Ray counts them: "CPU" and "GPU".
        workers: number of actors; None means as many as there is space for.
        cpus: CPUs of an actor; None means 4, or fewer if the machines have fewer.
        allow_gpus: give each actor a GPU, if the cluster has any.
    """
    places = [(int(machine.get("CPU", 0)), int(machine.get("GPU", 0))) for machine in machines]
    gpus = int(allow_gpus and any(count for _, count in places))
    if cpus is None:
        # The actors of a machine with GPUs share its CPUs, and none of its GPUs should be left over.
        shares = [size // count for size, count in places if count] if gpus else [max(places, default=(1, 0))[0]]
        cpus = max(1, min(CPUS_PER_ACTOR, *shares))

    space = sum(min(size // cpus, count if gpus else size) for size, count in places)
    if space == 0:
        logger.warning("no machine of the cluster has %d CPUs: waiting for one that has", cpus)
    elif workers is not None and workers > space:
        logger.warning("the cluster has space for %d workers of %d CPUs now, not for %d", space, cpus, workers)
    return WorkerPool(workers or max(1, space), cpus, gpus)
