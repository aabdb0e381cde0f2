"""The contents of an index, incremental builds, and the hits of a search."""

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mose.data.source.definitions import extract_units
from mose.inference.bm25 import BM25
from mose.search.index import Index
from mose.search.ranking.constants import DEFAULT_CONSTANTS
from mose.search.ranking.fusion import fuse
from mose.search.records import Entry
from mose.search.store import Location, SearchIndexError
from mose.search.tree import MAX_UNIT_CHARACTERS
from mose.search.writing import NewRows, index_writer
from mose.tokenization.prompts import code_prompt, text_prompt

ADD = "def add(a, b):\n    return a + b\n"


def text_of(unit):
    """Return what is embedded of a unit."""
    return f"{unit.path} {unit.qualified_name}\n{unit.source}"


def read_paths(index):
    return {path for _, path in index.files}


# --- Search ------------------------------------------------------------------------------------------------


def test_functions_are_stored_with_their_place_and_text(build, tree):
    units = {unit.name: unit for unit in build().units}
    assert set(units) == {"parse_iso_date", "next_month", "add", "readFile"}
    assert units["readFile"].path == "web/files.js"
    assert units["readFile"].language == "javascript"
    for unit in units.values():
        lines = (tree / unit.path).read_text().splitlines()[unit.start_line - 1 : unit.end_line]
        assert [line.strip() for line in lines] == [line.strip() for line in unit.source.splitlines()]
        assert unit.root == str(tree)
    assert "ISO 8601" in units["parse_iso_date"].source


def test_classes_and_code_outside_definitions_are_units(build, tree):
    (tree / "server.py").write_text(
        "PORTS = {1: 2}\n\n\nclass Server:\n    limit = 3\n\n    def run(self):\n        return self.limit\n"
    )
    rows = build().units_of("server.py")
    assert [(unit.kind, unit.qualified_name) for unit in rows] == [
        ("file", "server.py"),
        ("class", "Server"),
        ("method", "Server.run"),
    ]
    assert "return" not in rows[1].source and "def run(self): ..." in rows[1].source


def test_long_units_are_stored_in_parts(build, tree):
    body = "".join(f"    total += weight_{i} * value_{i}\n" for i in range(200))
    (tree / "long.py").write_text(f"def long(total):\n{body}    return total\n")
    parts = build().units_of("long.py")
    assert {part.name for part in parts} == {"long"} and len(parts) > 2
    assert all(len(part.source) <= MAX_UNIT_CHARACTERS + 200 for part in parts)
    assert [part.start_line for part in parts[1:]] == [part.end_line + 1 for part in parts[:-1]]


def test_hits_equal_brute_force(build, model, embed):
    index = build()
    stored = index.vectors
    texts = [code_prompt(unit.language) + text_of(unit) for unit in index.units]
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), 1, atol=1e-5)
    cosines = (stored * embed(model, texts, 1)).sum(axis=1)
    assert cosines.min() > 0.999  # functions are embedded in bf16 if that is fast

    query = "read a file"
    wanted = stored @ embed(model, [text_prompt() + query], 1)[0]
    hits = index.search(query, top_k=3, hybrid=False)
    order = np.argsort(-wanted)[:3]
    assert [hit.name for hit in hits] == [index.units[int(row)].name for row in order]
    np.testing.assert_allclose([hit.similarity for hit in hits], wanted[order], atol=1e-5)
    scaled = (wanted - wanted.min()) / (wanted.max() - wanted.min())
    np.testing.assert_allclose([hit.parts.rank_score for hit in hits], scaled[order], atol=1e-4)


def test_hybrid_hits_start_from_the_fusion_of_brute_force(build, model, embed):
    index = build()
    query = "parse an ISO date"
    dense = index.vectors @ embed(model, [text_prompt() + query], 1)[0]
    # The article says nothing, so BM25 does not see it.
    lexical = BM25([text_of(unit) for unit in index.units]).scores("parse ISO date")
    wanted = dict(
        zip(index.units.column("name"), fuse(dense, lexical, DEFAULT_CONSTANTS.dense_share_of_prose), strict=True)
    )
    hits = index.search(query, top_k=10, hybrid=True)
    assert len(hits) == len(index) == 4  # as many as there are
    fused = {hit.name: hit.parts.dense + hit.parts.lexical for hit in hits}
    assert fused == pytest.approx(wanted, abs=1e-4)
    assert hits[0].name == "parse_iso_date"


def test_hits_are_ordered_by_their_parts_and_scores_never_rise(build):
    index = build()
    for hybrid in (True, False):
        hits = index.search("parse an ISO date", top_k=10, hybrid=hybrid)
        ranks = [hit.parts.rank_score for hit in hits]
        scores = [hit.score for hit in hits]
        assert ranks == sorted(ranks, reverse=True) and scores == sorted(scores, reverse=True)
        assert all(0 <= score <= 1 for score in scores)


def test_files_have_one_hit_each_and_a_low_score_can_be_cut(build):
    index = build()
    every = index.search("parse a date of the calendar", top_k=10)
    assert [hit.path for hit in every].count("dates.py") == 2
    files = index.search("parse a date of the calendar", top_k=10, files=True)
    assert sorted(hit.path for hit in files) == ["dates.py", "numbers.py", "web/files.js"]

    cut = index.search("parse a date of the calendar", top_k=10, min_score=every[1].score)
    assert [hit.name for hit in cut] == [hit.name for hit in every if hit.score >= every[1].score]
    assert index.search("parse a date", min_score=1.0) == []


def test_search_refuses_bad_arguments(build):
    index = build()
    with pytest.raises(ValueError, match="query is empty"):
        index.search(" \n")
    with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
        index.search("add", top_k=0)
    with pytest.raises(ValueError, match=r"min_score must be in \[0, 1\], got 1.5"):
        index.search("add", min_score=1.5)


scores = st.integers(2, 8).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, n, elements=st.floats(-1, 1)), arrays(np.float64, n, elements=st.floats(0, 50))
    )
)


@given(scores, st.floats(0, 1))
def test_fuse_respects_both_rankings(pair, weight):
    dense, lexical = pair
    fused = fuse(dense, lexical, weight)
    assert (fused >= 0).all() and (fused <= 1 + 1e-9).all()
    both = (dense[:, None] >= dense) & (lexical[:, None] >= lexical)  # no worse in either
    assert (fused[:, None] - fused)[both].min() >= -1e-9
    np.testing.assert_allclose(fuse(np.stack([dense, -dense]), np.stack([lexical, lexical]), weight)[0], fused)


def test_fuse_without_a_common_word_keeps_the_dense_order():
    dense = np.array([0.1, 0.9, -0.3])
    assert np.argsort(-fuse(dense, np.zeros(3))).tolist() == [1, 0, 2]
    assert np.argsort(-fuse(dense, np.array([0.0, 1.0, 9.0]), 0.0)).tolist() == [2, 1, 0]


# --- Files that are left out -------------------------------------------------------------------------------


def test_ignored_binary_generated_and_excluded_files_are_left_out(build, tree):
    for name in ("ignored.py", "tests/test_add.py", "web/files.min.js"):
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_text(ADD if name.endswith("py") else "function f() {\n}\n")
    (tree / ".gitignore").write_text("ignored.py\n")
    (tree / "made.py").write_text("# Generated by a tool. DO NOT EDIT\n" + ADD)
    (tree / "binary.py").write_bytes(b"def f():\n    return 1\n\0\0")
    index = build(exclude=["tests/"])
    assert read_paths(index) == {"dates.py", "numbers.py", "web/files.js"}


def test_languages_narrow_and_widen_the_index(build, tree):
    (tree / "point.h").write_text("namespace n {\nint twice(int x) {\n  return 2 * x;\n}\n}\n")  # C++ by content
    assert set(build(languages=["c", "python"]).units.column("language")) == {"python"}
    assert set(build().units.column("language")) == {"python", "javascript", "cpp"}
    assert set(build(languages=["javascript"]).units.column("language")) == {"javascript"}
    with pytest.raises(ValueError, match="klingon"):
        build(languages=["klingon"])


def test_a_file_that_fails_is_named_and_does_not_end_a_build(build, tree, monkeypatch):
    def fail_in_broken_files(source, language, **options):
        if b"broken" in source:
            raise RecursionError("too deep")
        return extract_units(source, language, **options)

    (tree / "broken.py").write_text("def broken():\n    return 1\n")
    (tree / "latin.py").write_bytes(b"def f():\n    return '\xe9'\n")
    monkeypatch.setattr("mose.data.source.definitions.extract_units", fail_in_broken_files)
    index = build()
    assert index.report.skipped == 1
    assert [Path(name).name for name in index.reading.left_out["failed"]] == ["broken.py"]
    assert any("return 'é'" in source for source in index.units.column("source"))
    assert len(index) == 5
    assert build().report.skipped == 1

    monkeypatch.undo()
    again = build()
    assert (again.report.changed, again.report.skipped, len(again)) == (1, 0, 6)


def test_file_names_in_no_encoding(build, tree):
    (tree / os.fsdecode(b"caf\xe9.py")).write_text("def brew():\n    return 'coffee'\n")
    assert "caf\\xe9.py" in read_paths(build())
    assert build().report.changed == 0


# --- Incremental builds ------------------------------------------------------------------------------------


def test_only_what_changed_is_parsed_and_embedded_again(build, tree):
    assert (build().report.changed, len(build())) == (3, 4)
    with (tree / "dates.py").open("a") as file:
        file.write("\n\ndef today():\n    return datetime.date.today()\n")
    (tree / "numbers.py").unlink()
    # The path is embedded too, so a moved function is embedded again.
    (tree / "web" / "files.js").rename(tree / "files.js")
    index = build()
    assert dataclasses.asdict(index.report) == {
        "files": 2, "changed": 2, "removed": 2, "skipped": 0, "units": 4, "embedded": 2, "rebuilt": "",
    }  # fmt: skip
    assert sorted(index.units.column("path")) == ["dates.py"] * 3 + ["files.js"]
    names = {hit.name for hit in index.search("add two numbers", 10)}
    assert names == {"parse_iso_date", "next_month", "today", "readFile"}


def test_an_incremental_index_equals_a_fresh_one(build, tree, tmp_path, model, tokenizer):
    build()
    (tree / "numbers.py").write_text(ADD + "\n\ndef subtract(a, b):\n    return a - b\n")
    grown = build()
    fresh = Index.build(tree, model, tokenizer, tmp_path / "fresh", 1, progress=False)
    vectors = [dict(zip(index.units, index.vectors, strict=True)) for index in (grown, fresh)]
    assert set(vectors[0]) == set(vectors[1])
    for unit, vector in vectors[0].items():
        np.testing.assert_allclose(vector, vectors[1][unit], atol=1e-2)
    assert [hit.as_dict()["path"] for hit in grown.search("add")] == [hit.path for hit in fresh.search("add")]


def test_an_unchanged_tree_leaves_the_index_alone(build, tmp_path):
    build()
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "index").rglob("*") if file.name != "lock"}
    assert build().report.embedded == 0
    assert {file: file.stat().st_mtime_ns for file in before} == before


def test_another_exit_or_length_embeds_again(build, tree, tmp_path, model, tokenizer):
    build()
    shorter = build(max_length=100)
    assert (shorter.report.changed, shorter.report.embedded) == (0, 4)
    deeper = Index.build(tree, model, tokenizer, tmp_path / "index", 2, progress=False)
    assert (deeper.meta.exit_layer, len(deeper)) == (2, 4)
    assert deeper.report and deeper.report.embedded == 4


def test_equal_functions_of_a_file_are_embedded_once(build, tree):
    numbers = (tree / "numbers.py").read_text()
    (tree / "numbers.py").write_text(f"{numbers}\n\n{numbers}")
    index = build()
    assert (index.report.units, index.report.embedded) == (5, 4)
    # The same function in another file has another path, which is embedded too.
    shutil.copy(tree / "numbers.py", tree / "copy.py")
    index = build()
    assert (index.report.units, index.report.embedded) == (7, 1)


# --- Refusals ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["/etc/passwd", "../secrets.py", "web/../../secrets.py"])
def test_a_place_outside_the_tree_is_not_shown(place, build, tmp_path, model, tokenizer):
    index = build()
    entry = Entry(place, "function", "f", "f", "python", 1, 1, "def f(): pass")
    rows = NewRows([0], [entry], np.eye(1, 32, dtype=np.float32), {})
    with index_writer(Location(str(tmp_path / "index"))) as writer:
        writer.replace(index.meta, rows, index.snapshot)
    with pytest.raises(SearchIndexError, match="outside its tree"):
        Index.load(tmp_path / "index", model, tokenizer).search("f")


def test_broken_weights_are_refused_and_leave_the_index(build, tree, tmp_path, model, tiny_model, tokenizer):
    build()
    broken = tiny_model(0)
    with torch.no_grad():
        broken.embed_tokens.weight.fill_(float("nan"))
    with pytest.raises(SearchIndexError, match="not finite"):
        Index.build(tree, broken, tokenizer, tmp_path / "index", 1, progress=False)
    assert len(Index.load(tmp_path / "index", model, tokenizer)) == 4


def test_an_aligned_model_is_queried_at_any_exit(tree, tmp_path, tiny_model, tokenizer, embed):
    model = tiny_model(0)
    Index.build(tree, model, tokenizer, tmp_path / "index", 1, progress=False)
    with pytest.raises(
        ValueError,
        match="exit_layer must be 1, the exit of this index, got 2.*without --align-exits",
    ):
        Index.load(tmp_path / "index", model, tokenizer, 2)
    assert Index.load(tmp_path / "index", model, tokenizer, 1).query_exit_layer == 1
    model.config.aligned_exits = True
    index = Index.load(tmp_path / "index", model, tokenizer)
    documents = dict(zip(index.units.column("name"), index.vectors, strict=True))
    for exit_layer in (0, 1, 2):
        index = Index.load(tmp_path / "index", model, tokenizer, exit_layer)
        assert (index.query_exit_layer, index.meta.exit_layer) == (exit_layer, 1)
        (query,) = embed(model, [text_prompt() + "read a file"], exit_layer)
        for hit in index.search("read a file", 3, hybrid=False):
            assert hit.similarity == pytest.approx(float(np.dot(query, documents[hit.name])), abs=2e-2)
    with pytest.raises(ValueError, match="exit_layer must be one of 0, 1, 2, got 5"):
        Index.load(tmp_path / "index", model, tokenizer, 5)
