import json
import sys
from pathlib import Path

import pytest

from mose.eval.__main__ import main
from mose.eval.retrieval import evaluate
from mose.eval.tasks import TASKS, load_task


def test_the_list_names_every_task(capsys):
    assert main(["--list"]) == 0
    shown = capsys.readouterr().out
    assert main(["tasks", "--list"]) == 0
    assert capsys.readouterr().out == shown
    for name, task in TASKS.items():
        assert f"{name}: {task.title}" in shown.replace("\n    ", " ")
    for words in ("exit 4 0.732, exit 9 0.773, exit 18 0.810", "52,561 → 183,295", "map@r: best 0.759"):
        assert words in shown.replace("\n    ", " ")
    assert main(["tasks", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert list(result) == list(TASKS)
    assert result["bigclonebench"]["paper"]["f1"]["18"] == 0.942
    assert result["advtest"]["columns"]["document"] == ["function_tokens", "code_tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in TASKS if name != "bigclonebench"])
def test_every_task_runs(name, published, model, tokenizer, model_folder, tmp_path, capsys):
    """From the published shape to the figures that the library gives for the task's sets."""
    folder, split = published(name), (["--split", "train"] if name == "synthconl" else [])
    command = ["run", name, "--data", str(folder), *split, "--model", str(model_folder), "--no-speed"]
    assert main([*command, "--peers", "bm25", "--exit-layers", "1", "--json", str(tmp_path / "report.json")]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    sets = load_task(name, folder, "train" if split else None)
    expected = evaluate(model, tokenizer, sets, [1], measure_speed=False)
    for one in sets:
        assert report["sets"][one.name]["exits"]["1"] == pytest.approx(expected["sets"][one.name]["exits"]["1"])
    task = report["tasks"][name]
    assert task["sets"] == [one.name for one in sets] and set(task["peers"]) == {"bm25"}
    values = [expected["sets"][one]["exits"]["1"][task["measure"]] for one in task["sets"]]
    assert task["exits"]["1"] == pytest.approx(sum(values) / len(values))
    assert f"{name}, {task['measure']}, " in capsys.readouterr().out


def test_several_tasks_make_one_report(published, model_folder, capsys):
    for name in ("advtest", "poj104"):
        folder = published(name)
    arguments = ["--data", str(folder.parent), "--model", str(model_folder), "--no-speed", "--json", "-"]
    assert main(["run", "advtest", "poj104", "--limit", "2", *arguments]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert list(report["sets"]) == list(report["tasks"]) == ["advtest", "poj104"]
    assert (report["sets"]["poj104"]["queries"], report["sets"]["poj104"]["documents"]) == (2, 6)
    assert set(report["sets"]["poj104"]["exits"]["3"]) == {"map@r"}
    assert "the paper's model: map@r: best 0.759" in captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nope"], 2, "task must be one of codesearchnet"),
        (["advtest", "advtest"], 2, "name each task once"),
        (["advtest", "--data", "nowhere"], 2, "--data nowhere: no such folder"),
        (["poj104", "--data", "."], 2, "--data .: neither test.jsonl nor test-*.parquet"),
        (["cosqa", "--subsets", "ruby"], 2, "subset of cosqa must be one of (none), got 'ruby'"),
        (["synthconl", "--columns", "code_a"], 2, "--columns must be WHAT=COLUMN, got code_a"),
        (["synthconl", "--columns", "x=y"], 2, "column of synthconl must be one of code_a"),
        (["advtest", "--limit", "0"], 2, "--limit: must be a whole number of at least 1, got '0'"),
        (["beir"], 2, "beir has no dataset of its own"),
        (["java-csharp", "--data", "broken"], 1, "no column 'cs'; there are: x"),
        (["bigclonebench", "--data", "clones"], 2, "no trained classifier at exit 0, 1, 3"),
    ],
)
def test_failures_are_named_and_counted(arguments, code, message, published, model_folder, monkeypatch, capsys):
    folder = published("bigclonebench")
    folder.rename(folder.parent / "clones")
    (folder.parent / "broken").mkdir()
    (folder.parent / "broken" / "test.jsonl").write_text('{"x": 1}\n')
    monkeypatch.chdir(folder.parent)
    with pytest.raises(SystemExit) as stop:
        sys.exit(main(["run", *arguments, "--model", str(model_folder), "--no-speed"]))
    assert stop.value.code == code
    captured = capsys.readouterr()
    assert message in captured.err and "Traceback" not in captured.err and captured.out == ""


def test_the_documentation_holds_the_table_as_it_is_now(capsys):
    assert main(["tasks", "--markdown"]) == 0
    page = Path(__file__).parents[3] / "docs" / "tasks.md"
    assert f"\n\n{capsys.readouterr().out}\n" in page.read_text(encoding="utf-8")
