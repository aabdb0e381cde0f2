"""The fit of the ranking's constants on labelled repositories that are too small to say anything."""

import json

import pytest
import torch

from mose.benchmarks.fit_ranking import ABSENT_QUERIES, RankingFit
from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEModel
from mose.search.evaluation.fitting import GRID


@pytest.fixture
def model_folder(tiny_tokenizer, tmp_path):
    torch.manual_seed(0)
    config = MoSEConfig.from_preset(
        "mose-nano-256",
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        exit_layers=(0, 1),
        max_position_embeddings=64,
    )
    MoSEModel(config).save_pretrained(tmp_path / "model")
    tiny_tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "labelled"
    root.mkdir()
    queries = []
    for name in ("one", "two"):
        files = {f"{word}.py": f"def {word}_{name}(x):\n    return x\n" for word in ("red", "green", "blue")}
        rows = [json.dumps({"path": path, "content": text}) for path, text in files.items()]
        (root / f"{name}.jsonl").write_text("\n".join(rows))
        for path in files:
            query = {
                "repository": name,
                "query": f"{path[:-3]} things",
                "category": "semantic",
                "relevant": [path],
            }
            queries.append(json.dumps(query))
    (root / "queries.jsonl").write_text("\n".join(queries))
    return root


def test_the_fit_reports_each_repository_left_out(folder, model_folder, tmp_path, capsys):
    absent = ABSENT_QUERIES.read_text(encoding="utf-8").splitlines()
    assert len(absent) == len(set(absent)) >= 100 and all(absent)
    (tmp_path / "absent.txt").write_text("\n".join(absent[:5]))

    arguments = [folder, "--model", model_folder, "--exit-layers", 0, 1, "--absent", tmp_path / "absent.txt"]
    file = tmp_path / "report.json"
    assert RankingFit().main([*map(str, arguments), "--json", str(file)]) == 0
    report = json.loads(file.read_text())
    assert set(report["left_out"]) == {"one", "two"} and report["exits"] == [0, 1]
    for row in (report["fitted"], *report["left_out"].values()):
        assert set(GRID) < set(row) and 0 <= row["ndcg@10"] <= 1
    # Words of the query name the file, which no absent query does.
    assert report["fitted"]["ndcg@10"] == 1
    assert report["left_out"]["one"]["queries"] == 6
    confidence = report["confidence"]
    assert (confidence["present"], confidence["absent"]) == (12, 20) and confidence["auc"] == 1
    text = capsys.readouterr().out
    assert "repository left out: 1.000" in text and "dense_share_of_prose" in text
