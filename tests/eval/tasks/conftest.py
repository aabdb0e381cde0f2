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
            "url": f"https://example/{language}/{i}",
            "docstring_tokens": [*TEXTS[i % 3].split(), str(i)],
            "code_tokens": ["def", f"f{i}", "(", ")", ":", "return", str(i)],
            "code": f"def f{i}():\n    '''{TEXTS[i % 3]} {i}'''\n    return {i}",
        }
        for i in range(first, first + count)
    ]


def codesearchnet(folder):
    for language in LANGUAGES:
        test, others = code_rows(language, 0, 3), code_rows(language, 3, 4)
        jsonl(folder / language / "test.jsonl", test)
        jsonl(folder / language / "codebase.jsonl", [*others, *test])


def advtest(folder):
    rows = [
        {
            "url": f"u{i}",
            "idx": 100 + i,
            "docstring_tokens": TEXTS[i].split(),
            "function_tokens": ["def", "Func"],
        }
        for i in range(3)
    ]
    jsonl(folder / "test.jsonl", rows)


def cosqa(folder):
    folder.mkdir(parents=True)
    codes = {f"def f{i}(): return {i}": i for i in range(5)}
    rows = [
        {"idx": f"cosqa-test-{i}", "doc": TEXTS[i], "code": list(codes)[i + 1], "retrieval_idx": i + 1}
        for i in range(3)
    ]
    (folder / "code_idx_map.txt").write_text(json.dumps(codes))
    (folder / "cosqa-retrieval-test-500.json").write_text(json.dumps(rows))


def poj104(folder):
    rows = [{"label": str(81 + i % 2), "index": str(i), "code": f"int f{i}();"} for i in range(6)]
    jsonl(folder / "test.jsonl", rows)


def bigclonebench(folder):
    jsonl(
        folder / "data.jsonl",
        [{"idx": str(70 + i), "func": f"int f{i}() {{ return {i}; }}"} for i in range(4)],
    )
    (folder / "test.txt").write_text("70\t71\t1\n72\t71\t0\n73\t70\t1\n")


def java_csharp(folder):
    folder.mkdir(parents=True)
    (folder / "test.java-cs.txt.java").write_text("".join(f"int f{i}() {{ }}\n" for i in range(3)))
    (folder / "test.java-cs.txt.cs").write_text("".join(f"int F{i}() {{ }}\n" for i in range(3)))


def synthconl(folder):
    rows = [
        {
            "text": TEXTS[i],
            "code_a": f"def f{i}(): pass",
            "language_a": "python",
            "code_b": f"func f{i}() {{}}",
            "language_b": "go",
        }
        for i in range(3)
    ]
    folder.mkdir(parents=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "train-00000-of-00001.parquet")


def beir(folder, language="english"):
    jsonl(
        folder / "corpus.jsonl",
        [{"_id": f"d{i}", "title": "", "text": f"def f{i}()", "language": language} for i in range(4)],
    )
    jsonl(folder / "queries.jsonl", [{"_id": f"q{i}", "text": TEXTS[i], "language": language} for i in range(3)])
    (folder / "qrels").mkdir()
    (folder / "qrels" / "test.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"q{i}\td{i}\t1\n" for i in range(3))
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
