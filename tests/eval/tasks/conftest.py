"""Every task's data in miniature, in the shape in which they are published."""

import json

import pyarrow
import pyarrow.parquet
import pytest

LANGUAGES = ("ruby", "javascript", "go", "python", "java", "php")
TEXTS = ("add two numbers", "read a file", "sort the list")


def jsonl(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def code_rows(language, first, count):
    """As in CodeSearchNet: tokens of the code without the docstring, which `code` still holds."""
    return [
        {
            "url": f"https://example/{language}/{at}",
            "docstring_tokens": [*TEXTS[at % 3].split(), str(at)],
            "code_tokens": ["def", f"f{at}", "(", ")", ":", "return", str(at)],
            "code": f"def f{at}():\n    '''{TEXTS[at % 3]} {at}'''\n    return {at}",
        }
        for at in range(first, first + count)
    ]


def codesearchnet(folder):
    for language in LANGUAGES:
        test, others = code_rows(language, 0, 3), code_rows(language, 3, 4)
        jsonl(folder / language / "test.jsonl", test)
        jsonl(folder / language / "codebase.jsonl", [*others, *test])


def advtest(folder):
    rows = [
        {
            "url": f"u{at}",
            "idx": 100 + at,
            "docstring_tokens": TEXTS[at].split(),
            "function_tokens": ["def", "Func"],
        }
        for at in range(3)
    ]
    jsonl(folder / "test.jsonl", rows)


def cosqa(folder):
    folder.mkdir(parents=True)
    codes = {f"def f{at}(): return {at}": at for at in range(5)}
    rows = [
        {"idx": f"cosqa-test-{at}", "doc": TEXTS[at], "code": list(codes)[at + 1], "retrieval_idx": at + 1}
        for at in range(3)
    ]
    (folder / "code_idx_map.txt").write_text(json.dumps(codes))
    (folder / "cosqa-retrieval-test-500.json").write_text(json.dumps(rows))


def poj104(folder):
    rows = [{"label": str(81 + at % 2), "index": str(at), "code": f"int f{at}();"} for at in range(6)]
    jsonl(folder / "test.jsonl", rows)


def bigclonebench(folder):
    jsonl(
        folder / "data.jsonl",
        [{"idx": str(70 + at), "func": f"int f{at}() {{ return {at}; }}"} for at in range(4)],
    )
    (folder / "test.txt").write_text("70\t71\t1\n72\t71\t0\n73\t70\t1\n")


def java_csharp(folder):
    folder.mkdir(parents=True)
    (folder / "test.java-cs.txt.java").write_text("".join(f"int f{at}() {{ }}\n" for at in range(3)))
    (folder / "test.java-cs.txt.cs").write_text("".join(f"int F{at}() {{ }}\n" for at in range(3)))


def synthconl(folder):
    rows = [
        {
            "text": TEXTS[at],
            "code_a": f"def f{at}(): pass",
            "language_a": "python",
            "code_b": f"func f{at}() {{}}",
            "language_b": "go",
        }
        for at in range(3)
    ]
    folder.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")


def beir(folder, language="english"):
    jsonl(
        folder / "corpus.jsonl",
        [{"_id": f"d{at}", "title": "", "text": f"def f{at}()", "language": language} for at in range(4)],
    )
    jsonl(
        folder / "queries.jsonl", [{"_id": f"q{at}", "text": TEXTS[at], "language": language} for at in range(3)]
    )
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{at}\td{at}\t1\n" for at in range(3))
    )


def coir_of_six(folder):
    for language in LANGUAGES:
        beir(folder / language, language)


WRITERS = {
    "codesearchnet": codesearchnet,
    "advtest": advtest,
    "cosqa": cosqa,
    "poj104": poj104,
    "bigclonebench": bigclonebench,
    "java-csharp": java_csharp,
    "synthconl": synthconl,
    "coir-codesearchnet": coir_of_six,
    "coir-codesearchnet-ccr": coir_of_six,
}


@pytest.fixture
def published(tmp_path):
    """Writes a task's folder and returns it."""

    def write(name):
        folder = tmp_path / name
        WRITERS.get(name, beir)(folder)
        return folder

    return write
