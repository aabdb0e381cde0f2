"""Questions and the code that they are paired with."""

import pickle
from collections import Counter

import numpy as np
import pytest
import question_titles
import torch
from datasets import Dataset
from questions import best_matches, distinct_documents, question_rows, read_questions
from recipe_steps import text_fingerprint


def unit(rows: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(rows, 5, generator=generator), dim=1)


@pytest.mark.parametrize(("share", "repeats"), [(1.0, 1), (0.5, 2), (0.8, 99)])
def test_the_surest_questions_get_the_code_ranked_first(share, repeats, monkeypatch):
    monkeypatch.setattr("questions.BLOCK", 7)
    questions, documents = unit(40, 0), unit(9, 1)
    scores = (questions @ documents.T).numpy()

    expected, taken = set(), Counter()
    for question in sorted(range(40), key=lambda row: -scores[row].max())[: round(share * 40)]:
        document = int(np.argmax(scores[question]))
        if taken[document] < repeats:
            expected.add((question, document))
        taken[document] += 1

    chosen = best_matches(questions, documents, share, repeats)
    assert len(chosen) == len(set(chosen)) and set(chosen) == expected


def test_a_share_of_nothing_is_refused():
    with pytest.raises(ValueError, match=r"share must be in \(0, 1\], got 0"):
        best_matches(unit(3, 0), unit(9, 1), 0, 1)
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        best_matches(unit(3, 0), unit(9, 1), 0.5, 0)
    assert len(best_matches(unit(1, 0), unit(9, 1), 0.3, 4)) == 1  # a small share of one is one


def test_lines_are_read_once_and_not_those_of_an_evaluation_set(tmp_path):
    (tmp_path / "a.txt").write_text("How to sort?\n\n  how to  sort\nParse a date\n", encoding="utf-8")
    (tmp_path / "b.txt").write_text("Kept one\nparse a date.\n", encoding="utf-8")
    files = [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert read_questions(files, {text_fingerprint("PARSE a date!")}) == ["How to sort?", "Kept one"]


def test_rows_have_the_code_that_the_teachers_read_and_no_other_text_of_its_pair():
    rows = {
        "query": ["Return it.", "typed it", "Sort it."],
        "teacher_query": ["Return it.", "typed it", "Sort it."],
        "document": ["def f(): 1", "def get(): 1", "def sort(): 2"],
        "teacher_document": ["def get(): 1", "def get(): 1", "def sort(): 2"],
        "document_language": ["python", "python", "lua"],
        "query_language": ["", "", "java"],
        "kind": ["documentation", "typed", "code"],
        "repository": ["a", "a", "b"],
    }
    pool = distinct_documents(Dataset.from_dict(rows))
    assert pool["document"][:] == pool["teacher_document"][:] == ["def get(): 1", "def sort(): 2"]

    made = question_rows(["which sorts?", "unused", "which gets?"], pool, [(2, 0), (0, 1), (2, 1)])
    assert made["query"][:] == made["teacher_query"][:] == ["which gets?", "which sorts?", "which gets?"]
    assert made["document"][:] == ["def get(): 1", "def sort(): 2", "def sort(): 2"]
    assert made["document_language"][:] == ["python", "lua", "lua"] and set(made["query_language"][:]) == {""}
    assert set(made["kind"][:]) == {"question"} and set(made.column_names) == set(rows)


def test_titles_of_all_kinds_of_files_are_written_once_and_cleaned(tmp_path, monkeypatch, capsys):
    table = 'title\ttags\nHow to sort a list? [closed]\t[\'python\']\n"Say ""hello"" to all"\t[]\n'
    (tmp_path / "a.tsv").write_text(table)
    (tmp_path / "b.txt").write_text("how to sort a list?\nToo short\nParse  a   date\nNaïve words in it\n")
    (tmp_path / "c.pickle").write_bytes(pickle.dumps({1: "Join two tables", 2: "word " * 31}))
    files = [tmp_path / name for name in ("a.tsv", "b.txt", "c.pickle")]

    def run(*words):
        monkeypatch.setattr("sys.argv", ["question_titles.py", *map(str, words), "--output", str(tmp_path / "q")])
        return question_titles.main()

    assert run(*files) == 0
    expected = ["How to sort a list?", 'Say "hello" to all', "Parse a date", "Join two tables"]
    assert (tmp_path / "q").read_text().splitlines() == expected
    assert run(*files, "--share", 0) == 1
    assert "--share must be in (0, 1], got 0.0" in capsys.readouterr().err

    (tmp_path / "b.txt").write_text("Sort a list [duplicate] [closed]\n")
    assert run(tmp_path / "b.txt") == 0
    assert (tmp_path / "q").read_text() == "Sort a list\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pickle", pickle.dumps({1: Counter()}), "the pickle wants collections.Counter"),
        (
            "a.pickle",
            pickle.dumps(["Sort a list"]),
            "a pickle must be a dictionary with titles as its values, got a list",
        ),
        ("a.pickle", pickle.dumps({1: 2, 2: ["a"]}), "the values of the pickle must be texts, got int, list"),
        ("a.pickle", pickle.dumps({1: "Sort a list"})[:-9], "a.pickle: "),
        ("a.pickle", b"", "a.pickle: "),
        ("a.tsv", b'Sort a list\t1\n"Never closed\t2\nParse a date\t3\n', "a.tsv: unexpected end of data"),
        ("a.txt", b"Too short\n", "No title is left: they must have 3 to 30 words in plain ASCII"),
    ],
)
def test_what_is_no_question_set_is_refused_by_name(name, content, message, tmp_path, monkeypatch, capsys):
    (tmp_path / name).write_bytes(content)
    output = tmp_path / "questions.txt"
    monkeypatch.setattr("sys.argv", ["question_titles.py", str(tmp_path / name), "--output", str(output)])
    assert question_titles.main() == 1
    assert message in capsys.readouterr().err and not output.exists()


def test_a_share_of_the_titles_does_not_depend_on_the_others():
    titles = [f"title number {n}" for n in range(400)]
    half = question_titles.clean_titles(titles, 0.5)
    assert 150 < len(half) < 250
    assert question_titles.clean_titles(titles[:100], 0.5) == [title for title in half if title in titles[:100]]
