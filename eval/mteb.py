"""A MoSE at one exit for MTEB (Muennighoff et al., 2023, arXiv 2210.07316), through MTEB's own interface.

    import mteb
    from mose.eval.mteb import MoSEEncoder

    results = mteb.evaluate(MoSEEncoder("owner/name", exit_layer=2), mteb.get_tasks(["CosQA"]))

Needs the extra `mteb`: `pip install 'mose[mteb]'`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
import torch
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import AbsEncoder, get_prompt_name
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.types import PromptType

from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval.tasks.coir import ENTRIES, SUBSET
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.tokenization.prompts import UNKNOWN_LANGUAGE, prompt_for

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

#: MTEB's name of a CoIR task -> its entry in `mose.eval.tasks.coir`, which defines what is text and what is code.
COIR = {
    "AppsRetrieval": "apps",
    "CosQA": "cosqa",
    "SyntheticText2SQL": "synthetic-text2sql",
    "COIRCodeSearchNetRetrieval": "codesearchnet",
    "CodeSearchNetCCRetrieval": "codesearchnet-ccr",
    "CodeTransOceanDL": "codetrans-dl",
    "CodeTransOceanContest": "codetrans-contest",
    "StackOverflowQA": "stackoverflow-qa",
    "CodeFeedbackMT": "codefeedback-mt",
    "CodeFeedbackST": "codefeedback-st",
}


class MTEBEncoder(AbsEncoder):
    """An MTEB encoder for one exit of a MoSE; also importable as `MoSEEncoder`.

    Args:
        model_name: folder or Hub id of a MoSE.
        revision: version to name in MTEB's results. It does not select files.
        device: device of the model; None means a GPU if there is one.
        exit_layer: exit to measure; None means the deepest.
        max_length: tokens, prompt included, after which a text is truncated; None means the model's limit.
        dtype: compute type, by autocast; None means float32.
        prompts: prompts instead of the model's own, under MTEB's keys: `query`, `document`, a task's name, or
            `NAME-query`. The model's own prompt depends on the task, see `text_language`.
        trust_remote_code: run the code stored beside the weights, in place of the installed one.
        kwargs: ignored; MTEB passes more than it documents.

    Raises:
        ValueError: not a MoSE, or an exit that it does not have.
        OSError: there is no model.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        device: str | None = None,
        *,
        exit_layer: int | None = None,
        max_length: int | None = None,
        dtype: torch.dtype | None = None,
        prompts: Mapping[str, str] | None = None,
        trust_remote_code: bool = False,
        **kwargs: Any,
    ):
        requested = None if exit_layer is None else [exit_layer]
        self.model, self.tokenizer, exits = load_model(model_name, requested, device, trust_remote_code)
        self.exit_layer = exits[-1]
        self.max_length, self.dtype = max_length, dtype
        self.model_prompts: dict[str, str] = dict(prompts or {})
        self.mteb_model_meta = _model_meta(model_name, revision, self.model, self.exit_layer)

    def encode(
        self,
        inputs: "DataLoader",
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **kwargs: Any,
    ) -> np.ndarray:
        """Return (texts, dim) float32, rows of unit norm, in the order of the batches' texts."""
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = self.prompt(task_metadata, hf_subset, prompt_type)
        progress = bool(kwargs.get("show_progress_bar", False))

        options: dict[str, Any] = {"max_length": self.max_length, "dtype": self.dtype, "progress": progress}
        embeddings = encode(self.model, self.tokenizer, texts, [self.exit_layer], prompt, **options)
        return embeddings[self.exit_layer]

    def prompt(self, task_metadata: TaskMetadata, hf_subset: str, prompt_type: PromptType | None) -> str:
        """Return the prompt of every text of this kind: the caller's if there is one, else the model's own."""
        name = get_prompt_name(self.model_prompts, task_metadata, prompt_type)
        if name is not None:
            return self.model_prompts[name]
        return prompt_for(text_language(task_metadata, hf_subset, prompt_type), prompt_type == PromptType.query)


#: The documented name.
MoSEEncoder = MTEBEncoder


def text_language(task_metadata: TaskMetadata, hf_subset: str, prompt_type: PromptType | None) -> str:
    """Return the language of a task's texts: "en" for natural language, or the programming language.

    CoIR's tasks are known. In other tasks, queries of retrieval are text. The rest is code if the task's
    languages name code: in that language if it is the only one, otherwise in an unknown language.
    """
    # MTEB names one language for queries and documents of CoIR alike, so its metadata cannot tell.
    if task_metadata.name in COIR and prompt_type is not None:
        entry = ENTRIES[COIR[task_metadata.name]]
        kind = entry.queries if prompt_type == PromptType.query else entry.documents
        return hf_subset if kind == SUBSET else kind

    # MTEB keys the languages by subset, if there are subsets.
    names = task_metadata.eval_langs
    names = names.get(hf_subset, []) if isinstance(names, Mapping) else names
    code = [name.removesuffix("-Code") for name in names if name.endswith("-Code")]

    if prompt_type == PromptType.query or not code:
        return "en"
    return code[0] if len(code) == 1 else UNKNOWN_LANGUAGE


def _model_meta(name: str, revision: str | None, model: Any, exit_layer: int) -> ModelMeta:
    """Return what MTEB writes beside the results. The exit tells the results of one model apart."""
    names = ("release_date", "memory_usage_mb", "license", "public_training_code", "public_training_data")
    unknown: dict[str, Any] = dict.fromkeys(names)  # MTEB requires these
    return ModelMeta(
        loader=None,
        name=f"local/{Path(name).resolve().name}" if Path(name).is_dir() else name,
        revision=revision or "local",
        languages=["eng-Latn"],
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        max_tokens=model.config.max_position_embeddings,
        embed_dim=model.config.resolve_truncate_dim(),
        open_weights=True,
        framework=["PyTorch", "Transformers"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=True,
        training_datasets=None,
        experiment_kwargs={"exit_layer": exit_layer},
        **unknown,
    )


def local_task(data: RetrievalSet, languages: tuple[str, ...] = ("eng-Latn",)) -> AbsTaskRetrieval:
    """Return an MTEB task for a retrieval set, such as `load_retrieval_set` reads from a folder.

    Args:
        data: the set. MTEB has no use for its `language` columns.
        languages: the languages that MTEB knows instead, such as `("eng-Latn", "python-Code")`. They select the
            prompts.

    Returns:
        A task named after the set, with the split `test` and the main score NDCG@10.
    """
    attributes = {"metadata": _task_metadata(data.name, languages), "ignore_identical_ids": data.exclude_own}
    task = type("LocalTask", (AbsTaskRetrieval,), attributes)()

    # MTEB drops a query's own document from the results, but not from the judgements.
    qrels = {
        query: {key: grade for key, grade in grades.items() if not data.exclude_own or key != query}
        for query, grades in data.qrels.items()
    }

    corpus = {"id": list(data.document_ids), "text": list(data.documents), "title": [""] * len(data.documents)}
    tables = {
        "corpus": datasets.Dataset.from_dict(corpus),
        "queries": datasets.Dataset.from_dict({"id": list(data.query_ids), "text": list(data.queries)}),
        "relevant_docs": {key: qrels[key] for key in data.query_ids},
        "top_ranked": None,
    }

    # MTEB would download the dataset otherwise.
    task.dataset = {"default": {"test": tables}}
    task.data_loaded = True
    return task


def _task_metadata(name: str, languages: tuple[str, ...]) -> TaskMetadata:
    names = ("reference", "date", "domains", "task_subtypes", "license", "annotations_creators", "dialect")
    unknown: dict[str, Any] = dict.fromkeys((*names, "sample_creation", "bibtex_citation"))
    return TaskMetadata(
        name=name,
        description=f"The retrieval set {name}.",
        dataset={"path": f"local/{name}", "revision": "local"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=list(languages),
        main_score="ndcg_at_10",
        **unknown,
    )
