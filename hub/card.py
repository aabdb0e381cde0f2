"""The model card, generated from what lies in a model's folder: what was not measured is left out."""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCard, ModelCardData

from mose.hub.card_facts import METRICS, adapter_base, eval_results, hub_id, training_summary
from mose.hub.commands import ArgumentError
from mose.utils.files import atomic_write

TEMPLATE = Path(__file__).with_name("card_template.md")
ADAPTER_TEMPLATE = Path(__file__).with_name("adapter_template.md")
CITATION = """\
@inproceedings{gurioli2026mose,
  title     = {MoSE: Hierarchical Self-Distillation Enhances Early Layer Embeddings},
  author    = {Gurioli and Pennino and Monteiro and Gabbrielli},
  booktitle = {Proceedings of the AAAI Conference on Artificial Intelligence},
  year      = {2026},
  note      = {arXiv:2503.03008}
}"""
TAGS = ["code", "code-search", "code-retrieval", "embeddings", "early-exit", "self-distillation", "mose"]
COMPARE = {
    True: "Exits share one space: a query at one exit may be compared with documents at another.",
    False: "Compare embeddings of one exit with each other; other exits have other spaces.",
}
#: By the class that was saved: the Hub's name for the task, what the card says, how it is loaded, what it gives.
KINDS = {
    "MoSEModel": (
        "feature-extraction",
        "A MoSE encoder: embeddings of source code and of descriptions of code, for retrieval.",
        "AutoModel",
        "out.pooler_output: (2, {size}), unit norm",
    ),
    "MoSEForPreTraining": (
        "feature-extraction",
        "A MoSE pre-trained on masked tokens and In-Context Classification: a start for fine-tuning, not for "
        "retrieval.",
        "AutoModelForPreTraining",
        "out.prediction_logits: (2, tokens, {vocabulary})",
    ),
    "MoSEForMaskedLM": (
        "fill-mask",
        "A MoSE that fills in masked tokens of source code.",
        "AutoModelForMaskedLM",
        "out.logits: (2, tokens, {vocabulary})",
    ),
    "MoSEForSequenceClassification": (
        "text-classification",
        "A MoSE that classifies source code, or pairs of snippets, at every exit.",
        "AutoModelForSequenceClassification",
        "out.logits: (2, {labels})",
    ),
}


def model_card(
    folder: Path,
    *,
    repo_id: str | None = None,
    report: Mapping[str, Any] | None = None,
    license: str = "apache-2.0",
    language: str = "en",
    sliced_from: str | None = None,
    summary: Mapping[str, Any] | None = None,
) -> str:
    """The text of README.md for a model's folder.

    Args:
        folder: holds configuration and weights, and perhaps `training_summary.json` or `trainer_state.json`.
        repo_id: under which name the examples load it; None: the folder's name.
        report: an evaluation report of `python -m mose.eval`.
        license: the Hub's identifier of the weights' licence.
        language: of the descriptions.
        sliced_from: the model that this one was cut from.
        summary: of the run that made it; None: what `training_summary(folder)` finds.

    Raises:
        FileNotFoundError: there is no configuration, or there are no weights.
        ValueError: they, or the report, are not what they should be.
    """
    from mose.hub.checkpoints import load_config, model_class, whole_checkpoint
    from mose.hub.shards import needed_from

    if report is not None and not {"sets", "speed"} <= report.keys():
        raise ValueError("report: not a report of mose.eval: it must be an object with 'sets' and 'speed'")
    config = load_config(folder)
    exits = config.built_exit_layers
    tensors = whole_checkpoint(folder, config)
    rows = []
    for e in exits:
        held = [source for name, source in tensors.items() if needed_from(name, exits) <= e]
        rows.append((e, sum(s.size // s.dtype.itemsize for s in held), sum(s.size for s in held)))
    kind = model_class(config).__name__
    tag, what, auto_class, output = KINDS[kind]
    repo_id = repo_id or folder.absolute().name
    summary = training_summary(folder) if summary is None else summary
    datasets = [name for name in summary.get("datasets", []) if hub_id(name)]
    data = ModelCardData(
        language=["code", language],
        license=license,
        library_name="transformers",
        pipeline_tag=tag,
        tags=[*TAGS, *(["sentence-transformers"] if kind == "MoSEModel" else [])],
        base_model=hub_id(sliced_from or summary.get("base_model")),
        datasets=datasets or None,
        model_name=repo_id.rpartition("/")[2],
        eval_results=(eval_results(report) or None) if report else None,
        widget=_widget(kind),
    )
    if data.eval_results is None:
        data.pop("model_name")
    content = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        what=what,
        exits=exits,
        shallow=exits[len(exits) // 2],
        deepest=exits[-1],
        exits_table=_exits_table(rows),
        auto_class=auto_class,
        embeds=kind == "MoSEModel",
        output=output.format(
            size=config.resolve_truncate_dim(), vocabulary=config.vocab_size, labels=config.num_labels
        ),
        report_tables=_report_tables(report) if report else "",
        summary=summary,
        datasets=datasets,
        sliced_from=sliced_from and (hub_id(sliced_from) or Path(sliced_from).absolute().name),
        recipe_table=_recipe_table(summary),
        max_length=config.max_position_embeddings,
        compare=COMPARE[config.aligned_exits],
        dimensions=config.matryoshka_dims,
        citation=CITATION,
        license=license,
    ).content
    return re.sub(r"\n{3,}", "\n\n", content).rstrip() + "\n"


def adapter_card(
    folder: Path,
    *,
    repo_id: str | None = None,
    license: str = "apache-2.0",
    summary: Mapping[str, Any] | None = None,
) -> str:
    """The text of README.md for a folder that holds a LoRA adapter; arguments as in `model_card`.

    Raises:
        ValueError: as in `adapter_base`.
    """
    adapter = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    base = adapter_base(folder)
    repo_id = repo_id or folder.absolute().name
    modules = adapter.get("target_modules") or []
    data = ModelCardData(
        license=license,
        library_name="peft",
        pipeline_tag="feature-extraction",
        tags=[*TAGS, "lora"],
        base_model=base,
    )
    return ModelCard.from_template(
        data,
        template_path=str(ADAPTER_TEMPLATE),
        name=repo_id.rpartition("/")[2],
        repo_id=repo_id,
        base=base,
        modules=modules if isinstance(modules, str) else ", ".join(sorted(modules)) or "its default modules",
        rank=adapter.get("r", "not given"),
        recipe_table=_recipe_table(training_summary(folder) if summary is None else summary),
        citation=CITATION,
    ).content


def validate_card(content: str) -> None:
    """Checks a card's metadata as far as that goes without the Hub, which checks it again when it is sent.

    Raises:
        ValueError: no metadata, no valid YAML, or a `model-index`, `widget` or list of another form than the
            Hub's.
    """
    try:
        data = ModelCard(content, ignore_metadata_errors=False).data.to_dict()
    except yaml.YAMLError as error:
        raise ValueError(f"README.md: its metadata is not valid YAML: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"README.md: its metadata is not valid: {error}") from error
    for name in ("license", "library_name", "pipeline_tag"):
        if not isinstance(data.get(name), str):
            raise ValueError(f"README.md: {name}={data.get(name)!r}: the metadata must name one")
    for name in ("tags", "language", "datasets"):
        values = data.get(name, [])
        if not isinstance(values, str | list) or not all(isinstance(value, str) for value in values):
            raise ValueError(f"README.md: {name}={values!r}: must be a string or a list of strings")
    for example in data.get("widget") or []:
        if not isinstance(example, dict) or not isinstance(example.get("text"), str):
            raise ValueError(f"README.md: widget example {example!r}: must have a text")


def _widget(kind: str) -> list[dict[str, str]]:
    from mose.tokenization.prompts import MASK, code_prompt, text_prompt

    if kind == "MoSEForMaskedLM":
        return [{"text": f"def add(a, b): return a {MASK} b", "example_title": "Fill in an operator"}]
    if kind != "MoSEModel":
        return [{"text": "def add(a, b):\n    return a + b", "example_title": "A function"}]
    return [
        {"text": f"{text_prompt()}parse an ISO 8601 date", "example_title": "Query"},
        {"text": f"{code_prompt('python')}def add(a, b):\n    return a + b", "example_title": "Python"},
    ]


def _exits_table(rows: list[tuple[int, int, int]]) -> str:
    lines = ["| exit | parameters | bytes |", "|---:|---:|---:|"]
    return "\n".join(lines + [f"| {e} | {_count(parameters)} | {size:,} |" for e, parameters, size in rows])


def _count(number: int) -> str:
    return f"{number / 1e6:,.1f} M" if number >= 1e5 else f"{number:,}"


def _report_tables(report: Mapping[str, Any]) -> str:
    from mose.eval.report import markdown

    data = [figures for found in report["sets"].values() for figures in found["exits"].values()]
    stored = [metric for metric in METRICS if any(metric in figures for figures in data)]
    return markdown(dict(report), stored or None)


def _recipe_table(summary: Mapping[str, Any]) -> str:
    rows = {name: summary.get(name) for name in ("task", "examples", "steps", "epochs", "seconds", "device")}
    rows |= summary.get("arguments", {})
    rows |= {f"last {name}": value for name, value in summary.get("losses", {}).items()}
    kept = {name: value for name, value in rows.items() if value not in (None, "", [], {})}
    if not kept:
        return ""
    lines = [f"| {name.replace('_', ' ')} | {_plain(value)} |" for name, value in kept.items()]
    return "\n".join(["| | |", "|---|---:|", *lines])


def _plain(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if type(value) is int else str(value).replace("|", "\\|")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m mose.hub card`."""
    parser.add_argument("folder", metavar="FOLDER", help="the model's folder")
    parser.add_argument(
        "--report", metavar="FILE", help="evaluation report, as `python -m mose.eval … --json` wrote it"
    )
    parser.add_argument(
        "--repo-id", metavar="ID", help="name under which the examples load it (default: the folder's)"
    )
    parser.add_argument("--license", default="apache-2.0", help="the weights' licence (default: apache-2.0)")
    parser.add_argument("--language", default="en", help="language of the descriptions (default: en)")
    parser.add_argument(
        "--output", metavar="FILE", help="where it goes; - means stdout (default: FOLDER/README.md)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite a card that is there")


def run(options: argparse.Namespace) -> None:
    """Runs `python -m mose.hub card`."""
    folder = Path(options.folder)
    output = Path(options.output or folder / "README.md")
    if str(output) != "-" and output.exists() and not options.force:
        raise ArgumentError(f"{output} exists: add --force to overwrite it, or name another file with --output")
    try:
        report = json.loads(Path(options.report).read_text(encoding="utf-8")) if options.report else None
        if report is not None and not isinstance(report, dict):
            raise ValueError(f"{options.report}: not a report of mose.eval")
        if (folder / "adapter_config.json").exists():
            content = adapter_card(folder, repo_id=options.repo_id, license=options.license)
        else:
            content = model_card(
                folder, repo_id=options.repo_id, report=report, license=options.license, language=options.language
            )
        validate_card(content)
    except (ValueError, OSError) as error:
        raise ArgumentError(str(error)) from error
    if str(output) == "-":
        print(content, end="")
        return
    with atomic_write(output) as stream:
        stream.write(content.encode())
    print(output)
