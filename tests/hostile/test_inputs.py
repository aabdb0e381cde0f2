"""Malformed content at every entrance that reads some: rows, reports, configurations, requests, texts."""

import json
import re
import shutil
from pathlib import Path

import pytest

from mose.__main__ import main
from mose.handler import EndpointHandler, RequestError
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.inference.static import StaticEncoder
from mose.utils.locations import package_folder

#: A traceback, or an exception's type before its text.
BUG = re.compile(r"Traceback|(^|: )[A-Z]\w*(Error|Exception)\b(?!\()", re.MULTILINE)
DEEP = b"[" * 100_000 + b"]" * 100_000
#: What a file of JSON lines may hold instead of rows.
JUNK = {
    "nothing": b"",
    "blank lines": b"\n\n \n",
    "no JSON": b"text code\nadd x\n",
    "a list": b"[]\n[1]\n",
    "null": b"null\n",
    "numbers": b"1\n2\n",
    "bytes": bytes(range(256)) * 8,
    "zeros": bytes(4096),
    "deep": DEEP,
    "UTF-16": '{"text": "a", "code": "b"}\n'.encode("utf-16"),
    "gzip": b"\x1f\x8b\x08\x00" + bytes(50),
    "other columns": b'{"a": 1}\n{"a": 2}\n',
    "cut": b'{"text": "Add.", "code": "x + 1", "label": 0}\n{"text": "Sub',
}
#: Values of a column that should have texts.
VALUES = {
    "null": None,
    "number": 3,
    "list": ["x"],
    "object": {"a": "b"},
    "bool": True,
    "empty": "",
    "spaces": "  \n\t",
    "surrogate": "\ud800",
    "zeros": "\0" * 20,
    "long": "x " * 300_000,
    "right to left": "\u202e\u2066 x \u2069",
    "combining": "e" + "\u0301" * 5000,
    "special tokens": "<sep><cls><mask><pad>" * 50,
}


def run(words, capsys):
    try:
        status = main([str(word) for word in words])
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    return status, capsys.readouterr().err


def assert_answered(status, error, words):
    assert status in (0, 1, 2), (status, words)
    assert not BUG.search(error), (error[-2000:], words)
    assert status == 0 or error.strip(), words


ROWS = [
    {"text": f"Add {i}.", "code": f"def add(a): return a + {i}", "label": i % 2, "repository": f"r{i % 3}"}
    for i in range(12)
]
TRAIN = ("--use-cpu", "--max-steps", "1", "--per-device-train-batch-size", "4", "--model", "TINY")
#: Entrance -> its command line; FILE has JSON lines, OUT is a new folder.
READERS = {
    "finetune": ("train", "finetune", "--dataset", "FILE", *TRAIN, "--output-dir", "OUT"),
    "finetune, validation": (
        *(
            "train",
            "finetune",
            "--dataset",
            "GOOD",
            "--validation-dataset",
            "FILE",
            *TRAIN,
            "--output-dir",
            "OUT",
        ),
    ),
    "classify": ("train", "classify", "--train-file", "FILE", *TRAIN, "--output-dir", "OUT"),
    "pretrain": (
        *("train", "pretrain", "--dataset", "FILE", *TRAIN, "--output-dir", "OUT", "--held-out", "0"),
        *("--max-length", "64", "--report-to", "none"),
    ),
    "eval encode": ("eval", "encode", "--model", "TINY", "--corpus", "FILE", "--output-dir", "OUT"),
    "encode": ("encode", "FILE", "--model", "TINY", "--output-dir", "OUT"),
    "deduplicate": ("deduplicate", "FILE", "--output-dir", "OUT", "--column", "code"),
    "synthconl": ("synthconl", "build", "--dataset", "FILE", "--model", "TINY", "--output-dir", "OUT"),
}


@pytest.fixture(scope="module")
def places(tiny_model_folder, tmp_path_factory):
    good = tmp_path_factory.mktemp("good") / "good.jsonl"
    good.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return {"TINY": tiny_model_folder, "GOOD": good}


def fill(words, places, **more):
    return [(places | more).get(word, word) for word in words]


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("reader", READERS)
def test_files_that_hold_no_rows(places, tmp_path, tries, capsys, reader, junk):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(JUNK[junk])
    words = fill(READERS[reader], places, FILE=path, OUT=tmp_path / "out")
    status, error = run(words, capsys)
    assert_answered(status, error, words)
    if reader in ("encode", "deduplicate"):
        # They leave out rows, and say how many: one must not end days of work.
        assert status or "left out" in error or not JUNK[junk].strip(), error
        tries.record(f"{reader}: a file that holds no rows", "refused" if status else "rows counted as left out")
        return

    assert status in (1, 2) and "rows.jsonl" in error, (status, error[-1500:])
    assert not (tmp_path / "out" / "model.safetensors").exists()
    tries.record(f"{reader}: a file that holds no rows", "refused, file named")


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("reader", READERS)
def test_rows_with_an_odd_value(places, tmp_path, tries, capsys, reader, value):
    path, column = tmp_path / "rows.jsonl", "text" if reader != "classify" else "code"
    rows = [dict(row) for row in ROWS]
    rows[5][column] = VALUES[value]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = fill(READERS[reader], places, FILE=path, OUT=tmp_path / "out")
    status, error = run(words, capsys)
    assert_answered(status, error, words)
    tries.record(f"{reader}: a row with an odd value", "refused in a line" if status else "read")


#: Reports that are none, or are damaged.
REPORTS = {
    **{name: JUNK[name] for name in ("nothing", "no JSON", "a list", "null", "bytes", "deep", "UTF-16", "cut")},
    "no sets": b"{}",
    "sets is a list": b'{"speed": {}, "sets": []}',
    "a set is null": b'{"speed": {}, "sets": {"a": null}}',
    "exits is a text": b'{"speed": {}, "sets": {"a": {"exits": "x"}}}',
    "a figure is a text": b'{"speed": {}, "sets": {"a": {"exits": {"0": {"mrr": "high"}}}}}',
    "a figure is NaN": b'{"speed": {}, "sets": {"a": {"exits": {"0": {"mrr": NaN}}}}}',
    "a figure is a list": b'{"speed": {}, "sets": {"a": {"exits": {"0": {"mrr": [1]}}}}}',
    "speed is a list": b'{"sets": {}, "speed": [1], "costs": 3}',
    "costs is a number": b'{"sets": {}, "speed": {}, "costs": 3}',
}


@pytest.mark.parametrize("report", REPORTS)
def test_reports(places, tmp_path, tries, capsys, report):
    path, card = tmp_path / "report.json", tmp_path / "README.md"
    path.write_bytes(REPORTS[report])
    card.write_text("---\nlicense: mit\n---\n# A\n")
    commands = (
        ("eval", "table", path),
        ("eval", "plot", path, "--output-dir", tmp_path / "plots"),
        ("eval", "choose", "--report", path, "--budget-ms", "9"),
        ("eval", "card", path, "--write-card", card),
        ("hub", "card", places["TINY"], "--report", path, "--output", "-"),
    )
    for words in commands:
        status, error = run(words, capsys)
        assert_answered(status, error, words)
        assert status in (1, 2), (words, error)
        tries.record(f"{words[0]} {words[1]}: {'a report that is none'}", "refused in a line")


ODD_FIELDS = (None, -1, 0, 10**30, 1.5, float("nan"), "x", [], [0], {}, True)


def test_configurations(whole, tmp_path, tries, capsys):
    """Every field of a configuration with every odd value: refused in a line, or a model that embeds."""
    original = json.loads((whole / "config.json").read_text())
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text('{"text": "x"}\n')
    for field in original:
        for value in ODD_FIELDS:
            (folder / "config.json").write_text(json.dumps(original | {field: value}))
            out = tmp_path / "out"
            words = ["eval", "encode", "--model", folder, "--corpus", corpus, "--output-dir", out]
            status, error = run(words, capsys)
            assert_answered(status, error, (field, value))
            shutil.rmtree(out, ignore_errors=True)
            tries.record("configuration with an odd value", "refused in a line" if status else "loads")


LOADERS = {
    "load_model": lambda folder: load_model(str(folder), device="cpu"),
    "StaticEncoder": lambda folder: StaticEncoder(str(folder)).encode(["x"]),
    "EndpointHandler": lambda folder: EndpointHandler(folder),
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_loaders_on_damaged_folders(whole, tmp_path, tries, loader, name):
    for number, content in enumerate((b"", b"{", b"[]", b"null", bytes(100), b"{}", DEEP)):
        folder = tmp_path / f"model{number}"
        shutil.copytree(whole, folder)
        (folder / name).write_bytes(content)
        try:
            LOADERS[loader](folder)
            ended = "loads"
        except (ValueError, OSError, RuntimeError) as error:
            assert str(error), error
            ended = "refused"
        except Exception:
            # It uses transformers alone, whose errors have many types.
            assert loader == "EndpointHandler"
            ended = "refused"
        tries.record(f"{loader}: {name} is damaged", ended, kind="corrupt bytes")


REQUESTS = (
    *(None, 3, "x", [], {}, {"inputs": None}, {"inputs": 3}, {"inputs": []}, {"inputs": [3]}, {"inputs": [[]]}),
    *({"inputs": {}}, {"inputs": ["x", None]}, {"inputs": "\ud800"}, {"inputs": ["x"] * 2000}),
    *({"inputs": "x" * 3_000_000}, {"inputs": "x", "parameters": []}, {"inputs": "x", "parameters": {"a": 1}}),
    *({"inputs": "x", "exit_layer": value} for value in (-1, 2, 99, 1.0, True, "1", [], float("nan"), 10**40)),
    *({"inputs": "x", "truncate_dim": value} for value in (-1, 0, 33, 1.0, True, "8", [], 10**40)),
    *({"inputs": "x", "prompt_name": value} for value in ("", "nope", 3, [], "query\0")),
    *({"inputs": "x", "normalize": value} for value in (0, 1, "true", [])),
    *({"inputs": "x", "truncation_direction": value} for value in ("up", 3, [])),
    *({"inputs": "x", "encoding_format": value} for value in ("hex", 3)),
    {"inputs": "x", "truncate_dim": 8, "dimensions": 9},
    {"inputs": "x", "exit_layer": 0, "parameters": {"exit_layer": 1}},
)


def test_requests_of_the_handler(whole, tries):
    handler = EndpointHandler(whole, device="cpu")
    for request in REQUESTS:
        with pytest.raises(RequestError) as refused:
            handler(request)
        assert refused.value.status in (400, 413) and len(str(refused.value)) < 400
        tries.record("request of the handler", "refused by name")


@pytest.mark.parametrize("value", [name for name, value in VALUES.items() if isinstance(value, str)])
def test_texts(whole, tries, value):
    text = VALUES[value]
    model, tokenizer, exits = load_model(str(whole), device="cpu")
    calls = {
        "encode": lambda: encode(model, tokenizer, [text, "x"], exits)[exits[0]],
        "StaticEncoder": lambda: StaticEncoder(str(package_folder())).encode([text, "x"]),
    }
    for name, call in calls.items():
        try:
            vectors = call()
        except ValueError as error:
            assert "surrogate" in str(error) or "text" in str(error), error
            ended = "refused"
        else:
            assert abs((vectors**2).sum(axis=1) - 1).max() < 1e-5
            ended = "embedded, norm 1"
        tries.record(f"{name}: odd text", ended)


ADAPTERS = {
    **{name: JUNK[name] for name in ("nothing", "no JSON", "null", "a list", "bytes", "deep")},
    "no base": b"{}",
    "base is a number": b'{"base_model_name_or_path": 3, "peft_type": "LORA"}',
    "another method": b'{"base_model_name_or_path": "BASE", "peft_type": "IA3"}',
    "no rank": b'{"base_model_name_or_path": "BASE", "peft_type": "LORA", "r": "x"}',
}


@pytest.mark.parametrize("content", ADAPTERS)
def test_adapters(places, tmp_path, tries, capsys, content):
    folder = tmp_path / "adapter"
    folder.mkdir()
    data = ADAPTERS[content].replace(b"BASE", places["TINY"].encode())
    (folder / "adapter_config.json").write_bytes(data)
    (folder / "adapter_model.safetensors").write_bytes(b"")
    words = ["train", "merge", "--adapter", folder, "--output-dir", tmp_path / "out"]
    status, error = run(words, capsys)
    assert status in (1, 2) and not (tmp_path / "out").exists()
    assert_answered(status, error, words)
    tries.record("train merge: an adapter that is none", "refused in a line")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv"])
def test_retrieval_sets(places, tmp_path, tries, capsys, name):
    rows = [{"_id": str(i), "text": row["code"]} for i, row in enumerate(ROWS)]
    for junk, content in JUNK.items():
        folder = tmp_path / junk.replace(" ", "-")
        folder.mkdir()
        for file in ("corpus", "queries"):
            (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        (folder / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n0\t0\t1\n1\t1\t1\n")
        (folder / name).write_bytes(content)
        words = ["eval", "retrieval", "--model", places["TINY"], "--data", folder, "--no-speed"]
        status, error = run(words, capsys)
        assert_answered(status, error, words)
        assert status in (1, 2) and (name in error or Path(folder).name in error), error
        tries.record(f"eval retrieval: {name} holds no rows", "refused, file named")
