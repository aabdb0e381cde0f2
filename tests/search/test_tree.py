import dataclasses
import json

import pytest

from mose.data.source.mining import mine
from mose.data.source.rules import DEFAULT_RULES
from mose.search.records import Tree
from mose.search.tree import read_tree


@pytest.fixture
def tree(tmp_path):
    cells = [{"cell_type": "code", "source": "%time\ndef plot(): return 1"}]
    (tmp_path / "plots.ipynb").write_text(json.dumps({"cells": cells}))
    (tmp_path / "a.rs").write_text("/// Adds two.\nfn add() {}\n")
    (tmp_path / "README.md").write_text("# Books\n\n## Use\nCall `add`.\n")
    return tmp_path


@pytest.mark.parametrize(
    ("languages", "expected"),
    [
        (
            None,
            [
                ("a.rs", "add", "rust"),
                ("plots.ipynb", "plots.ipynb", "python"),
                ("plots.ipynb", "plot", "python"),
            ],
        ),
        (["text"], [("README.md", "Use", "text")]),
        (["rust", "text"], [("README.md", "Use", "text"), ("a.rs", "add", "rust")]),
    ],
)
def test_notebooks_are_read_as_code_and_text_if_it_is_asked_for(tree, languages, expected):
    chosen = None if languages is None else tuple(languages)
    changes = read_tree(Tree(0, str(tree), "tree", chosen, (), dataclasses.asdict(DEFAULT_RULES)), {})
    units = [unit for path in sorted(changes.entries) for unit in changes.entries[path]]
    assert sorted((unit.path, unit.name, unit.language) for unit in units) == sorted(expected)
    assert not changes.failed


def test_text_cannot_be_mined_for_functions(tree):
    with pytest.raises(ValueError, match=r"among bash, .*got \['text'\]"):
        mine([tree], ["text"], progress=False)
