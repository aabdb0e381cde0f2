"""Malformed input at every command: one line of error, no traceback, nothing written."""

import json

import pytest

from mose.__main__ import main

NUMBERS = ("-1", "0", "nan", "inf", "x", "", "1e999", "9" * 40, "1.5.2", "\u0661\u0000")
FOLDERS = ("/nonexistent/folder", "", "\n", "a" * 5000, "http://a/b", "a/b/c/d")
#: Command with the flags that need no value of ours -> flags that take a number.
NUMERIC = {
    ("train", "finetune"): (
        "--learning-rate",
        "--per-device-train-batch-size",
        "--max-query-length",
    ),
    ("train", "classify"): ("--max-length", "--num-train-epochs"),
    ("train", "pretrain"): ("--max-steps", "--held-out"),
    ("hub", "slice"): ("--exit-layer",),
}
PLACES = {
    ("hub", "slice", "--exit-layer", "1", "--output-dir", "OUT"): "MODEL",
    ("hub", "publish", "--dry-run"): "MODEL",
    ("hub", "card", "--output", "-"): "MODEL",
    ("hub", "export", "--output-dir", "OUT"): "MODEL",
    ("train", "finetune", "--dataset", "PAIRS", "--output-dir", "OUT", "--model"): "MODEL",
    ("train", "finetune", "--model", "TINY", "--output-dir", "OUT", "--dataset"): "DATA",
    ("train", "classify", "--model", "TINY", "--output-dir", "OUT", "--train-file"): "DATA",
    ("train", "merge", "--output-dir", "OUT", "--adapter"): "MODEL",
    ("eval", "encode", "--output-dir", "OUT", "--corpus", "PAIRS", "--model"): "MODEL",
    ("eval", "retrieval", "--model", "TINY", "--data"): "DATA",
}


def run(words, capsys):
    try:
        status = main(words)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    return status, capsys.readouterr().err


@pytest.fixture
def places(tiny_model_folder, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"text": f"Add {i}.", "code": f"x + {i}", "label": i % 2} for i in range(8)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"TINY": tiny_model_folder, "PAIRS": str(pairs), "OUT": str(tmp_path / "out")}


def assert_refused(status, error, words):
    assert status in (1, 2), (status, words)
    assert error.strip() and "Traceback" not in error, (error, words)


@pytest.mark.parametrize("command", PLACES)
def test_places(places, tmp_path, tries, capsys, command):
    for place in FOLDERS:
        words = [places.get(word, word) for word in command]
        words += [place, "a/b"] if "publish" in words else [place]
        assert_refused(*run(words, capsys), words)
        assert not (tmp_path / "out" / "model.safetensors").exists()
        tries.record(f"{' '.join(command[:2])}: no such {PLACES[command].lower()}", "refused in a line")


@pytest.mark.parametrize("command", NUMERIC)
def test_numbers(places, tmp_path, tries, capsys, command):
    data = {"classify": "--train-file", "finetune": "--dataset", "pretrain": "--dataset"}.get(command[1])
    for flag in NUMERIC[command]:
        for value in NUMBERS:
            words = [*command, "--output-dir", places["OUT"], flag, value]
            words += (
                ["--max-steps", "1"]
                if data is not None and flag not in ("--max-steps", "--num-train-epochs")
                else []
            )
            words += [places["TINY"]] if data is None else ["--model", places["TINY"], data, places["PAIRS"]]
            if (flag, value) in {
                ("--learning-rate", "0"),
                ("--per-device-train-batch-size", "0"),
                ("--held-out", "0"),
            }:
                continue  # allowed
            if (flag, value) in {("--exit-layer", "0"), ("--num-train-epochs", "0")}:
                continue
            assert_refused(*run(words, capsys), words)
            tries.record(f"{' '.join(command)} {flag}: no such number", "refused in a line")
