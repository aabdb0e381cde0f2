import json

import pytest

from mose.training.curves import main, read_curves


@pytest.fixture
def run(tmp_path):
    lines = [
        {"step": step, "eval_mlm_loss_exit_1": 9 - step, "eval_icc_accuracy_exit_1": 0.5, "eval_loss": 3}
        for step in (2, 1)
    ]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": [*lines, {"step": 3, "loss": 1}]}))
    return tmp_path


def test_the_figures_of_a_run_by_exit_and_step(run):
    assert read_curves(run) == {"mlm_loss": {1: [(1, 8), (2, 7)]}, "icc_accuracy": {1: [(1, 0.5), (2, 0.5)]}}
    assert main([str(run), "--png", str(run / "a.png")]) == 0
    assert (run / "a.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_evaluations_is_named(run, capsys):
    assert main([str(run / "none"), "--png", str(run / "a.png")]) == 2
    (run / "trainer_state.json").write_text('{"log_history": []}')
    assert main([str(run), "--png", str(run / "a.png")]) == 2
    assert "has no evaluation" in capsys.readouterr().err
