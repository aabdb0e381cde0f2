"""The card of a model, generated from its folder. Figures that nobody measured are left out."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import ModelCard, ModelCardData

from mose.eval.model_index import CARD_METRICS, eval_results
from mose.eval.report import check_report, markdown
from mose.hub.card.metadata import CITATION, TAGS, public_id
from mose.hub.card.summary import recipe_table, training_summary
from mose.hub.files import stored_prompts
from mose.tokenization.prompts import MASK

TEMPLATE = Path(__file__).with_name("model.md")


class Head(NamedTuple):
    """Facts about the models of one class."""

    pipeline_tag: str
    description: str
    auto_class: str
    output: str  # of the example, formatted with the configuration's sizes


#: By the class that the weights were saved from.
HEADS = {
    "MoSEModel": Head(
        "feature-extraction",
        "A MoSE encoder: embeddings of source code and of descriptions of code, for retrieval.",
        "AutoModel",
        "out.pooler_output: (2, {size}), {norm}",
    ),
    "MoSEForPreTraining": Head(
        "feature-extraction",
        "A MoSE pre-trained on masked tokens and In-Context Classification. Fine-tune it before using it for "
        "retrieval.",
        "AutoModelForPreTraining",
        "out.prediction_logits: (2, tokens, {vocabulary})",
    ),
    "MoSEForMaskedLM": Head(
        "fill-mask",
        "A MoSE that fills in masked tokens of source code.",
        "AutoModelForMaskedLM",
        "out.logits: (2, tokens, {vocabulary})",
    ),
    "MoSEForSequenceClassification": Head(
        "text-classification",
        "A MoSE that classifies source code, or pairs of snippets, at every exit.",
        "AutoModelForSequenceClassification",
        "out.logits: (2, {labels})",
    ),
}


@dataclass(frozen=True)
class Origin:
    """A model that the weights were derived from without training."""

    source: str  # its Hub id, or its folder
    sentence: str  # how the weights were derived; `{name}` stands for the source's name
    tags: Sequence[str] = ()  # added to the card's
    #: Front matter that still holds, such as the licence.
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()  # added to the card's limits

    @property
    def name(self) -> str:
        """The source's Hub id, or the name of its folder without the path."""
        return public_id(self.source) or Path(self.source).absolute().name

    @property
    def description(self) -> str:
        """The sentence with the source's name."""
        return self.sentence.replace("{name}", self.name)


def merged_origin(base: str) -> Origin:
    """Return the origin of a model that holds a merged LoRA adapter.

    Args:
        base: Hub id or folder of the adapter's base.
    """
    sentence = (
        f"It is `{base}` with a LoRA adapter (arXiv 2106.09685) merged into its token embeddings and blocks. The "
        "exits (norm, gate, projection) and the similarity scale were trained in full."
    )
    return Origin(base, sentence, tags=("lora",))


def model_card(
    folder: Path,
    *,
    repo_id: str | None = None,
    report: Mapping[str, Any] | None = None,
    license: str | None = "apache-2.0",
    language: str = "en",
    origin: Origin | None = None,
    summary: Mapping[str, Any] | None = None,
) -> str:
    """Return the text of README.md for a model's folder.

    Args:
        folder: holds configuration and weights, and possibly the summary of a training run.
        repo_id: name under which the examples load it; None means the folder's name.
        report: an evaluation report of `python -m mose.eval`.
        license: the Hub's identifier of the weights' licence; None leaves it out.
        language: of the descriptions.
        origin: the model that the weights were derived from.
        summary: of the training run; None means `training_summary(folder)`.

    Raises:
        FileNotFoundError: the folder lacks the configuration or the weights.
        ValueError: these, or the report, are not valid.
    """
    from mose.hub.checkpoints import model_class, read_config  # imports torch

    if report is not None:
        check_report(report, "report")

    config = read_config(folder)
    class_name, exits = model_class(config).__name__, config.built_exit_layers
    repo_id = repo_id or folder.absolute().name
    summary = training_summary(folder) if summary is None else summary

    data = _front_matter(class_name, repo_id, report, license, origin, summary)
    data["language"] = data.language or ["code", language]
    data["widget"] = _widget(class_name, stored_prompts(folder))

    content = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        head=HEADS[class_name],
        output=_example_output(HEADS[class_name], config),
        embeds=class_name == "MoSEModel",
        exits=exits,
        middle=exits[len(exits) // 2],
        exits_table=_exits_table(folder, config),
        report_tables=_report_tables(report) if report else "",
        recipe_table=recipe_table(summary),
        trained_from=_plain_name(summary.get("base_model")),
        origin=origin,
        config=config,
        citation=CITATION,
    ).content
    # The template's conditions leave blank lines behind.
    return re.sub(r"\n{3,}", "\n\n", content).rstrip() + "\n"


def _front_matter(
    class_name: str,
    repo_id: str,
    report: Mapping[str, Any] | None,
    license: str | None,
    origin: Origin | None,
    summary: Mapping[str, Any],
) -> ModelCardData:
    tags = [*TAGS, *(["sentence-transformers"] if class_name == "MoSEModel" else [])]
    fields: dict[str, Any] = {
        "language": None,  # keeps its place in the file
        "license": license,
        "library_name": "transformers",
        "pipeline_tag": HEADS[class_name].pipeline_tag,
        "tags": [*tags, *(origin.tags if origin else ())],
        "base_model": public_id(origin.source if origin else summary.get("base_model")),
        "datasets": [name for name in _as_list(summary.get("datasets")) if public_id(name)] or None,
    }

    results = eval_results(report, CARD_METRICS) if report else []
    if results:  # the Hub wants the model's name beside results
        fields |= {"model_name": repo_id.rpartition("/")[2], "eval_results": results}
    # The source's own fields go first: its licence holds for the weights.
    return ModelCardData(**(fields | dict(origin.metadata if origin else {})))


def _plain_name(name: Any) -> str | None:
    """Return a name that a card may show as it is, or None: the file that it is from may be anybody's."""
    return name if isinstance(name, str) and re.fullmatch(r"[\w./-]{1,200}", name) else None


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _widget(class_name: str, prompts: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the examples that the Hub offers beside the card."""
    if class_name == "MoSEForMaskedLM":
        return [{"text": f"def add(a, b): return a {MASK} b", "example_title": "Fill in an operator"}]
    if class_name != "MoSEModel":
        return [{"text": "def add(a, b):\n    return a + b", "example_title": "A function"}]
    return [
        {"text": f"{prompts['query']}parse an ISO 8601 date", "example_title": "Query"},
        {"text": f"{prompts['python']}def add(a, b):\n    return a + b", "example_title": "Python"},
    ]


def _example_output(head: Head, config: Any) -> str:
    norm = "unit norm" if config.embedding_norm == "unit" else "norm at most 1"
    return head.output.format(
        size=config.resolve_truncate_dim(), norm=norm, vocabulary=config.vocab_size, labels=config.num_labels
    )


def _exits_table(folder: Path, config: Any) -> str:
    """Return a table of the parameters and bytes that a model loaded up to each exit holds."""
    from mose.hub.checkpoints import read_checkpoint  # imports torch
    from mose.hub.shards import first_exit_with

    exits, tensors = config.built_exit_layers, read_checkpoint(folder, config)
    lines = ["| exit | parameters | bytes |", "|---:|---:|---:|"]

    for exit_layer in exits:
        needed = [source for name, source in tensors.items() if first_exit_with(name, exits) <= exit_layer]
        parameters = sum(source.size // source.dtype.itemsize for source in needed)
        count = f"{parameters / 1e6:,.1f} M" if parameters >= 1e5 else f"{parameters:,}"
        lines.append(f"| {exit_layer} | {count} | {sum(source.size for source in needed):,} |")
    return "\n".join(lines)


def _report_tables(report: Mapping[str, Any]) -> str:
    figures = [exit_figures for data in report["sets"].values() for exit_figures in data["exits"].values()]
    metrics = [metric for metric in CARD_METRICS if any(metric in exit_figures for exit_figures in figures)]
    return markdown(dict(report), metrics or None)
