"""`mose eval sets`: sets built from miniatures of the published files, served on this machine."""

import hashlib
import json
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mose.data.retrieval.retrieval_set import load_retrieval_set
from mose.eval import public_sets
from mose.eval.__main__ import main
from mose.eval.public_sets import PUBLIC_SETS, bare_code


def solution(task, prompt, code):
    return json.dumps({"task_id": f"MBXP/{task}", "prompt": prompt, "canonical_solution": code})


PYTHON = 'def one():\n    """\n    Return one.\n    """\n'
JAVA = "import java.util.*;\n\nclass One {\n    /**\n     * Return one.\n     */\n    public static int one() {\n"
FILES = {
    "code_idx_map.txt": json.dumps({"def a(): pass": 0, "def b(): pass": 2, "def c(): pass": 1}),
    "cosqa-retrieval-dev-500.json": json.dumps([{"doc": "how to c", "retrieval_idx": 1}]),
    "data_ps.descriptions.valid": (
        "'Don\\'t add DCNL two numbers. DCNL Ever.'\n'Too short'\n'One line more'\n'One line more'\n"
    ),
    "data_ps.declbodies.valid": (
        "def add(a, b): DCNL  DCSP if a: DCNL DCSP  DCSP return b\ndef x(): DCNL DCSP pass\n"
        "def y(): DCNL  DCSP pass\ndef z(): DCNL  DCSP pass\n"
    ),
    "valid.java-cs.txt.java": "int a() {} \nint b() {}\n",
    "valid.java-cs.txt.cs": "int A() {}\nint B() {}\n",
    "mbpp_release_v1.jsonl": "\n".join(
        solution(task, PYTHON, "    # one\n\n    return 1\n") for task in public_sets.MBXP_TASKS
    ),
    "mbjp_release_v1.2.jsonl": solution(9, JAVA, "        return 1; // one\n    }\n}"),
    "mbrbp_release_v1.2.jsonl": solution(10, "# Return one.\ndef one()", "\n  1\nend"),
}
EXPECTED = {
    "cosqa-dev": (
        {"c0": "def a(): pass", "c2": "def b(): pass", "c1": "def c(): pass"},
        {"q0": "how to c"},
        {"q0": {"c1": 1}},
    ),
    "docstring-python-dev": (
        {"c0": "def add(a, b):\n    if a:\n        return b", "c1": "def y():\n    pass"},
        {"q0": "Don\\'t add two numbers.", "q1": "One line more"},
        {"q0": {"c0": 1}, "q1": {"c1": 1}},
    ),
    "java-csharp-dev": (
        {"c0": "int A() {}", "c1": "int B() {}"},
        {"q0": "int a() {}", "q1": "int b() {}"},
        {"q0": {"c0": 1}, "q1": {"c1": 1}},
    ),
}


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The folder that a server on this machine serves as GitHub's files; checksums are of the miniatures."""
    monkeypatch.setattr(public_sets, "MBXP_TASKS", (9, 10))
    folder = tmp_path / "published"
    for name, chosen in PUBLIC_SETS.items():
        place = folder / chosen.repository / chosen.commit / chosen.folder
        place.mkdir(parents=True)
        digests = {}
        for file in chosen.files:
            content = FILES.get(file, "").encode()
            (place / file).write_bytes(content)
            digests[file] = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(PUBLIC_SETS, name, chosen._replace(files=digests))

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(public_sets, "HOST", f"http://127.0.0.1:{server.server_port}")
    yield folder
    server.shutdown()
    server.server_close()


def tables(folder):
    loaded = load_retrieval_set(folder)
    documents = dict(zip(loaded.document_ids, loaded.documents, strict=True))
    return documents, dict(zip(loaded.query_ids, loaded.queries, strict=True)), loaded.qrels


def test_one_command_builds_all_sets(published, tmp_path, capsys):
    assert main(["sets", "--output-dir", str(tmp_path / "data")]) == 0
    assert capsys.readouterr().out.split() == [str(tmp_path / "data" / name) for name in PUBLIC_SETS]
    for name, expected in EXPECTED.items():
        assert tables(tmp_path / "data" / name) == expected, name

    documents, queries, qrels = tables(tmp_path / "data" / "mbxp-dev")
    assert queries == dict.fromkeys(("q9", "q10"), "def one():\n    return 1")
    java = "class One {\n    public static int one() {\n        return 1; // one\n    }\n}"
    assert documents == {"java-9": java, "ruby-10": "def one()\n  1\nend"}
    assert qrels == {"q9": {"java-9": 1}, "q10": {"ruby-10": 1}}
    source = json.loads((tmp_path / "data" / "cosqa-dev" / "source.json").read_text())
    assert source["commit"] == PUBLIC_SETS["cosqa-dev"].commit


def test_what_is_missing_changed_or_there_already(published, tmp_path, capsys):
    command = ["sets", "--output-dir", str(tmp_path / "data"), "--sets", "cosqa-dev"]
    chosen = PUBLIC_SETS["cosqa-dev"]
    place = published / chosen.repository / chosen.commit / chosen.folder / "code_idx_map.txt"
    original = place.read_bytes()
    for damage, status, message in ((place.unlink, 1, "404"), (lambda: place.write_text("{}"), 2, "SHA-256")):
        damage()
        assert main(command) == status
        assert message in capsys.readouterr().err
        assert not list((tmp_path / "data").glob("*"))

    place.write_bytes(original)
    assert main(command) == 0
    (tmp_path / "data" / "cosqa-dev" / "corpus.jsonl").write_text("mine")
    assert main(command) == 0
    assert "exists and is kept" in capsys.readouterr().err
    assert (tmp_path / "data" / "cosqa-dev" / "corpus.jsonl").read_text() == "mine"

    clones = ["--clones", str(tmp_path / "clones"), "--output-dir", str(tmp_path / "b")]
    assert main([*command, *clones]) == 2 and "clones" in capsys.readouterr().err
    (tmp_path / "clones" / chosen.repository).parent.mkdir(parents=True)
    place.parents[2].rename(tmp_path / "clones" / chosen.repository)
    assert main([*command, *clones]) == 0
    assert tables(tmp_path / "b" / "cosqa-dev") == EXPECTED["cosqa-dev"]
    assert main(["sets", "--output-dir", str(tmp_path), "--sets", "cosqa"]) == 2
    assert "set must be one of cosqa-dev, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("language", "code", "expected"),
    [
        ("python", "def f():\n  '''x\n  y'''\n  # z\n\n  return 1", "def f():\n  return 1"),
        ("csharp", "using System;\n/// <summary>\nint F() {\n  return 1;\n}", "int F() {\n  return 1;\n}"),
        ("cpp", "#include <a>\nusing namespace std;\n/* b\n*/\nint f();", "int f();"),
        ("php", "<?php\n# kept\nfunction f() {}", "# kept\nfunction f() {}"),
    ],
)
def test_bare_code_has_no_description(language, code, expected):
    assert bare_code(code, language) == expected
