"""The card that is generated, checked by huggingface_hub's parser and, on the loopback Hub, by its validation."""

import json
import re

import pytest
import torch
import yaml
from card_rules import card_errors
from huggingface_hub import ModelCard

from mose.eval.model_index import eval_results
from mose.hub.__main__ import main
from mose.hub.card import adapter_card, model_card, validate_card
from mose.modeling_mose import MoSEForMaskedLM, MoSEForPreTraining, MoSEForSequenceClassification, MoSEModel
from mose.utils.locations import package_folder

REPORT = {
    "sets": {
        "cosqa dev": {
            "queries": 500,
            "documents": 6267,
            "exits": {
                "0": {"mrr": 0.41723, "ndcg@10": 0.5, "recall@1": 0.25},
                "1": {"mrr": 0.426, "ndcg@10": 0.51, "recall@1": 0.26},
                "3": {"mrr": 0.445, "ndcg@10": 0.52, "recall@1": 0.27},
            },
            "peers": {"bm25": {"mrr": 0.352, "ndcg@10": 0.4, "recall@1": 0.2}},
        },
        "poj": {"queries": 9, "documents": 9, "exits": {"3": {"map@r": 0.5}}, "peers": {}},
    },
    "speed": {"0": {"snippets_per_second": 3940.2, "query_ms_p50": 0.91}},
}


def blocks(card: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


def test_the_exits_table_counts_what_a_model_of_that_depth_holds(shared_model_folder):
    card = model_card(shared_model_folder, repo_id="me/tiny")
    rows = re.findall(r"^\| (\d+) \| ([\d,.]+)( M)? \| ([\d,]+) \|$", card, re.MULTILINE)
    assert [int(row[0]) for row in rows] == [0, 1, 3]
    for exit_layer, parameters, _, size in rows:
        model = MoSEModel.from_pretrained(shared_model_folder, exit_layer=int(exit_layer))
        held = sum(parameter.numel() for parameter in model.parameters())
        assert (int(parameters.replace(",", "")), int(size.replace(",", ""))) == (held, 4 * held)


def test_metadata_names_task_library_licence_and_examples(online, shared_model_folder):
    card = model_card(shared_model_folder, repo_id="me/tiny", report=REPORT, license="mit")
    validate_card(card)
    ModelCard(card).validate(repo_type="model")  # by the Hub
    assert online.requests == ["POST /api/validate-yaml"]
    data = yaml.safe_load(card.split("---")[1])
    assert {name: data[name] for name in ("license", "library_name", "pipeline_tag", "language")} == {
        "license": "mit",
        "library_name": "transformers",
        "pipeline_tag": "feature-extraction",
        "language": ["code", "en"],
    }
    assert [example["example_title"] for example in data["widget"]] == ["Query", "Python"]
    (index,) = data["model-index"]
    assert index["name"] == "tiny"
    metrics = {
        (result["dataset"]["name"], metric["args"]["exit_layer"], metric["type"]): metric["value"]
        for result in index["results"]
        for metric in result["metrics"]
    }
    assert metrics == {
        ("cosqa dev", 0, "mrr"): 0.4172,
        ("cosqa dev", 0, "ndcg@10"): 0.5,
        ("cosqa dev", 1, "mrr"): 0.426,
        ("cosqa dev", 1, "ndcg@10"): 0.51,
        ("cosqa dev", 3, "mrr"): 0.445,
        ("cosqa dev", 3, "ndcg@10"): 0.52,
        ("poj", 3, "map@r"): 0.5,
    }
    assert len(ModelCard(card).data.eval_results) == len(eval_results(REPORT)) == 7
    for figure in ("0.417", "0.352", "3,940"):  # the tables of the report
        assert f"| {figure}" in card


def test_what_was_not_measured_is_left_out(shared_model_folder):
    card = model_card(shared_model_folder, repo_id="me/tiny")
    data = yaml.safe_load(card.split("---")[1])
    assert "model-index" not in data and "base_model" not in data and "datasets" not in data
    assert "## Evaluation" not in card and "## Training" not in card
    assert "Quality and speed were not measured" in card
    assert "None" not in card and "{{" not in card and "{%" not in card


def test_training_is_told_from_what_the_run_left(model_folder):
    state = {
        "global_step": 20,
        "epoch": 1.5,
        "train_batch_size": 8,
        "log_history": [{"loss": 2.0}, {"loss": 1.5}],
    }
    (model_folder / "trainer_state.json").write_text(json.dumps(state))
    card = model_card(model_folder)
    assert "| steps | 20 |" in card and "| last loss | 1.5 |" in card and "| epochs | 1.5 |" in card
    summary = {"task": "fine-tuning", "base_model": "me/base", "datasets": ["me/pairs", "/home/me/pairs"]}
    (model_folder / "training_summary.json").write_text(json.dumps(summary))
    card = model_card(model_folder)
    data = yaml.safe_load(card.split("---")[1])
    assert (data["base_model"], data["datasets"]) == ("me/base", ["me/pairs"])
    assert "| task | fine-tuning |" in card and "/home/me" not in card


def test_the_python_in_a_card_runs(model_folder, tmp_path, monkeypatch):
    """As it stands, on a folder cut at the exits."""
    from mose.hub.slice import slice_repository

    output = slice_repository(model_folder, 3, tmp_path / "whole")
    monkeypatch.chdir(tmp_path)
    transformers_block, sentence_block = blocks(model_card(output, repo_id="whole"), "python")
    names: dict = {}
    exec(transformers_block, names)
    assert names["out"].pooler_output.shape == (2, 32) and len(names["model"].layers) == 1
    exec(sentence_block, names)
    assert names["st"].similarity(names["queries"], names["documents"]).shape == (1, 1)


@pytest.mark.parametrize(
    ("model_class", "tag", "auto"),
    [
        (MoSEForPreTraining, "feature-extraction", "AutoModelForPreTraining"),
        (MoSEForMaskedLM, "fill-mask", "AutoModelForMaskedLM"),
        (MoSEForSequenceClassification, "text-classification", "AutoModelForSequenceClassification"),
    ],
)
def test_other_heads_are_described_as_what_they_are(build_model, tiny_config, tmp_path, model_class, tag, auto):
    build_model(model_class, tiny_config(num_labels=3)).save_pretrained(tmp_path)
    card = model_card(tmp_path, repo_id="me/head")
    assert not card_errors(card)
    data = yaml.safe_load(card.split("---")[1])
    assert data["pipeline_tag"] == tag and "sentence-transformers" not in data["tags"]
    assert f"model = {auto}.from_pretrained(" in card and "encode_query" not in card


def test_an_adapter_names_its_base(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "me/base", "r": 8}')
    card = adapter_card(tmp_path, repo_id="me/adapter")
    validate_card(card)
    assert not card_errors(card)
    data = yaml.safe_load(card.split("---")[1])
    assert (data["base_model"], data["library_name"]) == ("me/base", "peft") and "rank 8" in card
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(tmp_path)}))
    with pytest.raises(ValueError, match="which others cannot load"):
        adapter_card(tmp_path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ("license: [", "not valid YAML"),
        ("library_name: transformers\npipeline_tag: x", "license=None"),
        ("license: mit\nlibrary_name: t\npipeline_tag: x\ntags: [1]", "tags="),
        ("license: mit\nlibrary_name: t\npipeline_tag: x\nwidget: [{source: a}]", "widget example"),
        ("license: mit\nlibrary_name: t\npipeline_tag: x\nmodel-index: [{name: a}]", "not valid"),
        (
            "license: mit\nlibrary_name: t\npipeline_tag: x\nmodel-index: [{name: a, results: [{task: 1}]}]",
            "not valid",
        ),
    ],
)
def test_bad_metadata_is_refused_here_and_there(metadata, message):
    with pytest.raises(ValueError, match=message):
        validate_card(f"---\n{metadata}\n---\n")


def test_the_command_writes_a_card_once(model_folder, tmp_path, capsys):
    report = tmp_path / "report.json"
    report.write_text(json.dumps(REPORT))
    command = ["card", str(model_folder), "--report", str(report), "--repo-id", "me/tiny"]
    assert main(command) == 0
    written = (model_folder / "README.md").read_text()
    assert written == model_card(model_folder, repo_id="me/tiny", report=REPORT)
    assert main(command) == 2
    assert "exists. Overwrite it with --force" in capsys.readouterr().err
    assert main([*command, "--force", "--output", "-"]) == 0
    assert capsys.readouterr().out == written
    report.write_text("{}")
    assert main([*command, "--force"]) == 2
    assert "must be a report of mose.eval" in capsys.readouterr().err
    assert (model_folder / "README.md").read_text() == written


def test_the_shipped_card_is_valid():
    content = (package_folder() / "README.md").read_text(encoding="utf-8")
    validate_card(content)
    assert not card_errors(content)


def test_weights_of_half_precision_are_counted_as_such(tiny_model, tmp_path):
    held = sum(parameter.numel() for parameter in tiny_model.parameters())
    tiny_model.to(torch.bfloat16).save_pretrained(tmp_path)
    assert f"| 3 | {held:,} | {2 * held:,} |" in model_card(tmp_path)
