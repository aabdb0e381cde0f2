"""Which exit a budget allows, on a report whose figures can be looked through by eye."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.eval import choose
from mose.eval.__main__ import main
from mose.eval.choose import NoExitFits, choose_exit

QUALITY = {"0": (0.4, 0.6), "3": (0.6, 0.8), "9": (0.6, 0.8), "12": (0.8, 0.9)}
REPORT = {
    "sets": {
        name: {
            "queries": 1,
            "documents": 2,
            "exits": {key: {"mrr": values[i], "recall@1": 0.1} for key, values in QUALITY.items()},
            "peers": {"bm25": {"mrr": 0.99}},
        }
        for i, name in enumerate(("one", "two"))
    },
    "speed": {
        key: {"snippets_per_second": 100.0, "query_ms_p50": ms, "query_ms_p95": 2 * ms}
        for key, ms in (("0", 1.0), ("3", 4.0), ("9", 10.0), ("12", 20.0), ("bm25", 0.1))
    },
    "costs": {
        key: {"parameters": million * 10**6} for key, million in (("0", 4), ("3", 7), ("9", 13), ("12", 16))
    },
}


@pytest.mark.parametrize(
    ("bounds", "exit_layer"),
    [
        ({"budget_ms": 20}, 12),
        ({"budget_ms": 19.9}, 3),  # as good as exit 9, and cheaper
        ({"budget_ms": 20, "percentile": 95}, 3),
        ({"budget_ms": 7.9, "percentile": 95}, 0),
        ({"max_params": 6.9e6}, 0),
        ({"max_params": 1e9, "budget_ms": 5}, 3),
        ({"min_quality": 0.5}, 0),
        ({"min_quality": 0.51}, 3),
        ({"min_quality": 0.7}, 3),
        ({"min_quality": 0.75, "sets": ["two"]}, 3),
        ({"min_quality": 0.75, "sets": ["one"]}, 12),
        ({"min_quality": 0.1, "budget_ms": 20, "measure": "recall@1"}, 0),
    ],
)
def test_the_exit_that_fits(bounds, exit_layer):
    result = choose_exit(REPORT, **bounds)
    assert result["exit_layer"] == exit_layer
    assert result["parameters"] == REPORT["costs"][str(exit_layer)]["parameters"]


@given(st.floats(0.01, 30), st.sampled_from([50, 95]))
def test_nothing_better_was_within_the_budget(budget, percentile):
    quality = {key: sum(values) / 2 for key, values in QUALITY.items()}
    affordable = [key for key in QUALITY if REPORT["speed"][key][f"query_ms_p{percentile}"] <= budget]
    if affordable:
        result = choose_exit(REPORT, budget_ms=budget, percentile=percentile)
        assert str(result["exit_layer"]) in affordable
        assert result["quality"] == max(quality[key] for key in affordable)
    else:
        with pytest.raises(NoExitFits, match="the nearest is exit 0") as failure:
            choose_exit(REPORT, budget_ms=budget, percentile=percentile)
        assert failure.value.nearest["exit_layer"] == 0


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"min_quality": 0.95}, "no exit has at least 0.95 mrr; the nearest is exit 12 with 0.85 mrr"),
        (
            {"max_params": 3e6, "min_quality": 0.4},
            "no exit has at most 3 M parameters and at least 0.4 mrr; the nearest is exit 0 with 4 M",
        ),
        # Exit 3 misses the quality by 22 %, exit 12 the budget by 300 %.
        ({"budget_ms": 5, "min_quality": 0.9}, "the nearest is exit 3 with 4 ms per query and 0.7 mrr"),
    ],
)
def test_where_none_fits_the_nearest_is_named(bounds, message):
    with pytest.raises(NoExitFits) as failure:
        choose_exit(REPORT, **bounds)
    assert message in str(failure.value)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({}, "no bound to choose by"),
        ({"budget_ms": 1, "percentile": 99}, "percentile must be 50 or 95, got 99"),
        ({"budget_ms": -1}, "above 0"),
        (
            {"budget_ms": 1, "measure": "map"},
            "not all sets have 'map' at exit 0; the report has mrr, recall@1",
        ),
        ({"budget_ms": 1, "sets": ["three"]}, r"set must be one of the report's \(one, two\), got 'three'"),
    ],
)
def test_bad_input_is_named(bounds, message):
    with pytest.raises(ValueError, match=message):
        choose_exit(REPORT, **bounds)
    with pytest.raises(ValueError, match="no query_ms_p50 of exit 0"):
        choose_exit({**REPORT, "speed": {}}, budget_ms=1)


@pytest.fixture
def stored(tmp_path):
    file = tmp_path / "report.json"
    file.write_text(json.dumps(REPORT))
    return str(file)


def test_the_command(stored, capsys):
    assert main(["choose", "--report", stored, "--budget-ms", "5"]) == 0
    assert "exit 3: mrr 0.700, 4.0 ms per query (95 %: 8.0), 7.0 M parameters" in capsys.readouterr().out
    assert main(["choose", "--report", stored, "--max-params", "13.5M", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == choose_exit(REPORT, max_params=13.5e6)
    assert main(["choose", "--report", stored, "--min-quality", "0.95", "--json"]) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["nearest"]["exit_layer"] == 12
    assert "no exit has at least 0.95 mrr; the nearest is exit 12" in captured.err
    assert main(["choose", "--report", stored]) == 2
    assert "no bound to choose by" in capsys.readouterr().err
    assert main(["choose", "--report", stored + "x", "--budget-ms", "5"]) == 2
    with pytest.raises(SystemExit) as stop:
        main(["choose", "--report", stored, "--budget-ms", "0"])
    assert (
        stop.value.code == 2
        and "must be a number above 0, such as 20, 0.5 or 5M, got '0'" in capsys.readouterr().err
    )


def test_the_shipped_model_s_report_is_found(capsys):
    assert main(["choose", "--budget-ms", "1e6", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    report = json.loads(choose.REPORT.read_text())
    assert set(report["speed"]) >= {"0", "1", "2", "3", "bm25", "all-MiniLM-L6-v2"}
    assert result["quality"] == max(
        choose_exit(report, max_params=values["parameters"])["quality"] for values in report["costs"].values()
    )
