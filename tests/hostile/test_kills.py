"""kill -9, full disks and read-only folders during training and slicing.

Tries run in forks of this process, which has imported everything: a kill can then hit any moment of the work.
"""

import contextlib
import json
import os
import resource
import signal
import tempfile
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

import mose.eval.held_out
import mose.hub.slice
import mose.training.finetuning.command  # noqa: F401
from mose.__main__ import main

LIMITS = (1_000, 5_000, 20_000, 60_000, 100_000, 150_000, 200_000, 250_000, 300_000, 400_000)


@pytest.fixture(scope="module")
def words(tiny_model_folder, tmp_path_factory):
    pairs = tmp_path_factory.mktemp("data") / "pairs.jsonl"
    rows = [{"text": f"Add {i}.", "code": f"def add_{i}(a): return a + {i}"} for i in range(16)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = (
        "--use-cpu --max-steps 8 --save-steps 2 --per-device-train-batch-size 4 --learning-rate 1e-3 --resume"
    )
    return ["train", "finetune", "--model", tiny_model_folder, "--dataset", str(pairs), *common.split()]


def fork(words, prepare=lambda: None):
    """Run a command in a fork and return its process id."""
    child = os.fork()
    if child:
        return child

    status = 70
    with contextlib.suppress(BaseException):
        null = os.open(os.devnull, os.O_RDWR)
        for handle in (1, 2):
            os.dup2(null, handle)
        prepare()
        status = main(words)
    os._exit(status)


def wait(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def expected(words, tmp_path_factory):
    """Weights of the run that nothing disturbs, and its seconds."""
    out, start = tmp_path_factory.mktemp("expected") / "out", time.monotonic()
    assert wait(fork([*words, "--output-dir", str(out)])) == 0
    return load_file(out / "model.safetensors"), time.monotonic() - start


def assert_same(out, weights):
    stored = load_file(Path(out) / "model.safetensors")
    assert stored.keys() == weights.keys()
    assert all((stored[name] == weights[name]).all() for name in weights)


@pytest.mark.parametrize("chain", range(3))
def test_kill_chain(words, expected, tmp_path, tries, chain):
    weights, seconds = expected
    command = [*words, "--output-dir", str(tmp_path / "out")]
    for kill in range(6):
        child = fork(command)
        time.sleep(seconds * (0.15 + 0.8 * ((kill * 5 + chain) % 8) / 8))
        os.kill(child, signal.SIGKILL)
        killed = wait(child) == -signal.SIGKILL
        ended = "killed" if killed else "had ended"
        tries.record("kill -9 while fine-tuning", f"{ended}; resumed, same weights", area="training")
    assert wait(fork(command)) == 0
    assert_same(tmp_path / "out", weights)


@pytest.mark.parametrize("limit", LIMITS)
def test_full_disk(words, expected, tmp_path, tries, limit):
    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = [*words, "--output-dir", str(tmp_path / "out")]
    status = wait(fork(command, full))
    assert status in (0, 1)
    assert wait(fork(command)) == 0
    assert_same(tmp_path / "out", expected[0])
    tries.record(
        "files limited in size", "failed, then resumed, same weights" if status else "fits", area="training"
    )


@pytest.mark.parametrize("limit", LIMITS)
def test_full_disk_while_slicing(tiny_model_folder, tmp_path, tries, limit):
    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    command = ["hub", "slice", tiny_model_folder, "--exit-layer", "1", "--output-dir", str(tmp_path / "out")]
    status = wait(fork(command, full))
    assert status in (0, 1) and (tmp_path / "out").exists() is (status == 0)
    tries.record("files limited in size", "failed, nothing left" if status else "fits", area="slice")


def test_read_only_folders(words, tiny_model_folder, tries):
    with tempfile.TemporaryDirectory() as base:
        Path(base).chmod(0o755)
        locked = Path(base) / "locked"
        locked.mkdir(mode=0o555)
        outputs = ("", "out", "a/b")
        commands = [
            [*words, "--output-dir"],
            ["hub", "slice", tiny_model_folder, "--exit-layer", "1", "--output-dir"],
        ]
        for command in commands:
            for output in outputs:
                drop = (lambda: os.setuid(65534)) if os.getuid() == 0 else (lambda: None)
                assert wait(fork([*command, str(locked / output)], drop)) in (1, 2)
                assert list(locked.iterdir()) == []
                tries.record("read-only folder", "refused", area=" ".join(command[:2]))
