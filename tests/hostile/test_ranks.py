"""Two processes of one run, of which one goes wrong: both decide alike, and none waits for ever."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mose.training.checkpoints import last_whole_checkpoint
from mose.utils.locations import package_folder

WORKER = Path(__file__).parents[1] / "support" / "faulty_rank.py"


@pytest.fixture(scope="module")
def runs(tiny_model_folder, tmp_path_factory):
    """Task -> command line without --output-dir."""
    data = tmp_path_factory.mktemp("data")
    code = [f"def add_{i}(a): return a + {i}" for i in range(24)]
    rows = {
        "finetune": [{"text": f"Add {i}.", "code": c} for i, c in enumerate(code)],
        "pretrain": [{"text": c * 9, "repository": f"r{i % 4}", "path": f"{i}.py"} for i, c in enumerate(code)],
    }
    common = "--use-cpu --ddp-backend gloo --max-steps 6 --save-steps 2 --logging-steps 1 --learning-rate 1e-3"
    model = ("--model", tiny_model_folder, *common.split(), "--per-device-train-batch-size", "4")
    more = {"finetune": (), "pretrain": ("--held-out", "0", "--max-length", "64", "--report-to", "none")}
    commands = {}
    for task, lines in rows.items():
        path = data / f"{task}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in lines))
        commands[task] = [task, *model, "--dataset", str(path), *more[task]]
    return commands


@pytest.fixture
def run_two(runs, tmp_path):
    """Runs a task in two processes; returns what each of them found, and the output."""

    def run(task, fault, steps, *flags):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        torchrun += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", str(WORKER)]
        words = [
            *torchrun,
            fault,
            steps,
            str(tmp_path),
            *runs[task],
            *flags,
            "--output-dir",
            str(tmp_path / "out"),
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(package_folder().parent)}
        done = subprocess.run(words, capture_output=True, text=True, timeout=150, env=environment)
        found = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
        return *found, done.stderr

    return run


@pytest.mark.parametrize("fault", ["loss", "gradient"])
@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_both_stop(run_two, tmp_path, tries, task, fault):
    first, second, text = run_two(task, fault, "3")
    assert first == second and first["status"] == 1 and first["steps"] == 2 and first["finite"], text[-3000:]
    assert text.count("step 3: ") == 2 and "checkpoint-2 is the last checkpoint" in text
    assert last_whole_checkpoint(tmp_path / "out").name == "checkpoint-2"
    tries.record(f"{fault} of one of two processes is NaN", "both stop at the step, checkpoint kept", area=task)


@pytest.mark.parametrize("fault", ["loss", "gradient"])
@pytest.mark.parametrize("task", ["finetune", "pretrain"])
def test_both_skip(run_two, tries, task, fault):
    first, second, text = run_two(task, fault, "2,4", "--on-nonfinite", "skip")
    assert first == second, text[-3000:]
    assert (first["status"], first["steps"], first["skipped"], first["finite"]) == (0, 6, 2, True), text[-3000:]
    tries.record(f"{fault} of one of two processes is NaN", "both skip it, weights alike", area=task)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_both_end_after_a_signal_to_one(run_two, tmp_path, tries, name):
    first, second, text = run_two("finetune", name, "3")
    assert first == second and first["steps"] == 3, text[-3000:]
    assert last_whole_checkpoint(tmp_path / "out").name == "checkpoint-3"
    tries.record(f"{name} to one of two processes", "both save after the step and end", area="finetune")
