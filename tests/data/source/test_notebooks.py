import ast
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.data.source.definitions import extract_units
from mose.data.source.files import candidate_files, iter_sources, read_source
from mose.data.source.languages import readable_languages
from mose.data.source.notebooks import notebook_source
from mose.data.source.report import ReadingReport, SkippedFileError

PYTHON = {"kernelspec": {"name": "python3", "language": "python"}, "language_info": {"name": "python"}}


def notebook(*cells: str | list[str] | dict, metadata: dict | None = None) -> str:
    """Return a notebook of format 4; a dictionary is a cell that is not code."""
    listed = [
        cell
        if isinstance(cell, dict)
        else {"cell_type": "code", "source": cell, "outputs": [{"text": "def no(): 1"}]}
        for cell in cells
    ]
    return json.dumps({"cells": listed, "metadata": PYTHON if metadata is None else metadata, "nbformat": 4})


def test_code_cells_are_one_source_whose_magics_are_comments():
    text = notebook(
        {"cell_type": "markdown", "source": "# Title\n    def markdown(): 1"},
        ["%matplotlib inline\n", "!pip install \\\n", "    books\n", "import os\n", "files = !ls *.py\n"],
        "def f():\n    %time g()\n    return 1 \\\n        % 2\nf??",
        "%%bash\nls -l\nfunction no() { ls; }",
        "\n%%time\ndef g(): pass",
        "%%writefile tools.py\ndef written(): return 1",
        "%%writefile notes.txt\ndef prose(): return 1",
        {"cell_type": "raw", "source": "def raw(): 1"},
        "   \n",
    )
    assert notebook_source(text) == (
        "python",
        """\
pass  # %matplotlib inline
pass  # !pip install \\
#     books
import os
files = None  # !ls *.py

def f():
    pass  # %time g()
    return 1 \\
        % 2
pass  # f??

# %%bash
# ls -l
# function no() { ls; }


# %%time
def g(): pass

# %%writefile tools.py
def written(): return 1

# %%writefile notes.txt
# def prose(): return 1
""",
    )
    _, source = notebook_source(text)
    ast.parse(source)
    units = extract_units(source.encode(), "python")
    assert [(unit.name, unit.start_line) for unit in units if unit.kind == "function"] == [
        ("f", 7),
        ("g", 19),
        ("written", 22),
    ]


def test_older_formats_have_worksheets_and_inputs():
    cells = [
        {"cell_type": "heading", "source": "Title"},
        {"cell_type": "code", "language": "python", "input": ["def f():\n", "    pass"], "outputs": []},
    ]
    text = json.dumps({"worksheets": [{"cells": cells}, {}], "metadata": {"name": ""}, "nbformat": 3})
    assert notebook_source("\ufeff" + text) == ("python", "def f():\n    pass\n")


@pytest.mark.parametrize(
    ("kernel", "cell", "language", "source"),
    [
        ("javascript", "%%html\n<b>", "javascript", "// %%html\n// <b>\n"),
        ("javascript", "!function () {}()", "javascript", "!function () {}()\n"),
        ("Kotlin", "%use dataframe\nfun f() = 1", "kotlin", "// %use dataframe\nfun f() = 1\n"),
        ("bash", "%%bash\nls", "bash", "# %%bash\nls\n"),
    ],
)
def test_other_kernels_have_their_own_comments(kernel, cell, language, source):
    text = notebook(cell, metadata={"language_info": {"name": kernel}})
    assert notebook_source(text) == (language, source)


@pytest.mark.parametrize(
    ("text", "reason", "message"),
    [
        ("{", "unparsable", "not a notebook"),
        ("", "unparsable", "not a notebook"),
        ("[1]", "unparsable", "not a notebook"),
        ('{"nbformat": 4}', "unparsable", "neither cells nor worksheets"),
        ('{"cells": [3]}', "unparsable", "not a notebook"),
        ('{"cells": null}', "unparsable", "not a notebook"),
        ('{"cells": [{"cell_type": "code", "source": [1]}]}', "unparsable", "not a notebook"),
        ('{"worksheets": [[]]}', "unparsable", "not a notebook"),
        ("[" * 100_000, "unparsable", "nested too deeply|not a notebook"),
        (notebook("1", metadata={"language_info": {"name": "R"}}), "other language", "other language"),
    ],
)
def test_what_is_no_notebook_is_refused(text, reason, message):
    with pytest.raises(SkippedFileError, match=message) as error:
        notebook_source(text)
    assert error.value.reason == reason


def test_half_a_surrogate_pair_can_be_encoded():
    assert notebook_source('{"cells": [{"cell_type": "code", "source": "a = 1 # \\ud800"}]}')[1] == "a = 1 # ?\n"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["cells", "worksheets", "cell_type", "source", "input", "metadata", "language_info"]),
            inner | st.just("code"),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON | st.text(max_size=40))
def test_any_json_is_read_or_refused(content):
    try:
        language, source = notebook_source(json.dumps(content))
    except SkippedFileError as error:
        assert error.reason in ("unparsable", "other language")
    else:
        extract_units(source.encode(), language)


@given(
    st.lists(
        st.lists(st.sampled_from(["x = 1", "def f():", "    %time 1", "!ls \\", "", "y?", "'''"]), max_size=6)
    )
)
def test_a_cell_keeps_its_lines(cells):
    texts = ["\n".join(lines).rstrip() for lines in cells]
    _, source = notebook_source(notebook(*texts))
    kept = [text for text in texts if text]
    assert source.count("\n") == sum(text.count("\n") + 2 for text in kept) - bool(kept)


def test_trees_are_read_with_their_notebooks_and_with_text_if_it_is_asked_for(tmp_path):
    (tmp_path / "a.ipynb").write_text(notebook("def f(): return 1"))
    (tmp_path / "r.ipynb").write_text(notebook("f <- 1", metadata={"language_info": {"name": "R"}}))
    (tmp_path / "README.md").write_text("# Title\n\n" + "prose " * 2000)
    report = ReadingReport()
    assert [path.name for path in candidate_files(tmp_path, report=report)] == ["a.ipynb", "r.ipynb"]
    assert report.unasked == {"text": 1}

    file = read_source(tmp_path / "a.ipynb")
    assert (file.language, file.text) == ("python", "def f(): return 1\n")
    with pytest.raises(SkippedFileError, match="other language"):
        read_source(tmp_path / "r.ipynb")

    assert [file.path.name for file in iter_sources(tmp_path, ["text"])] == ["README.md"]
    assert [file.language for file in iter_sources(tmp_path, readable_languages())] == ["text", "python"]
