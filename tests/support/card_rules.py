"""The Hub's documented rules for a card's YAML, applied by the loopback Hub."""

import re
from typing import Any

import yaml

#: Values from the Hub's lists that a code-embedding model could use.
LICENSES = {
    "apache-2.0",
    "mit",
    "bigcode-openrail-m",
    "bsd-3-clause",
    "cc-by-4.0",
    "cc-by-sa-4.0",
    "other",
    "unknown",
}
PIPELINE_TAGS = {"feature-extraction", "sentence-similarity", "fill-mask", "text-classification", "text-ranking"}
LIBRARIES = {"transformers", "sentence-transformers", "peft", "onnx"}


def card_errors(content: str) -> list[str]:
    """Return the reasons why the Hub would refuse this README.md; empty if it would accept it."""
    if not content.startswith("---"):
        return []  # the Hub warns of missing metadata, no more
    match = re.match(r"---\r?\n(.*?)\r?\n---\s*(\n|$)", content, re.DOTALL)
    if not match:
        return ["the metadata block is not closed"]
    try:
        data: Any = yaml.safe_load(match[1])
    except yaml.YAMLError as error:
        return [f"YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata must be an object"]
    errors = [
        f'"{name}" must be one of the known ones, not {data[name]!r}'
        for name, known in (("license", LICENSES), ("pipeline_tag", PIPELINE_TAGS), ("library_name", LIBRARIES))
        if name in data and data[name] not in known
    ]
    for name in ("tags", "datasets", "language"):
        values = [data[name]] if isinstance(data.get(name), str) else data.get(name, [])
        if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
            errors.append(f'"{name}" must be a string or a list of strings')
    for example in data.get("widget") or []:
        if not isinstance(example, dict) or not ({"text", "source_sentence"} & set(example)):
            errors.append(f'"widget" has an example without text: {example!r}')
        elif not all(isinstance(value, str | list) for value in example.values()):
            errors.append(f'"widget" has an example that is not text: {example!r}')
    return errors + _model_index_errors(data.get("model-index"))


def _model_index_errors(index: Any) -> list[str]:
    if index is None:
        return []
    if not isinstance(index, list):
        return ['"model-index" must be an array']
    errors = []
    for place, model in enumerate(index):
        if not isinstance(model.get("name"), str) or not isinstance(model.get("results"), list):
            errors.append(f'"model-index[{place}]" needs a name and results')
            continue
        for number, result in enumerate(model["results"]):
            where = f'"model-index[{place}].results[{number}]'
            if not isinstance(result.get("task", {}).get("type"), str):
                errors.append(f'{where}.task.type" is required')
            dataset = result.get("dataset", {})
            if not all(isinstance(dataset.get(name), str) for name in ("type", "name")):
                errors.append(f'{where}.dataset" needs type and name')
            metrics = result.get("metrics")
            if not isinstance(metrics, list) or not metrics:
                errors.append(f'{where}.metrics" must be a non-empty array')
                continue
            for metric in metrics:
                if not isinstance(metric.get("type"), str) or not isinstance(
                    metric.get("value"), int | float | str
                ):
                    errors.append(f'{where}.metrics" needs type and value')
    return errors
