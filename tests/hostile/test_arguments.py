"""Malformed arguments at every command: a line of error before any work, no traceback, nothing written."""

import argparse
import contextlib
import importlib
import json
import re
import signal

import pytest

from mose.__main__ import main
from mose.data.synthconl.__main__ import COMMANDS as SYNTHCONL
from mose.eval.__main__ import COMMANDS as EVAL
from mose.hub.__main__ import COMMANDS as HUB
from mose.search.__main__ import COMMANDS as SEARCH
from mose.train_hf import COMMANDS as TRAIN
from mose.train_hf import build_parser
from mose.training.help import help_text
from mose.utils.locations import package_folder

NO_NUMBERS = ("x", "", "1.5.2", "nan", "1,5", "\u0661\u0000")
NUMBERS = ("-1", "0", "inf", "1e999", "9" * 40, "1e-320", "0.5")
FOLDERS = ("/nonexistent/folder", "", "\n", "a" * 5000, "http://a/b", "a/b/c/d", "/dev/null")
#: Their arguments below name nothing that works, but numbers are looked at first.
FAILING = {("synthconl", "build"), ("synthconl", "push"), ("hub", "import"), ("train", "merge"), ("eval", "sets")}
#: Large values of these are long runs.
LONG = ("--max-steps", "--num-train-epochs")
#: These serve until they are interrupted.
ENDLESS = {("search", "watch"), ("search", "mcp"), ("hub", "serve"), ("demo",)}
#: A traceback, or an exception's type before its text.
BUG = re.compile(r"Traceback|(^|: )[A-Z]\w*(Error|Exception)\b(?!\()", re.MULTILINE)

COMMANDS = [
    *((program, name) for program, names in (("search", SEARCH), ("hub", HUB), ("eval", EVAL)) for name in names),
    *(("synthconl", name) for name in SYNTHCONL),
    *(("train", name) for name in TRAIN),
    ("encode",),
    ("deduplicate",),
]


def parser_of(command):
    """Return the parser of a command, from the module that implements it."""
    if command[0] == "train":
        return build_parser(command[1])
    programs = {"search": SEARCH, "hub": HUB, "eval": EVAL, "synthconl": SYNTHCONL}
    found = programs.get(command[0], {}).get(command[-1])
    module = found.module if found else f"mose.scale.{command[0]}"
    parser = argparse.ArgumentParser()
    importlib.import_module(module).add_arguments(parser)
    return parser


def numeric_flags(command):
    """Return the flags of a command whose values are parsed into something else than a text or a path."""
    texts = ("str", "Path", "_query", "string_to_bool", "<lambda>", "None")
    flags = [
        action.option_strings[-1]
        for action in parser_of(command)._actions
        if action.option_strings and getattr(action.type, "__name__", str(action.type)) not in texts
    ]
    if command in (("train", "pretrain"), ("train", "classify")):
        # The flags of TrainingArguments are the same in all commands.
        flags = [flag for flag in flags if f"  {flag}" in help_text(command[1])]
    return [flag for flag in flags if flag not in ("--local-rank", "--max-file-size")]


class Slow(BaseException):
    """A command takes longer than anything that is refused."""


def run(words, capsys, seconds=60):
    """Return exit status and stderr of a command."""

    def stop(*_):
        raise Slow(words)

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
        if isinstance(end.code, str):
            return status, end.code
    finally:
        signal.alarm(0)
    return status, capsys.readouterr().err


def assert_refused(status, error, words, allowed=(1, 2)):
    assert status in allowed, (status, error[-1500:], words)
    assert error.strip() and not BUG.search(error), (error[-1500:], words)


@pytest.fixture(scope="module")
def places(tiny_model_folder, tmp_path_factory):
    """What command lines name: a model, data, an index, a report."""
    work = tmp_path_factory.mktemp("places")

    def write(name, rows):
        (work / name).parent.mkdir(exist_ok=True)
        (work / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(work / name)

    code = [f"def add_{i}(a):\n    return a + {i}\n" for i in range(8)]
    files = [{"text": c * 4, "repository": f"r{i % 4}", "path": f"{i}.py"} for i, c in enumerate(code)]
    found = {
        "TINY": tiny_model_folder,
        "PAIRS": write("pairs.jsonl", [{"text": f"Add {i}.", "code": c} for i, c in enumerate(code)]),
        "LABELS": write("labels.jsonl", [{"code": c, "label": i % 2} for i, c in enumerate(code)]),
        "FILES": write("files.jsonl", files),
        "TREE": str(work / "tree"),
        "INDEX": str(work / "index"),
        "SET": str(work / "set"),
        "LABELLED": str(work / "labelled"),
        "REPORT": str(package_folder() / "docs/report/report.json"),
    }
    (work / "tree").mkdir()
    (work / "tree" / "a.py").write_text("".join(code))
    write("set/corpus.jsonl", [{"_id": str(i), "text": c} for i, c in enumerate(code)])
    write("set/queries.jsonl", [{"_id": str(i), "text": f"add {i}"} for i in range(8)])
    (work / "set" / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"{i}\t{i}\t1\n" for i in range(8))
    )
    query = {"repository": "a", "query": "add", "category": "symbol", "relevant": ["a.py"], "secondary": []}
    write("labelled/queries.jsonl", [query])
    write("labelled/a.jsonl", [{"path": "a.py", "content": "".join(code)}])
    index = ["search", "index", found["TREE"], "--model", tiny_model_folder, "--index", found["INDEX"]]
    assert main([*index, "--exit-layer", "1"]) == 0
    return found


TRAINING = ("--model", "TINY", "--output-dir", "OUT", "--use-cpu", "--per-device-train-batch-size", "4")
#: Command -> arguments with which it works. OUT is a folder that does not exist.
WORKING = {
    ("search", "index"): ("TREE", "--model", "TINY", "--index", "OUT"),
    ("search", "query"): ("add", "--index", "INDEX"),
    ("search", "similar"): ("--code", "x = 1", "--index", "INDEX"),
    ("search", "clones"): ("TREE", "--model", "TINY"),
    ("search", "watch"): ("TREE", "--index", "INDEX"),
    ("search", "mcp"): ("--index", "INDEX"),
    ("search", "eval"): ("LABELLED", "--model", "TINY"),
    ("search", "demo"): ("add", "--source-tree", "TREE", "--model", "TINY"),
    ("hub", "publish"): ("TINY", "a/b", "--dry-run"),
    ("hub", "slice"): ("TINY", "--exit-layer", "1", "--output-dir", "OUT"),
    ("hub", "import"): ("TINY", "--output-dir", "OUT", "--pooling", "mean"),
    ("hub", "export"): ("TINY", "--output-dir", "OUT", "--exit-layer", "0"),
    ("hub", "serve"): ("TINY",),
    ("hub", "card"): ("TINY", "--output", "-"),
    ("eval", "sets"): ("--output-dir", "OUT", "--clones", "TREE"),
    ("eval", "retrieval"): ("--model", "TINY", "--data", "SET"),
    ("eval", "run"): ("beir", "--model", "TINY", "--data", "SET"),
    ("eval", "tasks"): (),
    ("eval", "table"): ("REPORT",),
    ("eval", "plot"): ("REPORT", "--output-dir", "OUT"),
    ("eval", "choose"): (),
    ("eval", "card"): ("REPORT", "--write-card", "OUT"),
    ("eval", "encode"): ("--model", "TINY", "--corpus", "PAIRS", "--output-dir", "OUT"),
    ("eval", "codexglue"): ("advtest", "--answers", "PAIRS", "--predictions", "PAIRS"),
    ("synthconl", "build"): ("--output-dir", "OUT", "--dataset", "PAIRS", "--model", "TINY"),
    ("synthconl", "push"): ("OUT", "a/b"),
    ("train", "finetune"): (*TRAINING, "--dataset", "PAIRS", "--max-steps", "1"),
    ("train", "classify"): (*TRAINING, "--train-file", "LABELS", "--max-steps", "1"),
    ("train", "pretrain"): (*TRAINING, "--dataset", "FILES", "--max-steps", "1", "--held-out", "0")
    + ("--max-length", "64", "--report-to", "none"),
    ("train", "merge"): ("--adapter", "TINY", "--output-dir", "OUT"),
    ("encode",): ("PAIRS", "--model", "TINY", "--output-dir", "OUT"),
    ("deduplicate",): ("PAIRS", "--output-dir", "OUT"),
}


def fill(command, places, out):
    return [*command, *(places.get(word, word).replace("OUT", str(out)) for word in WORKING[command])]


def test_every_command_is_attacked():
    assert set(WORKING) == set(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_numbers(places, tmp_path, tries, capsys, command):
    flags = numeric_flags(command)
    for number, flag in enumerate(flags):
        for value in (*NO_NUMBERS, *NUMBERS):
            is_number = value in NUMBERS
            if is_number and (command in ENDLESS or (flag in LONG and value == "9" * 40)):
                continue
            out = tmp_path / f"out-{number}"
            words = [*fill(command, places, out), flag, value]
            status, error = run(words, capsys)
            if not is_number or status:
                # 1 would mean that work had begun.
                # `choose` ends with 1 if no exit fits.
                # A step that a learning rate of 1e39 makes infinite is only known once it was made.
                may_fail = is_number and (command in FAILING or command == ("eval", "choose"))
                may_fail |= is_number and "is not finite" in error
                assert_refused(status, error, words, allowed=(1, 2) if may_fail else (2,))
                assert not (out / "model.safetensors").exists()
            name = " ".join(command)
            tries.record(f"{name}: {'extreme' if is_number else 'no'} number", "refused" if status else "done")
            with contextlib.suppress(FileNotFoundError):
                for path in sorted(out.rglob("*"), reverse=True):
                    path.rmdir() if path.is_dir() else path.unlink()
                out.rmdir() if out.is_dir() else out.unlink()


#: Words of `WORKING` that name what must exist.
NAMES = ("TINY", "PAIRS", "LABELS", "FILES", "TREE", "INDEX", "SET", "LABELLED", "REPORT")


@pytest.mark.parametrize("command", [c for c in COMMANDS if set(WORKING[c]) & set(NAMES)], ids="-".join)
def test_places(places, tmp_path, tries, capsys, command):
    names = set(WORKING[command]) & set(NAMES)
    # Units of one language need no model.
    for name in names - {"TINY"} if command == ("search", "clones") else names:
        for place in FOLDERS:
            out = tmp_path / "out"
            words = fill(command, places | {name: place}, out)
            assert_refused(*run(words, capsys), words)
            assert not (out / "model.safetensors").exists()
            tries.record(f"{' '.join(command)}: no such {name.lower()}", "refused in a line")


@pytest.mark.parametrize("command", COMMANDS, ids="-".join)
def test_words_that_mean_nothing(places, tmp_path, tries, capsys, command):
    choices = [action for action in parser_of(command)._actions if action.choices and action.option_strings]
    flags = [[action.option_strings[-1], "nonsense"] for action in choices]
    for more in (["--nonsense"], ["--nonsense", "1"], *flags):
        words = [*fill(command, places, tmp_path / "out"), *more]
        assert_refused(*run(words, capsys), words, allowed=(2,))
        assert not (tmp_path / "out").exists()
        tries.record(f"{' '.join(command)}: no such flag or choice", "refused in a line")
