"""kill -9 at any moment: a resumed run ends with the same bits, and results appear whole or not at all."""

import random
import signal
from pathlib import Path

import pytest
from forked_commands import Forked, run_forked, timed_forked, write_rows
from safetensors.torch import load_file

from mose.training.checkpoints import last_whole_checkpoint

#: Kills in a row before the run may finish, and chains of each kind.
KILLS, CHAINS = 5, 2
STEPS = 10
COMMON = ("--use-cpu", "--save-steps", "2", "--logging-steps", "1", "--learning-rate", "1e-3", "--resume")


@pytest.fixture(scope="module")
def runs(tiny_model_folder, tmp_path_factory):
    """The command lines of runs that train with dropout and shuffle, without --output-dir."""
    data = tmp_path_factory.mktemp("data")
    code = [f"def add_{i}(a, b):\n    return a + b * {i}\n" for i in range(24)]
    pairs = [{"text": f"Add {i} numbers.", "code": text} for i, text in enumerate(code)]
    labels = [{"code": text, "label": i % 2} for i, text in enumerate(code)]
    files = [{"text": text * 3, "repository": f"r{i % 4}", "path": f"{i}.py"} for i, text in enumerate(code)]
    model, batch = ("--model", tiny_model_folder), ("--per-device-train-batch-size", "4")
    more = ("--max-steps", str(STEPS), *batch, *COMMON)
    return {
        "fine-tuning": [
            *("train", "finetune", *model, "--dataset", write_rows(data / "pairs.jsonl", pairs), *more),
            *("--token-dropout", "0.2", "--align-exits"),
        ],
        "pre-training": [
            *("train", "pretrain", *model, "--dataset", write_rows(data / "files.jsonl", files), *more),
            *("--held-out", "0", "--max-length", "64", "--shuffle-buffer", "8", "--report-to", "none"),
        ],
        "classification": [
            *("train", "classify", *model, "--train-file", write_rows(data / "labels.jsonl", labels), *more)
        ],
    }


@pytest.fixture(scope="module")
def expected(runs, tmp_path_factory):
    """Kind of run -> weights of the one that nothing disturbs, its seconds, and those of doing nothing."""
    made = {}

    def make(kind):
        if kind not in made:
            out = tmp_path_factory.mktemp("expected") / "out"
            command = [*runs[kind], "--output-dir", str(out)]
            seconds = timed_forked(command, out.with_name("log"))
            weights = load_file(out / "model.safetensors")
            made[kind] = weights, seconds, timed_forked(command, out.with_name("log"))
        return made[kind]

    return make


def assert_same_weights(out, weights):
    stored = load_file(Path(out) / "model.safetensors")
    assert stored.keys() == weights.keys()
    assert all((stored[name] == weights[name]).all() for name in weights)


@pytest.mark.parametrize("chain", range(CHAINS))
@pytest.mark.parametrize("kind", ["fine-tuning", "pre-training", "classification"])
def test_a_chain_of_kills(runs, expected, tmp_path, tries, kind, chain):
    weights, seconds, idle = expected(kind)
    command = [*runs[kind], "--output-dir", str(tmp_path / "out")]
    draw, endings = random.Random(f"{kind} {chain}"), []
    for _ in range(KILLS):
        last = last_whole_checkpoint(tmp_path / "out")
        left = 1 - int(last.name.split("-")[1]) / STEPS if last else 1
        moment = draw.uniform(0.5, 1) * idle + draw.uniform(0, 0.8) * left * max(seconds - idle, 0.1)
        code = Forked(command, tmp_path / "log").kill_after(moment)
        assert code in (0, -signal.SIGKILL), (tmp_path / "log").read_text()[-2000:]
        endings.append("killed, resumed, same bits" if code else "had ended, same bits")

    status, text = run_forked(command, tmp_path / "log")
    assert status == 0, text[-2000:]
    assert_same_weights(tmp_path / "out", weights)
    assert endings.count("killed, resumed, same bits") >= 2, endings
    for ended in endings:
        tries.record(f"kill -9 while {kind}", ended, area="training")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("kind", ["fine-tuning", "pre-training", "classification"])
def test_signals_save(runs, expected, tmp_path, tries, kind, number):
    weights, seconds, idle = expected(kind)
    command = [*runs[kind], "--output-dir", str(tmp_path / "out")]
    for share in (0.1, 0.3, 0.5):
        running = Forked(command, tmp_path / "log")
        code = running.kill_after(idle * 0.7 + seconds * share, number)
        assert code in (0, 128 + number, -number), running.text()[-2000:]
        if code == -number:
            # It had not read its arguments yet.
            assert not list((tmp_path / "out").glob("checkpoint-*")) or not running.text()
            ended = "ended before it began, same bits"
        elif code and "is saved. Pass --resume" in running.text():
            ended = "saved, says where, resumed, same bits"
        else:
            ended = "ended outside of steps, same bits" if code else "had ended, same bits"
            assert "Traceback" not in running.text()
        tries.record(f"{signal.Signals(number).name} while {kind}", ended, area="training")

    status, text = run_forked(command, tmp_path / "log")
    assert status == 0, text[-2000:]
    assert_same_weights(tmp_path / "out", weights)


def test_kills_while_slicing(tiny_model_folder, tmp_path, tries):
    def command(out):
        return ["hub", "slice", tiny_model_folder, "--exit-layer", "1", "--output-dir", str(out)]

    seconds = timed_forked(command(tmp_path / "expected"), tmp_path / "log")
    expected = contents(tmp_path / "expected")
    for kill in range(10):
        out = tmp_path / f"out{kill}"
        Forked(command(out), tmp_path / "log").kill_after(seconds * (kill + 0.5) / 10)
        ended = "whole" if out.exists() else "nothing, then whole"
        if not out.exists():
            status, text = run_forked(command(out), tmp_path / "log")
            assert status == 0, text
        assert contents(out) == expected
        tries.record("kill -9 while slicing", ended, area="slice")


def test_kills_while_embedding_a_corpus(tiny_model_folder, tmp_path, tries):
    texts = [{"text": f"def f{i}(): return {i}" * (i % 20 + 1)} for i in range(600)]
    corpus = write_rows(tmp_path / "corpus.jsonl", texts)

    def command(out):
        flags = ("--corpus", corpus, "--output-dir", str(out), "--shard-rows", "25")
        return ["eval", "encode", "--model", tiny_model_folder, *flags]

    seconds = timed_forked(command(tmp_path / "expected"), tmp_path / "log")
    expected = contents(tmp_path / "expected", "*.chunk")
    out = tmp_path / "out"
    for kill in range(10):
        code = Forked(command(out), tmp_path / "log").kill_after(seconds * (0.3 + 0.06 * kill))
        assert code in (0, -signal.SIGKILL)
        tries.record(
            "kill -9 while embedding", "killed, resumed, same bits" if code else "had ended", area="encode"
        )
    status, text = run_forked(command(out), tmp_path / "log")
    assert status == 0, text
    assert contents(out, "*.chunk") == expected


def contents(folder, pattern="*"):
    """Return the bytes of every file by name; cards name their folder."""
    files = (path for path in folder.rglob(pattern) if path.is_file() and path.suffix != ".md")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
