"""Samples with the answers that CodeXGLUE publishes for its own: MAP@R 0.5833, F1 0.3333, MRR 0.4233."""

import json

import pytest

from mose.data.retrieval.retrieval_set import RetrievalSetError
from mose.eval.__main__ import main
from mose.eval.codexglue import advtest, bigclonebench, poj104


def write(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


@pytest.fixture
def files(tmp_path):
    """Three problems' worth of each format; by hand:

    poj104: two classes of three programs, R = 2. Found at rank 1 only: 1/2; at rank 2 only: 1/2 · 1/2; both: 1;
    none: 0. (1/2 + 1/4 + 1 + 1/2 + 1/4 + 1) / 6 = 7/12.
    bigclonebench: 4 clones, 1 of them found, 2 predicted: precision 1/2, recall 1/4, F1 1/3.
    advtest: ranks 1, 3, 3, 4, 5: (1 + 1/3 + 1/3 + 1/4 + 1/5) / 5 = 127/300.
    """
    labels = {"p0": "7", "p1": "7", "p2": "7", "p3": "8", "p4": "8", "p5": "8"}
    result = {
        "p0": ["p1", "p4"],
        "p1": ["p3", "p2"],
        "p2": ["p1", "p0"],
        "p3": ["p5", "p0"],
        "p4": ["p2", "p3"],
        "p5": ["p3", "p4"],
    }
    write(tmp_path / "programs.jsonl", [{"label": v, "index": k, "code": "…"} for k, v in labels.items()])
    same = {k: [other for other in labels if labels[other] == labels[k] and other != k] for k in labels}
    write(tmp_path / "poj104.answers", [{"index": k, "answers": v} for k, v in same.items()])
    write(tmp_path / "poj104.predictions", [{"index": k, "answers": v} for k, v in reversed(result.items())])
    write(
        tmp_path / "bigclonebench.answers", ["1\t2\t1", "3\t4\t1", "5\t6\t1", "7\t8\t1", "9\t10\t0", "11\t12\t0"]
    )
    write(
        tmp_path / "bigclonebench.predictions",
        ["3\t4\t1", "9\t10\t1", "1 2 0", "5\t6\t0", "7\t8\t0", "11\t12\t0"],
    )
    rankings = [[20, 21, 22, 23, 24], [20, 22, 21, 23, 24], [23, 21, 22, 20, 24], [20, 24, 22, 23, 21]]
    rankings.append([20, 21, 22, 23, 24])
    rows = [{"url": f"u{i}", "docstring": "…", "function": "…", "idx": 20 + i} for i in range(5)]
    write(tmp_path / "advtest.answers", rows)
    write(tmp_path / "advtest.predictions", [{"url": f"u{i}", "answers": r} for i, r in enumerate(rankings)])
    return tmp_path


def test_the_published_scores_come_out(files):
    assert poj104(files / "poj104.answers", files / "poj104.predictions") == {"map@r": pytest.approx(7 / 12)}
    assert poj104(files / "programs.jsonl", files / "poj104.predictions") == {"map@r": pytest.approx(7 / 12)}
    result = bigclonebench(files / "bigclonebench.answers", files / "bigclonebench.predictions")
    assert result == pytest.approx({"f1": 1 / 3, "precision": 0.5, "recall": 0.25})
    assert advtest(files / "advtest.answers", files / "advtest.predictions") == {"mrr": pytest.approx(127 / 300)}


@pytest.mark.parametrize(
    ("task", "measure", "published"),
    [("poj104", "map@r", 0.5833), ("bigclonebench", "f1", 0.3333), ("advtest", "mrr", 0.4233)],
)
def test_the_command_prints_them(task, measure, published, files, capsys):
    command = ["codexglue", task, "--answers", str(files / f"{task}.answers")]
    assert main([*command, "--predictions", str(files / f"{task}.predictions")]) == 0
    assert round(json.loads(capsys.readouterr().out)[measure], 4) == published
    assert main([*command, "--predictions", str(files / "nowhere")]) == 2
    assert "nowhere: no such file" in capsys.readouterr().err


def test_what_a_ranking_leaves_out_is_not_found(files):
    write(files / "advtest.predictions", [{"url": f"u{i}", "answers": [20]} for i in range(5)])
    assert advtest(files / "advtest.answers", files / "advtest.predictions") == {"mrr": pytest.approx(1 / 5)}


@pytest.mark.parametrize(
    ("score", "name", "rows", "message"),
    [
        (advtest, "advtest", [{"url": "u0", "answers": [20]}], "no prediction for 'u1'"),
        (advtest, "advtest", [{"url": "u0", "answers": [20]}] * 2, "url 'u0' occurs twice"),
        (advtest, "advtest", [{"url": "u0"}], r"predictions:1: no column 'answers'; there are: url"),
        (
            poj104,
            "poj104",
            [{"index": "p0", "answers": ["p1"]}],
            r"answers for 'p0' must be at least 2 \(its relevant programs\), got 1",
        ),
        (poj104, "poj104", [{"index": "p1", "answers": ["p0", "p2"]}], "no prediction for 'p0'"),
        (bigclonebench, "bigclonebench", ["1\t2\t1"], "no prediction for the pair 3 4"),
        (bigclonebench, "bigclonebench", ["1\t2\t0.7"], "must be two ids and 0 or 1, got"),
    ],
)
def test_what_is_wrong_is_named(score, name, rows, message, files):
    write(files / f"{name}.predictions", rows)
    with pytest.raises(RetrievalSetError, match=message):
        score(files / f"{name}.answers", files / f"{name}.predictions")
