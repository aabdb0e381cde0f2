import argparse
import logging
import sys
import types

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.hub.__main__ import main as hub
from mose.search.__main__ import main as search
from mose.train_hf import main as train
from mose.utils.command_line import (
    EXTRAS,
    ArgumentError,
    Command,
    configure_output,
    empty_argument,
    exit_status,
    import_command,
    missing_extra,
    positive_int,
    run_subcommand,
)


def raising(error):
    def run():
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ArgumentError("no such folder"), 2, "mose x: no such folder"),
        (ValueError("a bug, or bad data"), 1, "mose x: a bug, or bad data"),
        (RuntimeError(), 1, "mose x: RuntimeError"),
        (KeyError("mrr"), 1, "mose x: KeyError: 'mrr'"),
        (FileNotFoundError(2, "No such file", "a.json"), 1, "mose x: [Errno 2] No such file: 'a.json'"),
        (ImportError("cannot import name 'a' from 'b'"), 1, "mose x: cannot import name 'a' from 'b'"),
        (KeyboardInterrupt(), 130, "mose x: interrupted"),
        (ModuleNotFoundError("No module named 'lance'", name="lance"), 1, "mose x needs lance: pip install"),
    ],
)
def test_exit_codes(error, status, message, capsys):
    assert exit_status("mose x", raising(error)) == status
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith(message) and captured.err.count("\n") == 1


def test_a_traceback_is_printed_on_request(monkeypatch, capsys):
    monkeypatch.setenv("MOSE_DEBUG", "1")
    assert exit_status("mose x", raising(TypeError("not callable"))) == 1
    error = capsys.readouterr().err
    assert error.startswith("Traceback") and error.endswith("\nmose x: TypeError: not callable\n")
    assert exit_status("mose x", raising(ArgumentError("no such folder"))) == 2
    assert capsys.readouterr().err == "mose x: no such folder\n"


def test_success_prints_nothing(capsys):
    assert exit_status("mose x", lambda: "any result") == 0
    assert capsys.readouterr() == ("", "")


def test_a_command_chooses_its_bad_arguments_and_its_word_on_interrupt(capsys):
    assert exit_status("x", raising(ValueError("bad")), bad_arguments=(ValueError,)) == 2
    assert exit_status("x", raising(KeyboardInterrupt()), on_interrupt="run it again to resume") == 130
    assert capsys.readouterr().err == "x: bad\nx: run it again to resume\n"


@pytest.fixture
def commands(monkeypatch):
    """Two commands; only the module of the first exists."""
    calls = []
    greet = types.ModuleType("fake_greet")
    greet.add_arguments = lambda parser: parser.add_argument("name")
    greet.run = lambda options: calls.append(options.name)
    monkeypatch.setitem(sys.modules, "fake_greet", greet)
    table = {"greet": Command("fake_greet", "greet somebody"), "other": Command("no_such_module", "do more")}
    return table, calls


def test_only_messages_of_the_package_are_logged(monkeypatch, capsys):
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    configure_output()
    configure_output()
    logging.getLogger("mose.search").info("ours")
    monkeypatch.setattr(logging.getLogger("other"), "level", logging.DEBUG)
    logging.getLogger("other").debug("theirs")
    assert capsys.readouterr().err == "ours\n"


def test_a_subcommand_gets_its_arguments(commands):
    table, calls = commands
    assert run_subcommand("mose hub", "A program.", table, ["greet", "you"]) == 0
    assert calls == ["you"]


def test_help_lists_every_command_and_imports_none(commands, capsys):
    with pytest.raises(SystemExit) as stop:
        run_subcommand("mose hub", "A program.", commands[0], ["--help"])
    text = capsys.readouterr().out
    assert stop.value.code == 0 and "greet somebody" in text and "do more" in text


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["greet"], ["greet", "you", "--nonsense"]])
def test_bad_arguments_exit_with_2(commands, arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        run_subcommand("mose hub", "A program.", commands[0], arguments)
    assert stop.value.code == 2 and "usage: mose hub" in capsys.readouterr().err


def test_arguments_default_to_the_words_of_the_process(commands, monkeypatch):
    table, calls = commands
    monkeypatch.setattr(sys, "argv", ["mose", "greet", "them"])
    assert run_subcommand("mose hub", "A program.", table) == 0 and calls == ["them"]


@pytest.mark.parametrize(
    ("program", "module", "extra"),
    [
        ("mose search index", "lance", "search"),
        ("mose search index", "tree_sitter_python", "search"),
        ("mose eval run", "datasets", "eval"),
        ("mose train", "datasets", "train"),
        ("train_hf.py finetune", "sklearn", "train"),
        ("synthconl build", "pathspec", "train"),
        ("mose hub serve", "uvicorn", "serve"),
        ("mose hub export", "onnxruntime.quantization", "onnx"),
    ],
)
def test_the_missing_extra_is_the_one_of_the_command(program, module, extra):
    package = module.split(".")[0]
    expected = f"{program} needs {package}: pip install 'mose[{extra}]'"
    assert missing_extra(program, ModuleNotFoundError(name=module)) == expected


def test_other_errors_name_no_extra():
    assert missing_extra("mose eval", ModuleNotFoundError("No module named 'mine'", name="mine")) is None
    assert missing_extra("mose eval", ValueError("lance")) is None


def test_importing_a_command_without_its_extra_exits_with_a_message(monkeypatch, tmp_path):
    (tmp_path / "fake_command.py").write_text("import lance\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "lance", None)
    with pytest.raises(SystemExit, match=r"mose search needs lance: pip install 'mose\[search\]'"):
        import_command("mose search", "fake_command")
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        import_command("mose search", "no_such_module")
    assert "lance" in EXTRAS["search"]


@given(st.integers(min_value=1, max_value=2**63 - 1))
def test_positive_whole_numbers_are_read(value):
    assert positive_int(str(value)) == value
    with pytest.raises(argparse.ArgumentTypeError, match="must be below 2\\^63, got"):
        positive_int(str(value + 2**63 - 1))


@given(st.one_of(st.integers(max_value=0).map(str), st.floats().map(str), st.text(alphabet="x.-e ²½")))
def test_anything_else_is_refused(word):
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number of at least 1, got"):
        positive_int(word)


@pytest.mark.parametrize("words", [["", "x"], ["--flag", " "], ["a", "\n"]])
def test_an_empty_argument_is_named(words):
    assert "an argument is empty" in str(empty_argument(words))
    assert empty_argument(["a", "--flag", "b c"]) is None


def test_no_command_takes_an_empty_path_for_the_current_folder(capsys):
    with pytest.raises(SystemExit) as stop:
        hub(["slice", "", "--exit-layer", "1", "--output-dir", "x"])
    assert stop.value.code == 2 and "an argument is empty" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        search(["index", ""])
    assert stop.value.code == 2 and "must name a folder, got ''" in capsys.readouterr().err
    assert train(["finetune", "--model", ""]) == 2
    assert "an argument is empty after --model" in capsys.readouterr().err
