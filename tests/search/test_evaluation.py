"""Judging the ranking: the metric, the folder of labelled queries, the command, the fit."""

import json

import numpy as np
import pytest
import pytrec_eval
from hypothesis import given, settings
from hypothesis import strategies as st

from mose.search import main
from mose.search.evaluation.dataset import read_labelled_repositories, write_tree
from mose.search.evaluation.fitting import GRID, START, fit_constants, fit_without_each
from mose.search.evaluation.metrics import file_ndcg
from mose.search.ranking.constants import RANKING_FUNCTIONS

# --- Metric ------------------------------------------------------------------------------------------------

files = st.sampled_from("abcdefghijklm")


@settings(deadline=None)
@given(st.lists(files, min_size=1, max_size=14, unique=True), st.sets(files, min_size=1), st.integers(1, 12))
def test_ndcg_of_files_without_repetitions_is_that_of_trec_eval(paths, gold, k):
    run = {path: float(-rank) for rank, path in enumerate(paths)}
    evaluator = pytrec_eval.RelevanceEvaluator({"q": dict.fromkeys(gold, 1)}, {f"ndcg_cut.{k}"})
    assert file_ndcg(paths, gold, k) == pytest.approx(evaluator.evaluate({"q": run})["q"][f"ndcg_cut_{k}"])


@given(st.lists(files, min_size=1, max_size=20), st.sets(files, min_size=1))
def test_a_repeated_file_counts_once_and_takes_up_a_rank(paths, gold):
    distinct = [path if path not in paths[:place] else f"again {place}" for place, path in enumerate(paths)]
    assert file_ndcg(paths, gold) == pytest.approx(file_ndcg(distinct, gold))


def test_ndcg_by_hand():
    assert file_ndcg(["a", "b"], {"a"}) == 1
    assert file_ndcg(["x", "a", "a"], {"a", "b"}) == pytest.approx((1 / np.log2(3)) / (1 + 1 / np.log2(3)))
    assert file_ndcg(["x"] * 10 + ["a"], {"a"}) == 0


# --- Folder ------------------------------------------------------------------------------------------------

SOURCES = {
    "dates": {
        "lib/dates.py": "def parse_iso_date(text):\n    return date(text)\n",
        "lib/zones.py": "class ZoneTable:\n    pass\n",
    },
    "files": {
        "src/reader.js": "function readFile(path) {\n  return open(path);\n}\n",
        "src/writer.js": "function x() {}\n",
    },
}
QUERIES = [
    ("dates", "ZoneTable", "symbol", ["lib/zones.py"], []),
    ("dates", "how an ISO date is parsed", "semantic", ["dates.py"], ["lib/zones.py"]),
    ("files", "readFile", "symbol", ["reader.js"], []),
]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "labelled"
    root.mkdir()
    for name, contents in SOURCES.items():
        rows = [json.dumps({"path": path, "content": text}) for path, text in contents.items()]
        (root / f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    fields = ("repository", "query", "category", "relevant", "secondary")
    rows = [json.dumps(dict(zip(fields, query, strict=True))) for query in QUERIES]
    (root / "queries.jsonl").write_text("\n".join(rows) + "\n")
    return root


def test_gold_files_are_named_by_paths_or_their_ends(folder, tmp_path):
    data = read_labelled_repositories(folder)
    assert data.repositories == ["dates", "files"]
    assert [set(query.gold) for query in data.queries] == [
        {"lib/zones.py"},
        {"lib/dates.py", "lib/zones.py"},
        {"src/reader.js"},
    ]
    write_tree(data.contents["dates"], tmp_path / "tree")
    assert (tmp_path / "tree" / "lib" / "dates.py").read_text() == SOURCES["dates"]["lib/dates.py"]


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("queries.jsonl", {"repository": "dates", "query": "x", "category": "c"}, "must include relevant"),
        ("queries.jsonl", ("dates", "none.py"), "names the file 'none.py', which is 0 files of dates"),
        ("queries.jsonl", ("gone", "a.py"), "gone.jsonl: no such file"),
        ("dates.jsonl", {"path": "../evil.py", "content": ""}, "must stay in their tree, got '../evil.py'"),
        ("dates.jsonl", {"path": "/evil.py", "content": ""}, "must stay in their tree"),
        ("dates.jsonl", "no JSON", "not a JSON object"),
        ("dates.jsonl", 7, "not a JSON object"),
    ],
)
def test_a_malformed_folder_is_refused(folder, file, line, reason, capsys):
    if isinstance(line, tuple):
        line = {"repository": line[0], "query": "x", "category": "c", "relevant": [line[1]]}
    with (folder / file).open("a") as stream:
        stream.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
    with pytest.raises(ValueError, match=reason):
        read_labelled_repositories(folder)
    assert main(["eval", str(folder)]) == 2
    assert reason in capsys.readouterr().err


def test_the_command_reports_each_group_baseline_and_ablation(folder, tmp_path, model_folder, capsys):
    (tmp_path / "absent.txt").write_text("quantum chromodynamics\n\nsourdough\n")
    command = ["eval", folder, "--model", model_folder, "--exit-layer", 0, 1]
    command += ["--absent", tmp_path / "absent.txt", "--indexes", tmp_path / "indexes"]
    assert main([*map(str, command), "--json", str(tmp_path / "figures.json")]) == 0
    text = capsys.readouterr().out
    assert "exit 0" in text and "exit 1" in text and "BM25 alone" in text and "definition first" in text

    document = json.loads((tmp_path / "figures.json").read_text())
    assert set(document["exits"]) == {"0", "1"}
    for figures in document["exits"].values():
        assert figures["queries"] == 3 and figures["units"] == {"dates": 2, "files": 2}
        row = figures["ranking"]["ranking"]
        assert set(row) == {"all", "symbol", "semantic", "dates", "files"}
        assert row["all"] == pytest.approx((2 * row["symbol"] + row["semantic"]) / 3)
        # Whatever the random model says, a symbol's definition comes first, and both files of dates are gold.
        assert row["all"] == 1 and figures["ranking"]["BM25 alone"]["symbol"] == 1
        assert set(figures["without"]) == set(RANKING_FUNCTIONS)
        assert figures["confidence"]["present"] == 3 and figures["confidence"]["absent"] == 4

    # The second run embeds nothing and says the same, whatever else came into the trees.
    (tmp_path / "indexes" / "files-tree" / "more.js").write_text("function more() {}\n")
    assert main([*map(str, command), "--json", "-"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["exits"] == document["exits"]


# --- Fit ---------------------------------------------------------------------------------------------------


def test_the_fit_finds_the_best_point_of_a_separable_score():
    def score(constants):
        return np.array([1 - abs(constants.name - 0.4) - abs(constants.repeat - 0.35)] * 4)

    best = fit_constants(score, np.ones(4, bool))
    assert (best.name, best.repeat) == (0.4, 0.35)
    assert best.path == START.path  # what changes nothing stays
    assert set(GRID) == set(vars(START))


def test_a_group_left_out_has_no_say_in_its_constants():
    groups = np.array(["a", "a", "b", "c"])
    wanted = {"a": 0.0, "b": 0.6, "c": 0.6}

    def score(constants):
        return np.array([1 - abs(constants.path - wanted[group]) for group in groups])

    fits = fit_without_each(score, groups)
    assert {name: constants.path for name, (constants, _) in fits.items()} == {"a": 0.6, "b": 0.0, "c": 0.0}
    assert fits["a"][1] == pytest.approx(0.4)
