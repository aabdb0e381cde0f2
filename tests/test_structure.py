"""How the code reads: the limits of `benchmarks/structure.py`, and the first lines of public docstrings."""

import ast
import re
import subprocess
from collections.abc import Iterator

import pytest

from mose.benchmarks.structure import INDIRECT_OPENINGS, MAY_IMPORT, RULES, measure_structure, source_trees
from mose.utils.locations import package_folder

ROOT = package_folder()
MAX_DUPLICATES, MAX_TRAINER_CLASSES = 10, 3
#: A function's first line that begins so is no imperative.
NOT_IMPERATIVE = re.compile(r"(A|An|The|Each|Every|All|Both|No|Its|\w*[^s\W]s)\b")


@pytest.fixture(scope="module")
def structure():
    return measure_structure(ROOT)


def test_functions_have_air_and_comments(structure):
    assert structure.share("blank") >= 0.08
    assert structure.share("comment") >= 0.02


@pytest.mark.parametrize("rule", [rule for rule in RULES if rule != "defined twice"])
def test_no_place_breaks_a_rule(structure, rule):
    assert not structure.findings[rule], "\n".join(structure.findings[rule])


def test_few_names_are_defined_twice(structure):
    assert len(structure.findings["defined twice"]) <= MAX_DUPLICATES, structure.findings["defined twice"]


def test_trainers_are_shallow(structure):
    assert structure.trainer_chain[-1] == "Trainer" and len(structure.trainer_chain) <= MAX_TRAINER_CLASSES


def test_the_import_table_has_no_cycle():
    for package, imported in MAY_IMPORT.items():
        assert package not in imported
        assert all(package not in MAY_IMPORT[other] for other in imported)


def public_docstrings() -> Iterator[tuple[str, ast.AST, str]]:
    """Yield place, node and first line of each docstring of a public module, class or function."""
    for name, (_, tree) in source_trees(ROOT).items():
        nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module))]
        for node in nodes:
            docstring, public = ast.get_docstring(node), not getattr(node, "name", "").startswith("_")
            if docstring and public:
                yield f"{name}:{getattr(node, 'lineno', 1)}", node, docstring.split("\n")[0]


def test_first_lines_of_public_docstrings_are_plain_sentences():
    broken = []
    for place, node, line in public_docstrings():
        is_property = any("property" in ast.unparse(item) for item in getattr(node, "decorator_list", []))
        imperative = not isinstance(node, ast.FunctionDef) or is_property or not NOT_IMPERATIVE.match(line)
        if not (line[:1].isupper() or line[:1] == "`") or not line.endswith((".", "?", ":")):
            broken.append(f"{place}: no sentence: {line}")
        elif line.split()[0] in INDIRECT_OPENINGS or not imperative:
            broken.append(f"{place}: begins indirectly: {line}")
    assert not broken, "\n".join(broken)


def test_the_rules_find_what_breaks_them(tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "search").mkdir()
    (tmp_path / "eval" / "bad.py").write_text(
        '"""What this is."""\n\nfrom mose.search.worse import twice as imported\n\n\n'
        "def twice(at):\n    for found in at:\n" + "        if found and at:\n            pass\n" * 35 + "\n\n"
        "def main():\n    try:\n        imported()\n    except KeyboardInterrupt:\n        pass\n"
    )
    (tmp_path / "search" / "worse.py").write_text(
        "from transformers import Trainer\n\n\n"
        "class First(Trainer):\n    pass\n\n\nclass Second(Mixin, First):\n    pass\n\n\n"
        "def twice():\n    from mose.eval.bad import main\n\n    # why\n    return main\n"
    )
    git = ["git", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "add", "."], check=True)

    structure = measure_structure(tmp_path)
    assert {rule: len(places) for rule, places in structure.findings.items() if places} == {
        "unusual name": 2,
        "defined twice": 1,
        "long function": 1,
        "complex function": 1,
        "indirect docstring": 1,
        "own main wrapper": 1,
        "forbidden import": 2,
        "import cycle": 1,
    }
    assert structure.trainer_chain == ("Second", "First", "Trainer")
    assert structure.lines["blank"] == structure.lines["comment"] == 1
