"""A large index searches a graph of neighbours, and finds what a search of all units finds."""

from pathlib import Path

import numpy as np
import pytest

from mose.benchmarks import million
from mose.search import neighbours
from mose.search.index import Index
from mose.search.snapshot import read_snapshot
from mose.search.store import SearchIndexError


@pytest.fixture
def large(many, tmp_path, model_folder, monkeypatch):
    """An index of 40 functions that counts as large."""
    monkeypatch.setattr(neighbours, "LEAST_UNITS", 30)
    root = tmp_path / "large"
    root.mkdir()
    for file in many.iterdir():
        (root / file.name).write_text(file.read_text())
    return Index.build(root, str(model_folder), None, tmp_path / "index", 0, progress=False)


def places(hits):
    return [(hit.path, hit.start_line, round(hit.score, 3)) for hit in hits]


def graph_of(index):
    return neighbours._graph(index.snapshot.table)


def test_hits_are_those_of_a_search_of_all_units(large, monkeypatch):
    assert large.snapshot.neighbours is not None
    for query in ("f3_2", "return the product", "x"):
        for hybrid in (True, False):
            assert places(large.search(query, 8, hybrid)) == places(large.search(query, 8, hybrid, exact=True))
    # With few candidates the hits still come from the graph, the words and the names.
    monkeypatch.setattr("mose.search.evidence.CANDIDATES", 5)
    assert places(large.search("f3_2", 1))[0][:2] == places(large.search("f3_2", 1, exact=True))[0][:2]
    vector = np.eye(1, large.meta.dim, dtype=np.float32)[0]
    rows = large.snapshot.neighbours.nearest(vector, 10)
    exact = np.sort(large.vectors @ vector)[::-1]
    np.testing.assert_allclose(np.sort(large.vectors[rows] @ vector)[::-1], exact[:10], atol=1e-2)
    assert large.snapshot.neighbours.lowest(vector, large.vectors) == pytest.approx(exact[-1], abs=1e-2)


def test_rows_that_come_and_go_are_found_and_not_found(large, monkeypatch):
    monkeypatch.setattr("mose.search.writing.MAX_FRAGMENTS", 3)
    monkeypatch.setattr("mose.search.writing.LEAST_UNITS", 30)
    root, graph = Path(large.trees[0].root), graph_of(large)["uuid"]
    (root / "m0.py").write_text("def evict_pods(pods):\n    return [pod.evict() for pod in pods]\n")
    large.refresh()
    for _ in range(5):  # merges the small parts of the table
        more = (root / "m1.py").read_text() + "# more\ndef more():\n    return 1\n"
        (root / "m1.py").write_text(more)
        large.refresh()
    assert graph_of(large)["uuid"] == graph and large.snapshot.neighbours is not None
    assert large.search("evict pods", 1)[0].name == "evict_pods"
    names = {hit.name for hit in large.search("f0_1", len(large))}
    assert not names & {f"f0_{number}" for number in range(5)} and "more" in names
    for query in ("more", "evict pods", "f5_1"):
        assert places(large.search(query, 6)) == places(large.search(query, 6, exact=True))


def test_filters_and_several_trees_search_all_units(large, tree, model_folder):
    index = Index.build(tree, str(model_folder), None, large.location.name, 0, progress=False)
    assert index.snapshot.neighbours is not None and len(index.trees) == 2
    assert [hit.name for hit in index.search("read a file", 2, languages=["javascript"])] == ["readFile"]
    assert {hit.path for hit in index.search("f1_1", 5, paths=["m1.py"])} == {"m1.py"}
    assert index.search("parse an ISO date", 1)[0].name == "parse_iso_date"


def test_a_graph_is_made_again_when_much_has_changed(large, model_folder):
    root, graph = Path(large.trees[0].root), graph_of(large)["uuid"]
    again = Index.build(root, str(model_folder), None, large.location.name, 0, progress=False)
    assert graph_of(again)["uuid"] == graph  # nothing has changed
    new = (f"def g{number}(x):\n    return x + {number}\n\n\n" for number in range(9))
    (root / "m9.py").write_text("".join(new))
    large.refresh()  # never by a search
    assert graph_of(large)["uuid"] == graph and large.search("g3", 1)[0].name == "g3"
    steps = []
    again = Index.build(
        root, str(model_folder), None, large.location.name, 0, progress=lambda *step: steps.append(step)
    )
    assert graph_of(again)["uuid"] != graph and again.snapshot.neighbours is not None
    assert steps[-1] == ("Linking neighbours", 4, 4)


def test_a_damaged_graph_gives_no_answer_and_is_healed(large, tmp_path, model_folder):
    for file in (tmp_path / "index" / "units.lance" / "_indices").rglob("*.idx"):
        content = bytearray(file.read_bytes())
        content[len(content) // 3] ^= 8
        file.write_bytes(bytes(content))
    with pytest.raises(SearchIndexError, match="graph of neighbours.*run: python -m mose"):
        Index.open(large.location.name)
    healed = Index.build(large.trees[0].root, str(model_folder), None, large.location.name, 0, progress=False)
    assert "damaged" in healed.report.rebuilt and healed.snapshot.neighbours is not None


def test_the_benchmark_of_large_indexes(large, tmp_path):
    path = tmp_path / "copies" / "index"
    assert million.write_index(large.location.folder, path, 100)["table_bytes"] > 0
    assert million.link_index(path)["graph_bytes"] > 0
    figures = million.search_index(path, 5, cpu_time=True)
    assert figures["recall_10"] == figures["recall_hits"] == figures["same_first"] == 1.0
    copies = million.Copies(large.units, 100)
    assert len({(unit.path, unit.name) for unit in copies}) == len(copies) == 100
    report = {"sizes": {"100": figures | {name: 0 for name in ("writing", "writing_memory", "table_bytes")}}}
    report["sizes"]["100"] |= {"linking": 0, "graph_bytes": 0}
    assert "recall of 10 neighbours" in million.Million().render(report)


def test_a_graph_that_was_never_sealed_is_not_used(large, model_folder):
    large.snapshot.table.update_config({"mose.search.neighbours": "another one"})
    assert read_snapshot(large.location).neighbours is None
    assert Index.open(large.location.name, refresh=False).search("f3_2", 1)[0].name == "f3_2"
    again = Index.build(large.trees[0].root, str(model_folder), None, large.location.name, 0, progress=False)
    assert again.snapshot.neighbours is not None
