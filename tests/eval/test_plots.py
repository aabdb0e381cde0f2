"""Pictures that hold what the report says; how they look was looked at."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mose.eval import plots
from mose.eval.__main__ import main
from mose.eval.plots import pareto_front, plot_report


def figures(mrr):
    return {"mrr": mrr, "recall@10": 1.0}


REPORT = {
    "sets": {
        name: {
            "queries": 9,
            "documents": 9,
            "exits": {"0": figures(0.25 + i), "12": figures(0.5), "3": figures(0.375)},
            "peers": {"bm25": figures(0.125)},
            "intervals": {"exits": {"0": {"mrr": [0.2, 0.3]}}, "peers": {}},
            "across_exits": {
                q: {d: int(q) / 24 + int(d) / 48 for d in ("0", "3", "12")} for q in ("0", "3", "12")
            },
            "languages": {"go": {"queries": 4, "exits": {"0": {"mrr": 0.2}}, "peers": {"bm25": {"mrr": 0.1}}}},
        }
        for i, name in enumerate(("one", "two"))
    },
    "speed": {key: {"query_ms_p50": ms} for key, ms in (("0", 1.0), ("3", 3.0), ("12", 9.0), ("bm25", 0.5))},
}


@pytest.mark.slow
def test_files_are_pictures_of_moderate_size(tmp_path, capsys):
    report = tmp_path / "report.json"
    report.write_text(json.dumps(REPORT))
    assert main(["plot", str(report), "--output-dir", str(tmp_path / "pictures")]) == 0
    names = ["quality-latency.png", "exits.png", "languages.png"]
    assert capsys.readouterr().out.split() == [str(tmp_path / "pictures" / name) for name in names]
    for name in names:
        with Image.open(tmp_path / "pictures" / name) as image:
            assert image.format == "PNG" and len(set(image.convert("L").get_flattened_data())) > 10
        assert (tmp_path / "pictures" / name).stat().st_size < 200_000


def texts(figure):
    return [text.get_text() for axis in figure.axes for text in axis.texts]


def test_every_row_is_a_point_of_every_panel():
    figure = plots.quality_latency(REPORT, "mrr")
    assert [axis.get_title() for axis in figure.axes] == ["mean over 2 sets", "one", "two"]
    for i, axis in enumerate(figure.axes):
        points = {(line.get_xdata()[0], line.get_ydata()[0]) for line in axis.lines if len(line.get_xdata()) == 1}
        expected = {(1.0, (0.75, 0.25, 1.25)[i]), (3.0, 0.375), (9.0, 0.5), (0.5, 0.125)}
        assert points == expected
        assert [text.get_text() for text in axis.texts] == ["0", "3", "12", "bm25"]


def test_the_heat_map_shows_queries_down_and_documents_across():
    figure = plots.exits_heat_map(REPORT)
    axis = figure.axes[0]
    assert axis.get_xlabel() == "document exit" and axis.get_ylabel() == "query exit"
    shown = {text.get_position(): text.get_text() for text in axis.texts}
    assert shown[2, 0] == "0.250" and shown[0, 2] == "0.500"  # documents of exit 12; queries of exit 12
    assert [label.get_text() for label in axis.get_xticklabels()] == ["0", "3", "12"]


def test_languages_are_named_with_their_queries_and_sets():
    figure = plots.language_chart(REPORT)
    axis = figure.axes[0]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["go\n4"] * 2
    assert texts(figure) == ["one", "two"]
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["exit 0", "bm25"]


def test_what_a_report_lacks_is_not_drawn(tmp_path):
    bare = {
        "sets": {"one": {"queries": 1, "documents": 1, "exits": {"0": {"f1": 1.0}}, "peers": {}}},
        "speed": {},
    }
    with pytest.raises(
        ValueError, match="nothing to plot: the report has no speed, no second exit and no languages"
    ):
        plot_report(bare, tmp_path)
    with pytest.raises(ValueError, match=r"measure must be one of the report's \(mrr, recall@10\), got 'map'"):
        plot_report(REPORT, tmp_path, "map")
    timed = {**bare, "speed": {"0": {"query_ms_p50": 1.0}}}
    assert [file.name for file in plot_report(timed, tmp_path)] == ["quality-latency.png"]


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=1, max_size=8))
def test_the_front_is_what_nothing_beats(points):
    front = {point for point, on in zip(points, pareto_front(points), strict=True) if on}
    assert front
    for cost, quality in points:
        beaten = any(c <= cost and q >= quality and (c < cost or q > quality) for c, q in points)
        assert ((cost, quality) in front) != beaten
