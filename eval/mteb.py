"""A MoSE at one exit for MTEB (Muennighoff et al., 2023, arXiv 2210.07316), by MTEB's own interface.

    import mteb
    from mose.eval.mteb import MoSEEncoder

    results = mteb.evaluate(MoSEEncoder("owner/name", exit_layer=2), mteb.get_tasks(["CosQA"]))

Needs the optional dependency: `pip install -c constraints.txt -e ".[mteb]"` in a clone.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

#: MTEB's names of CoIR's tasks, whose queries and documents `mose.eval.tasks.coir` tells apart.
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


class MoSEEncoder(AbsEncoder):
    """What MTEB calls an encoder.

    Args:
        model_name: folder or Hub id of a MoSE.
        revision: what MTEB's results should say of the version; the files are those that `model_name` leads to.
        device: where it runs; None means a GPU where there is one.
        exit_layer: the exit to measure; None means the deepest.
        max_length: tokens, prompt included, after which a text is cut off; None means what the model allows.
        dtype: compute type, by autocast; None means float32.
        prompts: instructions in place of the model's own, under MTEB's keys: `query`, `document`, a task's name,
            or `NAME-query`. The model's own: text or code by what the task is about, see `language`.

    Raises:
        ValueError: no MoSE, or an exit that it does not have.
        OSError: nothing to load there.
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
        **kwargs: Any,
    ):
        wanted = None if exit_layer is None else [exit_layer]
        self.model, self.tokenizer, exits = load_model(model_name, wanted, device)
        self.exit_layer = exits[-1]
        self.max_length, self.dtype = max_length, dtype
        self.model_prompts: dict[str, str] = dict(prompts or {})
        self.mteb_model_meta = _meta(model_name, revision, self.model, self.exit_layer)

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
        """(texts, dim) float32, unit rows, in the order of the batches' texts."""
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = self.prompt(task_metadata, hf_subset, prompt_type)
        progress = bool(kwargs.get("show_progress_bar", False))
        found = encode(
            self.model,
            self.tokenizer,
            texts,
            [self.exit_layer],
            prompt,
            self.max_length,
            dtype=self.dtype,
            progress=progress,
        )
        return found[self.exit_layer]

    def prompt(self, task_metadata: TaskMetadata, hf_subset: str, prompt_type: PromptType | None) -> str:
        """The instruction in front of every text of this kind: the caller's, or else the model's own."""
        name = get_prompt_name(self.model_prompts, task_metadata, prompt_type)
        if name is not None:
            return self.model_prompts[name]
        return prompt_for(language(task_metadata, hf_subset, prompt_type), prompt_type == PromptType.query)


def language(task_metadata: TaskMetadata, hf_subset: str, prompt_type: PromptType | None) -> str:
    """What the texts are written in: "en" for natural language, or the programming language.

    CoIR's tasks are known. Of others, queries of retrieval are taken for text, and everything else for code where
    the task's languages name code: in that language if there is one alone, or if the subset names it.
    """
    code = [
        one.removesuffix("-Code")
        for one in _languages(task_metadata.eval_langs, hf_subset)
        if one.endswith("-Code")
    ]
    if task_metadata.name in COIR and prompt_type is not None:
        entry = ENTRIES[COIR[task_metadata.name]]
        kind = entry.queries if prompt_type == PromptType.query else entry.documents
        return hf_subset if kind == SUBSET else kind
    if prompt_type == PromptType.query or not code:
        return "en"
    return code[0] if len(code) == 1 else UNKNOWN_LANGUAGE


def _languages(eval_langs: Any, hf_subset: str) -> list[str]:
    if isinstance(eval_langs, Mapping):
        return list(eval_langs.get(hf_subset, []))
    return list(eval_langs)


def _meta(name: str, revision: str | None, model: Any, exit_layer: int) -> ModelMeta:
    """What MTEB writes beside the results; the exit sets those of one model apart."""
    shown = f"local/{Path(name).resolve().name}" if Path(name).is_dir() else name
    return ModelMeta(
        loader=None,
        name=shown,
        revision=revision or "local",
        release_date=None,
        languages=["eng-Latn"],
        n_parameters=sum(parameter.numel() for parameter in model.parameters()),
        memory_usage_mb=None,
        max_tokens=model.config.max_position_embeddings,
        embed_dim=model.config.resolve_truncate_dim(),
        license=None,
        open_weights=True,
        public_training_code=None,
        public_training_data=None,
        framework=["PyTorch", "Transformers"],
        similarity_fn_name=ScoringFunction.COSINE,
        use_instructions=True,
        training_datasets=None,
        experiment_kwargs={"exit_layer": exit_layer},
    )


def local_task(data: RetrievalSet, languages: tuple[str, ...] = ("eng-Latn",)) -> AbsTaskRetrieval:
    """An MTEB task of a retrieval set, such as `load_retrieval_set` reads from a folder.

    Args:
        data: the set; its `language` columns have no place in MTEB.
        languages: what MTEB is told instead, such as `("eng-Latn", "python-Code")`; it chooses the prompts.

    Returns:
        A task named after the set, split `test`, main score NDCG@10.
    """
    import datasets

    def judged(query: str) -> dict[str, int]:
        """Without the query itself, where it is no candidate: MTEB takes it from the results alone."""
        return {key: grade for key, grade in data.qrels[query].items() if not data.exclude_own or key != query}

    metadata = TaskMetadata(
        name=data.name,
        description=f"The retrieval set {data.name}.",
        reference=None,
        dataset={"path": f"local/{data.name}", "revision": "local"},
        type="Retrieval",
        category="t2t",
        modalities=["text"],
        eval_splits=["test"],
        eval_langs=list(languages),
        main_score="ndcg_at_10",
        date=None,
        domains=None,
        task_subtypes=None,
        license=None,
        annotations_creators=None,
        dialect=None,
        sample_creation=None,
        bibtex_citation=None,
    )
    made = type(
        "LocalTask", (AbsTaskRetrieval,), {"metadata": metadata, "ignore_identical_ids": data.exclude_own}
    )()
    corpus = {"id": list(data.document_ids), "text": list(data.documents), "title": [""] * len(data.documents)}
    made.dataset = {
        "default": {
            "test": {
                "corpus": datasets.Dataset.from_dict(corpus),
                "queries": datasets.Dataset.from_dict({"id": list(data.query_ids), "text": list(data.queries)}),
                "relevant_docs": {key: judged(key) for key in data.query_ids},
                "top_ranked": None,
            }
        }
    }
    made.data_loaded = True
    return made
