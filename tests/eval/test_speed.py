import pytest

from mose.eval import speed


def test_sample_is_evenly_spaced_and_bounded():
    items = [str(i) for i in range(1000)]
    assert speed.sample(items, 4) == ["0", "250", "500", "750"]
    assert speed.sample(items[:3], 4) == items[:3]


def test_figures_leave_out_the_warm_up(monkeypatch):
    """A clock that the encoder itself moves: one second per document, 20 ms per query, first calls slow."""
    now = [0.0]
    calls = {"documents": 0, "queries": 0}

    def documents(texts):
        calls["documents"] += 1
        now[0] += len(texts) + (1e6 if calls["documents"] == 1 else 0)

    def queries(texts):
        calls["queries"] += 1
        assert len(texts) == 1
        now[0] += 0.02 + (1e6 if calls["queries"] <= 5 else 0)

    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    result = speed.measure_speed(documents, queries, ["d"] * 5000, ["q"] * 200)
    assert result == pytest.approx({"snippets_per_second": 1, "query_ms_p50": 20, "query_ms_p95": 20})
    assert calls == {"documents": 1 + speed.PASSES, "queries": 5 + speed.QUERIES}


def test_the_95th_percentile_sees_the_slow_queries(monkeypatch):
    """Ten queries in a hundred take a second, the others a millisecond."""
    now, requested = [0.0], [0]

    def queries(texts):
        requested[0] += 1
        now[0] += 1 if requested[0] > 5 and requested[0] % 10 == 0 else 0.001

    def documents(texts):
        now[0] += 1

    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    result = speed.measure_speed(documents, queries, ["d"], ["q"] * 100)
    assert result == pytest.approx({"snippets_per_second": 1, "query_ms_p50": 1, "query_ms_p95": 1000})
