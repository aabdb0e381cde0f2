"""An index knows its model and its trees, and is brought up to date before it is searched."""

import json
import os
import threading
import time

import numpy as np
import pytest

from mose.search.index import Index
from mose.search.records import SHIPPED
from mose.search.store import Location, SearchIndexError, read_meta
from mose.search.watching import watch_trees
from mose.search.writing import index_writer
from tests.search.test_search import run

SHIFTED = "import sys\n\n\ndef add(a, b):\n    return a + b\n"


@pytest.fixture
def made(tree, tmp_path, model_folder):
    """An index at exit 0 of the fixture's tree, by a model that has been saved."""
    return Index.build(tree, str(model_folder), None, tmp_path / "index", 0, progress=False)


def places(index):
    return {(unit.name, unit.path, unit.start_line) for unit in index.units}


def test_an_index_is_opened_without_its_model_and_answers(made, tmp_path, model_folder):
    index = Index.open(tmp_path / "index")
    assert index.meta.model == str(model_folder) and index.query_exit_layer == 0
    assert [hit.name for hit in index.search("read a file", 4)] == [
        hit.name for hit in made.search("read a file", 4)
    ]
    assert index.report is None and not index.stale


def test_a_moved_and_renamed_function_is_found_where_it_is_now(made, tree, tmp_path):
    (tree / "numbers.py").unlink()
    (tree / "sums.py").write_text(SHIFTED.replace("add", "add_up"))
    index = Index.open(tmp_path / "index")
    assert {("add_up", "sums.py", 4)} <= places(index)
    assert not {name for name, *_ in places(index)} & {"add"}
    assert (index.report.changed, index.report.removed) == (1, 1)
    # The other version is still there, and says nothing of the change.
    assert ("add", "numbers.py", 1) in places(made)
    assert made.reload() and places(made) == places(index) and not made.reload()


def test_only_changed_units_are_embedded_and_only_changed_rows_written(made, tree):
    before = made._snapshot
    dates = tree / "dates.py"
    dates.write_text(dates.read_text().replace("% 12 + 1", "% 12 + 2"))
    report = made.refresh()
    assert (report.changed, report.embedded) == (1, 1)
    kept = set(before.addresses.tolist()) & set(made._snapshot.addresses.tolist())
    # Of the rows of four units and three files, those of one unit and one file have gone.
    assert len(before.addresses) == 7 and len(kept) == 5

    dates.write_text("\n" + dates.read_text())
    report = made.refresh()
    assert (report.changed, report.embedded) == (1, 0)  # lines have moved: rows are written, nothing is embedded
    assert ("parse_iso_date", "dates.py", 5) in places(made)
    assert made.refresh() is None


def test_a_change_that_keeps_size_and_time_is_seen(made, tree):
    numbers = tree / "numbers.py"
    made.refresh()
    before = numbers.stat()
    numbers.write_text(numbers.read_text().replace("a + b", "a * b"))
    os.utime(numbers, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert numbers.stat().st_size == before.st_size
    assert made.refresh().embedded == 1
    assert "a * b" in made.search("add", 1)[0].source


def test_unchanged_files_are_not_opened_again(made, tree, monkeypatch):
    later = time.time_ns() + 10**10
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert made.refresh() is None  # old enough now: the times are recorded
    monkeypatch.setattr("mose.search.tree.read_source", lambda *_: pytest.fail("a file was read"))
    assert made.refresh() is None
    monkeypatch.undo()
    assert made.refresh(max_age=3600) is None


def test_a_watched_tree_is_brought_up_to_date_by_itself(made, tree):
    stop = threading.Event()
    reports = watch_trees(made, stop)
    changes = threading.Timer(0.5, lambda: (tree / "numbers.py").write_text(SHIFTED))
    changes.start()
    try:
        report = next(reports)
        while not report.changed:  # the first one is about times alone, if any
            report = next(reports)
    finally:
        stop.set()
    assert report.changed == 1 and ("add", "numbers.py", 4) in places(made)
    assert list(reports) == []


def test_a_tree_that_is_not_there_keeps_its_units(made, tree):
    tree.rename(tree.with_name("moved"))
    assert made.refresh() is None and len(made) == 4


def test_an_empty_tree_has_no_hits(made, tree):
    for file in tree.rglob("*.*"):
        file.unlink()
    assert made.refresh().removed == 3 and len(made) == 0
    assert made.search("add") == [] and made.search("add", hybrid=False) == []


def test_a_version_stays_while_another_process_writes_one(made, tree, tmp_path):
    other = Index.open(tmp_path / "index")
    (tree / "numbers.py").write_text(SHIFTED)
    other.refresh()
    assert "import sys" not in made.search("add", 1)[0].source
    assert ("add", "numbers.py", 1) in places(made)
    assert made.refresh() is None and ("add", "numbers.py", 4) in places(made)


def test_an_index_that_cannot_be_written_says_so(made, tree, tmp_path, capsys, monkeypatch):
    (tree / "numbers.py").write_text(SHIFTED)
    monkeypatch.setattr("mose.search.building.LOCK_WAIT", 0.0)
    with index_writer(Location(str(tmp_path / "index"))):
        assert run("query", "add", "--index", tmp_path / "index", "--json") == 0
    out, err = capsys.readouterr()
    assert "another build is writing" in err and "another build" in json.loads(out)["stale"]
    assert run("query", "add", "--index", tmp_path / "index", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["hits"][0]["start_line"] == 4 and not err and not json.loads(out)["stale"]


def test_no_refresh_searches_the_index_as_it_is(made, tree, tmp_path, capsys):
    (tree / "numbers.py").write_text(SHIFTED)
    assert run("query", "add", "--index", tmp_path / "index", "--json", "--no-refresh") == 0
    assert json.loads(capsys.readouterr().out)["hits"][0]["start_line"] == 1


# --- Several trees -----------------------------------------------------------------------------------------


@pytest.fixture
def other(tmp_path):
    root = tmp_path / "other" / "tree"
    root.mkdir(parents=True)
    (root / "numbers.py").write_text("def subtract(a, b):\n    return a - b\n")
    return root


def test_a_second_tree_stands_beside_the_first(made, tree, other, tmp_path, model_folder, capsys):
    assert (
        run("index", other, "--index", tmp_path / "index", "--json") == 0
    )  # model and exit are those of the index
    report = json.loads(capsys.readouterr().out)
    assert (report["units"], report["embedded"], report["exit_layer"]) == (5, 1, 0)
    index = Index.open(tmp_path / "index")
    assert [(one.root, one.label) for one in index.trees] == [(str(tree), "tree"), (str(other), "tree-2")]
    roots = {hit.name: hit.root for hit in index.search("numbers", 10) if hit.path == "numbers.py"}
    assert roots == {"add": str(tree), "subtract": str(other)}
    assert index.catalogue.files == ["tree-2/numbers.py", "tree/dates.py", "tree/numbers.py", "tree/web/files.js"]
    assert {unit.root for unit in index.units_of("numbers.py")} == {str(tree), str(other)}

    (tree / "numbers.py").unlink()
    assert index.refresh().removed == 1
    assert {unit.name for unit in index.units_of("numbers.py")} == {"subtract"}

    assert run("index", tree, "--index", tmp_path / "index", "--remove") == 0
    assert "1 units of" in capsys.readouterr().out
    assert index.reload() and [unit.name for unit in index.units] == ["subtract"]
    assert run("index", tree, "--index", tmp_path / "index", "--remove") == 2
    assert run("index", other, "--index", tmp_path / "index", "--remove") == 2
    assert "is not in" in (errors := capsys.readouterr().err) and "is the only tree" in errors


def test_trees_with_files_in_common_are_refused(made, tree, tmp_path, model_folder):
    for root in (tree / "web", tree.parent):
        with pytest.raises(ValueError, match="have files in common"):
            Index.build(root, str(model_folder), None, tmp_path / "index", 0, progress=False)


def test_damage_costs_no_tree(made, other, tmp_path, model_folder, capsys):
    Index.build(other, str(model_folder), None, tmp_path / "index", 0, progress=False)
    data = max((tmp_path / "index" / "units.lance" / "data").iterdir(), key=lambda file: file.stat().st_size)
    content = data.read_bytes()
    start = content.index(made.vectors[0].tobytes())
    data.write_bytes(content[:start] + bytes(64) + content[start + 64 :])
    with pytest.raises(SearchIndexError, match="is damaged"):
        Index.open(tmp_path / "index")
    assert run("index", other, "--index", tmp_path / "index") == 0  # with the model and exit that it had
    assert "rebuilt, because" in capsys.readouterr().err
    index = Index.open(tmp_path / "index")
    assert (len(index), len(index.trees)) == (5, 2)
    assert (index.meta.exit_layer, index.meta.model) == (0, str(model_folder))


def test_another_exit_embeds_all_trees_again(made, other, tmp_path, model_folder):
    index = Index.build(other, str(model_folder), None, tmp_path / "index", 1, progress=False)
    assert (len(index), index.report.embedded, index.meta.exit_layer) == (5, 5, 1)


# --- Filters, places and models ----------------------------------------------------------------------------


def test_filters_leave_out_other_units(made, tmp_path, capsys):
    names = lambda **filters: {hit.name for hit in made.search("read a date", 10, **filters)}  # noqa: E731
    assert names(languages=["javascript"]) == {"readFile"} == names(paths=["web/"])
    assert names(paths=["*.py", "!dates.py"]) == {"add"}
    assert names(kinds=["function"], languages=["python"]) == {"add", "next_month", "parse_iso_date"}
    assert names(kinds=["class"]) == set()
    every = {hit.name: hit.similarity for hit in made.search("read a date", 10)}
    assert all(every[hit.name] == hit.similarity for hit in made.search("read a date", 10, languages=["python"]))

    command = ("query", "read a date", "--index", tmp_path / "index")
    assert run(*command, "--language", "javascript", "--json") == 0
    assert [hit["name"] for hit in json.loads(capsys.readouterr().out)["hits"]] == ["readFile"]
    assert run(*command, "--language", "klingon") == 2
    assert run(*command, "--kind", "spell") == 2
    errors = capsys.readouterr().err
    assert "klingon" in errors and "invalid choice: 'spell'" in errors


def test_an_index_without_a_place_is_in_the_cache_and_found_from_below(
    tree, tmp_path, model_folder, monkeypatch, capsys
):
    monkeypatch.setenv("MOSE_CACHE", str(tmp_path / "cache"))
    assert run("index", tree, "--model", model_folder, "--exit-layer", 0) == 0
    monkeypatch.chdir(tree / "web")
    capsys.readouterr()
    assert run("query", "read a file", "--json") == 0
    assert json.loads(capsys.readouterr().out)["root"] == str(tree)
    monkeypatch.chdir(tmp_path)
    assert run("query", "read a file") == 1
    assert "have no index. Run: python -m mose.search index DIR" in capsys.readouterr().err


def test_the_shipped_model_is_known_wherever_it_is_installed(tree, tmp_path):
    assert run("index", tree, "--index", tmp_path / "index", "--exit-layer", 0) == 0
    assert read_meta(Location(str(tmp_path / "index"))).model == SHIPPED


def test_code_beside_the_weights_is_not_run(tree, tmp_path, model, tokenizer, capsys):
    folder = tmp_path / "model"
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.MoSEConfig", "AutoModel": "evil.MoSEModel"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    command = ("index", tree, "--index", tmp_path / "index", "--model", folder)
    for exit_layer in (0, 1):
        assert run(*command, "--exit-layer", exit_layer) == 0
        assert run("query", "add", "--index", tmp_path / "index") == 0
    assert not (tmp_path / "ran").exists()
    capsys.readouterr()


def test_a_read_only_home_is_enough(made, tree, tmp_path, monkeypatch):
    """Neither the cache of the Hub nor our own is written."""
    home = tmp_path / "home"
    home.mkdir(mode=0o500)
    for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "MOSE_CACHE", "HF_MODULES_CACHE"):
        monkeypatch.setenv(name, str(home / name.lower()))
    before = sorted(home.rglob("*"))
    assert run("query", "add", "--index", tmp_path / "index", "--exit-layer", 0) == 0
    assert run("index", tree, "--index", tmp_path / "index", "--exit-layer", 1) == 0
    assert sorted(home.rglob("*")) == before == []


def test_a_home_that_nobody_can_write_is_enough(made, tree, tmp_path, monkeypatch, capsys):
    """Not even root can make a folder in a file."""
    (tmp_path / "file").touch()
    for name in ("HOME", "HF_HOME", "XDG_CACHE_HOME", "MOSE_CACHE", "HF_MODULES_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / "file" / name.lower()))
    assert run("query", "add", "--index", tmp_path / "index") == 0
    assert run("similar", "numbers.py:1", "--index", tmp_path / "index") == 0
    assert run("index", tree, "--index", tmp_path / "index", "--exit-layer", 1) == 0
    capsys.readouterr()
    assert run("index", tree) == 1  # its place would be in the cache
    assert "Traceback" not in (error := capsys.readouterr().err) and "file/mose_cache" in error


def test_searches_of_many_threads_each_see_one_version(made, tree, many):
    """Every hit of a search is of one version of the file, while it is changed again and again."""
    ended, torn = threading.Event(), []

    def search():
        while not ended.is_set():
            hits = made.search("value", 10, paths=["pair.py"])
            if len({hit.source.split()[-1] for hit in hits}) > 1:
                torn.append(hits)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for version in range(6):
            text = f"def first_value():\n    return {version}\n\n\ndef second_value():\n    return {version}\n"
            (tree / "pair.py").write_text(text)
            made.refresh()
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert not torn
    assert np.isclose(np.linalg.norm(made.vectors, axis=1), 1, atol=1e-4).all()
