import json

import pytest

from mose.data.source.mining import mine
from mose.data.source.rules import DEFAULT_RULES
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
    contents = read_tree(tree, None, languages, [], DEFAULT_RULES, progress=False)
    assert [(entry.path, entry.name, entry.language) for entry in contents.entries] == expected
    assert not contents.skipped


def test_text_cannot_be_mined_for_functions(tree):
    with pytest.raises(ValueError, match=r"among bash, .*got \['text'\]"):
        mine([tree], ["text"], progress=False)
