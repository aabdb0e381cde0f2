"""What mose-nano's recipe trains on, and what it keeps out."""

import json
import random
import re
from pathlib import Path

import pytest
from datasets import Dataset
from overlap import leave_out_near_duplicates
from pairs import build_pairs, cross_language_rows, pair_rows, search_box_query


def function(name: str, text: str) -> str:
    return f'def {name}(values):\n    """{text}"""\n    {name}_of = sorted(values)\n    return {name}_of[0]\n'


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def evaluation(tmp_path):
    """An evaluation set that holds one function with its documentation, one without, one text and one pair."""
    folder = tmp_path / "evaluation"
    folder.mkdir()
    bare = "def bare(values):\n  bare_of = sorted(values)\n  return bare_of[0]"
    documents = [function("whole", "Gives the whole thing."), bare, "int Second() { return 2; }", "..."]
    write_lines(folder / "corpus.jsonl", [{"_id": str(i), "text": text} for i, text in enumerate(documents)])
    write_lines(folder / "queries.jsonl", [{"_id": "q", "text": "asks for the  least"}])
    return folder


def test_what_an_evaluation_set_holds_is_not_trained_on(evaluation, tmp_path):
    texts = {"whole": "Gives the whole thing.", "bare": "Gives it bare.", "asked": "Asks for the least."}
    texts["kept"] = "Gives the kept one."
    code = "\n\n".join(function(name, text) for name, text in texts.items())
    place = {"repository": "project", "language": "python"}
    records = [place | {"path": "a.py", "text": code}]
    # A copy of a project that others are evaluated on.
    records.append(
        place | {"path": "vendored/LibArchive/b.py", "text": function("copied", "Gives the copied one.")}
    )
    shard = write_lines(tmp_path / "shard.jsonl", records)
    codes = ["int First() { return 1; }", "int Second() {\n  return 2;\n}"]
    languages = {"language_a": "java", "language_b": "csharp"}
    files = [
        write_lines(
            tmp_path / "pairs.jsonl",
            [{"code_a": f"a{i}", "code_b": code, **languages} for i, code in enumerate(codes)],
        )
    ]
    pairs = build_pairs([shard], {"python": 9}, files, [evaluation], seed=0, excluded_paths=["libarchive"])
    documented = [row["teacher_document"] for row in pairs if not row["query_language"]]
    assert {code.split("(")[0] for code in documented} == {"def kept"}
    translated = [{row["teacher_query"], row["teacher_document"]} for row in pairs if row["query_language"]]
    assert translated == [{"a0", codes[0]}]


def test_a_function_is_asked_for_by_its_documentation_and_as_in_a_search_box():
    row = {"language": "python", "repository": "r", "name": "parseDate", "text": "Parse the date given."}
    row |= {
        "path": "a/b.py",
        "code": "def parseDate(x):\n    return x",
        "source": function("parseDate", "Parse the date given."),
    }
    row_text = row["text"]
    documented, typed = pair_rows([row], seed=0, nameless=1.0)
    assert documented["query"] == documented["teacher_query"] == "Parse the date given."
    assert (documented["document"], documented["teacher_document"]) == ("def f(x):\n    return x", row["code"])
    assert typed["document"] == typed["teacher_document"] == row["source"]
    assert (documented["kind"], typed["kind"]) == ("documentation", "typed")
    rows = list(pair_rows([row | {"language": "go"}] * 200, seed=0, nameless=0.4))
    typed = [row for row in rows if row["document"] == function("parseDate", row_text)]
    assert all((row["kind"] == "typed") == (row in typed) for row in rows)
    assert 40 <= len(typed) <= 80 and len(rows) - len(typed) == 200
    assert any("go" in row["query"].split() for row in typed)
    assert not any("python" in row["query"] for row in typed)


def test_a_share_of_the_code_has_a_line_of_path_and_name():
    row = {"language": "go", "repository": "r", "name": "f", "text": "Do it now.", "path": "a/b.go"}
    row |= {"code": "func f() {\n\treturn\n}", "source": "// Do it now.\nfunc f() {\n\treturn\n}"}
    rows = [pair for pair in pair_rows([row] * 400, seed=0, nameless=0.0) if pair["kind"] != "typed"]
    headed = [pair["document"] for pair in rows if pair["document"] != row["code"]]
    assert set(headed) == {f"a/b.go f\n{row['code']}"}
    assert all((pair["kind"] == "path") == (pair["document"] != row["code"]) for pair in rows)
    assert 0.2 < len(headed) / len(rows) < 0.4


@pytest.mark.parametrize("seed", range(20))
def test_what_is_typed_is_words_of_the_name_or_the_text(seed):
    query = search_box_query(
        "parseISODate", "Read a date, as ISO 8601 has it; or fail!", "python", random.Random(seed)
    )
    assert query == query.lower()
    words = re.sub("how to|in python|python", "", query).split()
    text = "read a date as iso 8601 has it or fail"
    assert words == ["parse", "iso", "date"] or text.startswith(" ".join(words))


def test_pairs_keep_each_code_with_its_language(tmp_path):
    row = {
        "code_a": "def one():\n    return 1",
        "code_b": "class A { int one() { return 1; } }",
        "text": "Give 1.",
    }
    file = write_lines(tmp_path / "mbxp.jsonl", [row | {"language_a": "python", "language_b": "java"}] * 40)
    language_of = {row["code_a"]: "python", row["code_b"]: "java", row["text"]: ""}
    pairs = list(cross_language_rows([file], set(), seed=0, nameless=0.5))
    assert len(pairs) == 80
    for pair in pairs:
        for side in ("query", "document"):
            assert pair[f"{side}_language"] == language_of[pair[f"teacher_{side}"]]
    assert {pair["document_language"] for pair in pairs} == {"python", "java"}  # both directions
    assert any("one" not in pair["document"] for pair in pairs)
    assert any(pair["document"] == pair["teacher_document"] for pair in pairs)


def test_near_duplicates_of_evaluation_texts_are_left_out_and_counted(tmp_path):
    own = "".join(f"    total = total + values[{i}] * weights[{i}]\n" for i in range(8))
    folder = tmp_path / "dev"
    folder.mkdir()
    write_lines(folder / "corpus.jsonl", [{"text": f"def weigh(values, weights):\n{own}    return total\n"}])
    write_lines(folder / "queries.jsonl", [{"text": "Add it."}])

    other = "".join(f"    print('row', {i}, end='')\n" for i in range(9))
    documents = [f"def weigh_all(values, weights):\n{own}    return total\n", f"def show():\n{other}", "Add it."]
    documents.append(f"DEF Weigh_All(values, weights):\n{own.upper()}\n\n\n    return total\n")
    rows = [{"teacher_query": f"q{i}", "teacher_document": text} for i, text in enumerate(documents)]
    clean, report = leave_out_near_duplicates(Dataset.from_list(rows), [folder])
    assert clean["teacher_query"][:] == ["q1", "q2"]  # short texts are alike by chance
    assert report == {"pairs": 4, "left_out": 2, "texts": {"dev": 2}}
