import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from mose.train_hf import main
from mose.training.checkpoints import write_manifest
from mose.training.finetuning.trainer import FineTuningTrainer
from mose.training.output_folder import LOCK, MARK, OutputLockedError, claim_output
from mose.training.pretraining.arguments import PreTrainingDataArguments
from mose.training.pretraining.command import load_parts


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"text": f"Add {i}.", "code": f"def add_{i}(a): return a + {i}"} for i in range(12)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def finetune(tiny_model_folder, pairs, tmp_path, capsys):
    def run(*flags):
        defaults = ["--model", tiny_model_folder, "--dataset", str(pairs), "--output-dir", str(tmp_path / "out")]
        common = "--use-cpu --max-steps 4 --per-device-train-batch-size 4 --logging-steps 1 --learning-rate 1e-3"
        status = main(["finetune", *defaults, *common.split(), *map(str, flags)])
        return status, capsys.readouterr().err

    return run


def poison(monkeypatch, steps):
    """Make the loss of some steps NaN, and its gradients with it."""
    compute_loss, calls = FineTuningTrainer.compute_loss, []

    def poisoned(self, *args, **kwargs):
        calls.append(None)
        loss = compute_loss(self, *args, **kwargs)
        return loss * float("nan") if len(calls) in steps else loss

    monkeypatch.setattr(FineTuningTrainer, "compute_loss", poisoned)


# --- the output folder -------------------------------------------------------------------------------------


@pytest.mark.parametrize("resume", [False, True])
def test_a_foreign_folder_is_refused_and_left_as_it_is(tmp_path, resume):
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    message = "must be empty or hold a training run, but it has model.safetensors"
    with pytest.raises(ValueError, match=message), claim_output(tmp_path, "finetune", resume=resume):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_overwriting_deletes_checkpoints_alone(tmp_path):
    (tmp_path / "checkpoint-3").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    with claim_output(tmp_path, "finetune", overwrite=True):
        assert not (tmp_path / "checkpoint-3").exists()
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("place", ["", "checkpoint-3"])
def test_a_model_that_is_read_is_never_replaced(tmp_path, place):
    (tmp_path / "checkpoint-3").mkdir()
    claim = claim_output(tmp_path, "finetune", overwrite=True, models=[None, "a/b", str(tmp_path / place)])
    with pytest.raises(ValueError, match="which the run reads and would replace"), claim:
        pass
    assert (tmp_path / "checkpoint-3").exists()


def test_one_run_at_a_time(tmp_path):
    second = claim_output(tmp_path / "out", "finetune", resume=True)
    message = "is being written by another run"
    with claim_output(tmp_path / "out", "finetune"), pytest.raises(OutputLockedError, match=message), second:
        pass
    (tmp_path / "out" / f"{MARK}.partial").touch()  # as a kill leaves it
    with claim_output(tmp_path / "out", "finetune"):  # nothing was written, so nothing is in the way
        assert (tmp_path / "out" / LOCK).exists()


def test_every_command_refuses(tmp_path, tiny_model_folder, pairs, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.safetensors").write_bytes(b"mine")
    commands = (
        ["finetune", "--model", tiny_model_folder, "--dataset", pairs],
        ["classify", "--model", tiny_model_folder, "--train-file", pairs],
        ["pretrain", "--model", tiny_model_folder, "--dataset", pairs, "--max-steps", "1"],
    )
    for words in commands:
        assert main([*map(str, words), "--use-cpu", "--output-dir", str(out)]) == 2
        assert "but it has model.safetensors" in capsys.readouterr().err
    assert (out / "model.safetensors").read_bytes() == b"mine"


# --- numbers that are not finite ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_step_that_is_not_finite_stops_the_run_and_older_checkpoints_stay(finetune, monkeypatch, tmp_path):
    poison(monkeypatch, {3})
    status, err = finetune("--save-steps", 1, "--save-total-limit", 1)
    assert status == 1 and "step 3: " in err and "--learning-rate" in err
    kept = sorted(path.name for path in (tmp_path / "out").glob("checkpoint-*"))
    # No finite step has followed the second, so the first stays, too.
    assert kept == ["checkpoint-1", "checkpoint-2"] and "checkpoint-2 is the last checkpoint" in err
    for name in kept:
        weights = load_file(tmp_path / "out" / name / "model.safetensors")
        assert all(weight.isfinite().all() for weight in weights.values())
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_learning_rate_that_destroys_the_weights_stops_the_run(finetune, tmp_path):
    status, err = finetune("--learning-rate", "1e30", "--save-steps", 1)
    assert status == 1 and "step 2: " in err and "--learning-rate" in err
    assert not (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.slow
def test_skipped_steps_are_counted_and_bounded(finetune, monkeypatch, tmp_path):
    poison(monkeypatch, {2})
    assert finetune("--on-nonfinite", "skip")[0] == 0
    lines = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert [line.get("skipped_steps") for line in lines if "loss" in line] == [None, 1, 1, 1]
    assert all(torch.isfinite(torch.tensor(line["contrastive_loss_exit_0"])) for line in lines[2:4])

    poison(monkeypatch, {2, 3, 4})
    status, err = finetune("--on-nonfinite", "skip", "--max-skipped-steps", 1, "--output-dir", tmp_path / "b")
    assert status == 1 and "step 3: " in err and "1 steps were skipped before" in err


# --- signals, arguments, secrets ---------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_and_says_where(finetune, monkeypatch, tmp_path, number, code):
    training_step = FineTuningTrainer.training_step

    def interrupted(self, *args):
        if self.state.global_step == 1:
            os.kill(os.getpid(), number)
        return training_step(self, *args)

    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(FineTuningTrainer, "training_step", interrupted)
    status, err = finetune()
    assert status == code and f"{tmp_path / 'out' / 'checkpoint-2'} is saved. Pass --resume" in err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers

    if number == signal.SIGINT:
        return  # the rest is the same for both
    monkeypatch.setattr(FineTuningTrainer, "training_step", training_step)
    status, err = finetune("--resume", "--max-steps", 1)
    assert status == 2 and "max_steps must be at least the 2 steps" in err
    assert finetune("--resume")[0] == 0

    # The fourth step is within an epoch. A fifth would change the weights.
    steps = []
    monkeypatch.setattr(FineTuningTrainer, "training_step", lambda *_: steps.append(1))
    assert finetune("--resume")[0] == 0 and not steps


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--gradient-accumulation-steps", 0], "gradient_accumulation_steps must be at least 1, got 0"),
        (["--per-device-train-batch-size", -1], "per_device_train_batch_size must be at least 0, got -1"),
        (["--learning-rate", "nan"], "learning_rate must be a finite number >= 0, got nan"),
        (["--max-document-length", 99999], "max_document_length must be in"),
        (["--max-query-length", 99999], "max_query_length must be in"),
    ],
)
def test_arguments_are_refused_by_name(finetune, flags, message):
    status, err = finetune(*flags)
    assert status == 2 and message in err


def test_pairs_without_a_difference_and_a_single_validation_pair(finetune, pairs, tmp_path):
    row = pairs.read_text().splitlines()[0] + "\n"
    same, single = tmp_path / "same.jsonl", tmp_path / "single.jsonl"
    same.write_text(row * 8)
    single.write_text(row)
    status, err = finetune("--dataset", same, "--validation-dataset", single)
    assert status == 2 and "got 1 pair to validate on" in err
    status, err = finetune("--validation-dataset", same)
    assert status == 2 and "must differ in query and document" in err


@pytest.mark.slow
def test_a_token_is_not_stored(finetune, tmp_path):
    assert finetune("--hub-token", "hf_secret123", "--save-steps", 2)[0] == 0
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert files and not [path for path in files if b"hf_secret123" in path.read_bytes()]


@pytest.mark.slow
def test_a_broken_state_of_the_optimizer_is_named(finetune, tmp_path):
    assert finetune("--save-steps", 2, "--max-steps", 2)[0] == 0
    checkpoint = tmp_path / "out" / "checkpoint-2"
    (checkpoint / "optimizer.pt").write_bytes(b"no archive")
    write_manifest(checkpoint)
    status, err = finetune("--resume")
    assert status == 1 and f"{checkpoint}: the state of the optimizer or the schedule does not load" in err
    assert "Delete this checkpoint to resume from the one before" in err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            '{"text": "größer", "code": "x"}'.encode("latin-1"),
            "row 13 is not UTF-8 (byte 0xf6). Convert it: iconv",
        ),
        (b'{"text": "cut', "row 13 is not JSON: "),
    ],
)
def test_the_row_of_a_file_that_cannot_be_read_is_named(finetune, pairs, row, message):
    pairs.write_bytes(pairs.read_bytes() + row + b"\n")
    status, err = finetune()
    assert status == 2 and str(pairs) in err and message in err


def test_two_packages_are_enough_to_pretrain(tmp_path, caplog):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.py").write_text("x = 1\n")
    trees = [str(tmp_path / name) for name in ("one", "two")]
    train, held_out = load_parts(PreTrainingDataArguments(source_tree=trees), 0)
    assert held_out is None and len(list(train)) == 2 and "nothing is held out" in caplog.text
    with pytest.raises(ValueError, match="--held-out 0"):
        load_parts(PreTrainingDataArguments(source_tree=trees, held_out=0.05), 0)


def test_a_length_beyond_the_context_of_a_classifier_is_refused(tiny_model_folder, tmp_path, capsys):
    rows = [{"code": f"x + {i}", "label": i % 2} for i in range(4)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["classify", "--model", tiny_model_folder, "--train-file", str(tmp_path / "train.jsonl"), "--use-cpu"]
    assert main([*words, "--output-dir", str(tmp_path / "out"), "--max-length", "99999"]) == 2
    assert "max_length must be in [1, 1024], the context of the model, got 99999" in capsys.readouterr().err
