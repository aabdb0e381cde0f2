"""The demo: every exit answers, the page shows it escaped, and gradio serves it if it is installed."""

import pytest

from mose.demo.__main__ import main
from mose.demo.exits import ExitAnswer, answer_html, open_exits, search_exits
from mose.search import Hit
from mose.search.display import Results
from mose.search.ranking.ranker import Parts

CODE = "def add(first, second):\n    return first + second\n\n\ndef negate(value):\n    return -value\n"


@pytest.fixture(scope="module")
def indexes(tmp_path_factory, tiny_model_folder):
    folder = tmp_path_factory.mktemp("demo")
    (folder / "tree").mkdir()
    (folder / "tree" / "numbers.py").write_text(CODE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOSE_CACHE", str(folder / "cache"))
        yield open_exits(folder / "tree", tiny_model_folder, [0, 3], progress=False)


def test_every_exit_answers_by_itself(indexes):
    answers = search_exits(indexes, "add two numbers", 2)
    assert list(answers) == [0, 3] and [index.query_exit_layer for index in indexes.values()] == [0, 3]
    for exit_layer, answer in answers.items():
        assert answer.milliseconds > 0
        assert answer.hits == indexes[exit_layer].search("add two numbers", 2) and len(answer.hits) == 2
    with pytest.raises(ValueError, match="query is empty"):
        search_exits(indexes, " ")


def test_a_column_marks_what_exit_0_did_not_find():
    parts = Parts(0, 0, 0, 0, 0, 0, 1, 0, 1)
    hits = [Hit(0.5, 0.5, f"{n}.py", "function", "<i>", "<i>", "c", 1, 2, "<i>", parts) for n in range(2)]
    html = answer_html(1, ExitAnswer(3.14, Results(hits)), hits[:1])
    assert "exit 1 <small>1 block, 3.1 ms" in html and html.count("new here") == 1
    assert html.index("0.py") < html.index("new here") < html.index("1.py") and "<i>" not in html
    assert "no block" in answer_html(0, ExitAnswer(1, Results()))


def test_the_command_refuses_a_missing_folder(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_gradio_shows_a_column_for_each_exit(indexes):
    pytest.importorskip("gradio")
    from mose.demo.app import build_demo

    page = build_demo(indexes)
    (submit,) = [block for block in page.fns.values() if block.api_name == "search"]
    columns = submit.fn("add two numbers", 1.0)
    assert [column[4:10] for column in columns] == ["exit 0", "exit 3"] and "numbers.py" in columns[0]
    assert submit.fn("  ", 1.0) == ["<p>Describe what the code does.</p>"] * 2
