"""The notebook: its cells run in their order, and show what they say."""

import ast
import json

import pytest

from mose.utils.locations import package_folder


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """What the last expression of each cell of code is, by the first word of the cell."""
    notebook = json.loads((package_folder() / "examples" / "search.ipynb").read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    names, values = {"__name__": "__main__"}, []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSE_CACHE", str(tmp_path_factory.mktemp("cache")))
        for cell in notebook["cells"]:
            if cell["cell_type"] != "code":
                continue
            assert (cell["outputs"], cell["execution_count"]) == (
                [],
                None,
            )  # results would hold paths of a machine
            tree = ast.parse("".join(cell["source"]))
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, "<cell>", "exec"), names)
            if last:
                values.append(eval(compile(ast.Expression(last.value), "<cell>", "eval"), names))
    return values


def test_cells_show_indexes_hits_and_clones(shown):
    index, hits, rows, similar, sources, clones = shown
    assert f"<td>{len(index)}</td>" in index._repr_html_()
    assert hits[0].path == "prompts.py" and "prompts.py" in hits._repr_html_() and len(rows) == 3
    assert similar[0].path == "prompts.py" and similar[0].qualified_name != hits[0].qualified_name
    assert (sources[0].qualified_name, len(sources)) == ("code_prompt", 1)
    assert all(group.similarity >= 0.5 for group in clones)
    assert all(group._repr_html_() in clones._repr_html_() for group in clones)
