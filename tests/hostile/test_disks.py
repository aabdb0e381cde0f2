"""Full and read-only disks: one line of error, nothing half written, and the run resumes once there is room."""

import re

import pytest
from forked_commands import limit_files, run_forked, timed_forked, write_rows
from safetensors.torch import load_file
from small_disks import SmallDisk, can_mount

#: A traceback, or an exception's type before its text.
BUG = re.compile(r"Traceback|(^|: )[A-Z]\w*(Error|Exception)\b(?!\()", re.MULTILINE)
#: How the system, Rust and safetensors say that a disk is full, or a file as large as it may be.
FULL = ("No space left", "os error 28", "File too large", "os error 27")
#: The smallest leaves room for the output of the command, which is a file, too.
LIMITS = (8_000, 60_000, 200_000)


@pytest.fixture(scope="module")
def commands(tiny_model_folder, tmp_path_factory):
    """Command lines without their output folder, which comes last."""
    data = tmp_path_factory.mktemp("data")
    code = [f"def add_{i}(a): return a + {i}" for i in range(16)]
    pairs = write_rows(data / "pairs.jsonl", [{"text": f"Add {i}.", "code": c} for i, c in enumerate(code)])
    labels = write_rows(data / "labels.jsonl", [{"code": c, "label": i % 2} for i, c in enumerate(code)])
    files = [{"text": c * 9, "repository": f"r{i % 4}", "path": f"{i}.py"} for i, c in enumerate(code)]
    common = ("--use-cpu", "--max-steps", "8", "--save-steps", "2", "--per-device-train-batch-size", "4")
    train = ("--model", tiny_model_folder, *common, "--learning-rate", "1e-3", "--resume")
    pretrain = ("--held-out", "0", "--max-length", "64", "--report-to", "none")
    pretrain = (*pretrain, "--dataset", write_rows(data / "files.jsonl", files))
    adapter = data / "adapter"
    lora = ("--lora", "--output-dir", str(adapter))
    timed_forked(["train", "finetune", "--dataset", pairs, *train, *lora], data / "log")
    return {
        "fine-tuning": ["train", "finetune", "--dataset", pairs, *train, "--output-dir"],
        "pre-training": ["train", "pretrain", *pretrain, *train, "--output-dir"],
        "classification": ["train", "classify", "--train-file", labels, *train, "--output-dir"],
        "slice": ["hub", "slice", tiny_model_folder, "--exit-layer", "1", "--output-dir"],
        "export": ["hub", "export", tiny_model_folder, "--exit-layer", "1", "--output-dir"],
        "merge": ["train", "merge", "--adapter", str(adapter), "--output-dir"],
        "encode": ["eval", "encode", "--model", tiny_model_folder, "--corpus", pairs, "--output-dir"],
        "card": ["hub", "card", tiny_model_folder, "--output"],
    }


@pytest.fixture(scope="module")
def expected(commands, tmp_path_factory):
    """Command -> the weights that it writes when nothing is in its way."""
    made = {}

    def make(name):
        if name not in made:
            out = tmp_path_factory.mktemp("expected") / "out"
            timed_forked([*commands[name], str(out)], out.with_name("log"))
            made[name] = load_file(out / "model.safetensors")
        return made[name]

    return make


def assert_same_weights(out, weights):
    stored = load_file(out / "model.safetensors")
    assert stored.keys() == weights.keys()
    assert all((stored[name] == weights[name]).all() for name in weights)


def assert_told(text, *reasons):
    """Check that a failure is told in a line without the type of an exception, and with one of the reasons."""
    lines = [line for line in re.split("[\r\n]", text) if re.search("(mose|train_hf.py) .*: ", line)]
    assert "Traceback" not in text and not BUG.search(text), text[-2000:]
    assert any(reason in line for line in lines for reason in reasons), text[-2000:]


TRAINING = ("fine-tuning", "pre-training", "classification")
#: Kilobytes of the disk; the runs need up to 900.
SIZES = (8, 250, 600)


@pytest.fixture
def disk(tmp_path):
    made = []

    def make(kilobytes):
        made.append(SmallDisk(tmp_path / f"disk{len(made)}", kilobytes))
        return made[-1]

    yield make
    for one in made:
        one.unmount()


@pytest.mark.parametrize("kilobytes", SIZES)
@pytest.mark.parametrize("name", TRAINING)
def test_a_disk_that_fills_up_while_training(commands, expected, disk, tmp_path, tries, name, kilobytes):
    small = disk(kilobytes)
    command = [*commands[name], str(small.folder / "out")]
    status, text = run_forked(command, tmp_path / "log")
    assert status in (0, 1), text
    if status:
        assert_told(text, *FULL)

    small.remount("size=64m")
    again, text = run_forked(command, tmp_path / "log")
    assert again == 0, text
    assert_same_weights(small.folder / "out", expected(name))
    ended = "said in a line; with room, same weights" if status else "fits"
    tries.record("disk full", ended, area=name)


@pytest.mark.parametrize("kilobytes", SIZES)
@pytest.mark.parametrize("name", ["slice", "export", "merge", "encode", "card"])
def test_a_disk_that_fills_up_while_writing(commands, disk, tmp_path, tries, name, kilobytes):
    small = disk(kilobytes)
    before = sorted(small.folder.rglob("*"))
    command = [*commands[name], str(small.folder / "out")]
    status, text = run_forked(command, tmp_path / "log")
    assert status in (0, 1), text
    if status:
        assert_told(text, *FULL)
        # A store of embeddings keeps the shards that are whole; everything else appears as a whole.
        assert name == "encode" or sorted(small.folder.rglob("*")) == before
        small.remount("size=64m")
        again, text = run_forked(command, tmp_path / "log")
        assert again == 0, text
    tries.record("disk full", "said in a line, nothing left; with room, done" if status else "fits", area=name)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("name", ["fine-tuning", "pre-training"])
def test_files_that_may_not_grow(commands, expected, tmp_path, tries, name, limit):
    command = [*commands[name], str(tmp_path / "out")]
    status, text = run_forked(command, tmp_path / "log", limit_files(limit))
    assert status in (0, 1), text
    if status:
        # torch's writer of archives has no other word for it, and there is room on this disk.
        assert_told(text, *FULL, "unexpected pos")

    again, text = run_forked(command, tmp_path / "log")
    assert again == 0, text
    assert_same_weights(tmp_path / "out", expected(name))
    ended = "said in a line; with room, same weights" if status else "fits"
    tries.record("disk full (files limited in size)", ended, area=name)


@pytest.mark.parametrize("place", ["", "out", "a/b"])
@pytest.mark.parametrize(
    "name",
    ["fine-tuning", "pre-training", "classification", "slice", "export", "merge", "encode", "card"],
)
def test_read_only_folders(commands, disk, tmp_path, tries, name, place):
    if can_mount():
        # Root may write into any folder, but into no read-only file system.
        locked = disk(64)
        locked.remount("ro")
        folder = locked.folder
    else:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o555)

    if name == "card" and not place:
        place = "README.md"
    status, text = run_forked([*commands[name], str(folder / place)], tmp_path / "log")
    assert status in (1, 2), text
    # A slice replaces a folder, which a disk itself cannot be. A card needs its folder.
    assert_told(text, "Read-only file system", "Permission denied", "resource busy", "No such file")
    assert list(folder.iterdir()) == []
    tries.record("read-only folder", "refused in a line that says so, nothing written", area=name)
