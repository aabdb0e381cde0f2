"""The pre-training benchmark at a size too small to measure anything: that it runs, and what must hold of it."""

import json

import pretraining
import pytest

from mose.configuration_mose import MoSEConfig
from mose.training.pretraining.flops import training_flops


def test_pretraining(tmp_path, capsys):
    file = tmp_path / "report.json"
    small = ["--blocks", "5", "--batch", "1", "--tokens", "16", "--rounds", "1", "--json", str(file)]
    assert pretraining.main(small) == 0
    report = json.loads(file.read_text())
    assert report["exits"] == [1, 2, 3, 4, 5] and list(report["ways"]) == list(pretraining.WAYS)
    assert all(row["seconds"] > 0 and row["bytes"] > 0 for row in report["ways"].values())
    assert report["over_one_exit"]["one exit"] == {"seconds": 1, "bytes": 1}
    assert "the FLOPs predict" in capsys.readouterr().out


def test_what_the_flops_predict_at_the_papers_shape():
    paper = MoSEConfig()
    ratio = training_flops(paper, 2048) / training_flops(paper, 2048, exits=1)
    assert ratio == pytest.approx(1.027, abs=0.001)
    rows = {way: {"seconds": s, "bytes": 100} for way, s in zip(pretraining.WAYS, (1.0, 1.3, 2.0), strict=True)}
    found = pretraining.compare(rows, 1.25)
    assert found["time_over_flops"] == pytest.approx(1.04)
    assert found["over_one_exit"]["naive"] == {"seconds": 2, "bytes": 1}


def test_bad_arguments(capsys):
    with pytest.raises(SystemExit) as stop:
        pretraining.main(["--blocks", "7"])
    assert stop.value.code == 2 and "multiple of 5" in capsys.readouterr().err
