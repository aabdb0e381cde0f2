import pytest

from mose.eval.report import markdown, terminal


def figures(mrr):
    return {"mrr": mrr, "ndcg@10": mrr / 2, "recall@1": 0.0, "recall@10": 1.0}


REPORT = {
    "sets": {
        "one": {
            "queries": 1500,
            "documents": 20000,
            "exits": {"0": figures(0.25), "12": figures(0.5), "3": figures(0.375)},
            "peers": {"bm25": figures(0.125)},
        },
        "two": {"queries": 1, "documents": 2, "exits": {"0": figures(1.0)}, "peers": {}},
    },
    "speed": {
        "0": {"snippets_per_second": 12345.6, "query_ms_p50": 0.95},
        "3": {"snippets_per_second": 9.87, "query_ms_p50": 12.0},
    },
}


def cells(line):
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_markdown_has_a_table_per_metric_and_one_of_speed():
    tables = [[cells(line) for line in table.splitlines()] for table in markdown(REPORT).split("\n\n")]
    assert [table[0][0] for table in tables] == ["MRR", "NDCG@10", "R@1", "R@10", "Speed"]
    assert tables[0] == [
        ["MRR", "one", "two"],
        ["---", "---:", "---:"],
        ["exit 0", "0.250", "1.000"],
        ["exit 3", "0.375", ""],
        ["exit 12", "0.500", ""],
        ["bm25", "0.125", ""],
    ]
    assert tables[-1][2:] == [["exit 0", "12,346", "0.9"], ["exit 3", "9.9", "12.0"]]


def test_markdown_of_some_metrics():
    assert markdown(REPORT, ["ndcg@10"]).startswith("| NDCG@10 | one | two |")
    assert "MRR" not in markdown(REPORT, ["ndcg@10"])
    with pytest.raises(
        ValueError, match=r"measure must be one of the report's \(mrr, ndcg@10, recall@1, recall@10\), got 'map'"
    ):
        markdown(REPORT, ["map"])


def test_terminal_table_holds_every_figure_in_line():
    lines = terminal(REPORT, width=200).splitlines()
    assert "one (1,500 → 20,000)" in lines[0] and "two (1 → 2)" in lines[0] and "speed" in lines[0]
    rows = {line[:7].strip(): line[7:].split() for line in lines[2:]}
    assert list(rows) == ["exit 0", "exit 3", "exit 12", "bm25"]
    expected = "0.250 0.125 0.000 1.000 1.000 0.500 0.000 1.000 12,346 0.9"
    assert " ".join(rows["exit 0"]) == expected
    assert rows["bm25"] == ["0.125", "0.062", "0.000", "1.000"]
    end = lines[1].index("MRR") + 3  # figures stand under their heading
    assert [line[:end][-5:] for line in lines[2:]] == ["0.250", "0.375", "0.500", "0.125"]


def test_terminal_table_breaks_between_sets_where_it_must():
    for width in (40, 60, 80):
        blocks = terminal(REPORT, width=width).split("\n\n")
        assert len(blocks) > 1
        assert max(len(line) for block in blocks for line in block.splitlines()) <= width
        assert all(block.splitlines()[2].startswith("exit 0") for block in blocks)


def test_a_report_without_speed():
    quiet = {**REPORT, "speed": {}}
    assert "snippets" not in terminal(quiet) and "Speed" not in markdown(quiet)


def test_details_add_intervals_tests_exits_and_languages():
    one = {
        **REPORT["sets"]["one"],
        "intervals": {"exits": {"0": {"mrr": [0.2, 0.3]}}, "peers": {}},
        "p_values": {"0": {"3": 0.0002, "12": 0.25}, "3": {}},
        "across_exits": {"0": {"0": 0.25, "3": 0.3}, "3": {"0": 0.35, "3": 0.375}},
        "languages": {
            name: {
                "queries": i,
                "exits": {key: {"mrr": i / 10} for key in ("0", "12", "3")},
                "peers": {"bm25": {"mrr": 1}},
            }
            for i, name in enumerate(("go", "java"), 1)
        },
    }
    report = {**REPORT, "sets": {"one": one}}
    tables = [
        [cells(line) for line in table.splitlines()]
        for table in markdown(report, ["mrr"], details=True).split("\n\n")
    ]
    assert [table[0][0] for table in tables] == ["MRR", "Speed", "one: exits", "one: MRR", "one: MRR by language"]
    assert tables[0][2:4] == [["exit 0", "0.250 (0.200–0.300)"], ["exit 3", "0.375"]]
    assert tables[2][2:] == [["0 and 3", "< 0.001"], ["0 and 12", "0.250"]]
    assert tables[3][0][1:] == ["documents of exit 0", "documents of exit 3"]
    assert tables[3][3] == ["queries of exit 3", "0.350", "0.375"]
    assert tables[4][0][1:] == ["go (1)", "java (2)"] and tables[4][2] == ["exit 0", "0.100", "0.200"]
    assert "(" not in markdown(report, ["mrr"])


def test_speed_and_costs_are_shown_as_far_as_they_were_measured():
    costs = {"0": {"parameters": 4_300_000, "memory_mb": 17.2, "flops_per_token": 65_500.0}}
    speed = {"0": {"snippets_per_second": 9.87, "query_ms_p50": 1.0, "query_ms_p95": 2.5}}
    report = {**REPORT, "speed": speed, "costs": costs}
    tables = [[cells(line) for line in table.splitlines()] for table in markdown(report, ["mrr"]).split("\n\n")]
    assert tables[1][0] == ["Speed", "snippets/s", "ms/query", "p95"]
    assert tables[1][2] == ["exit 0", "9.9", "1.0", "2.5"]
    assert tables[2][0] == ["Costs", "M params", "MFLOP/token", "MB"] and tables[2][2] == [
        "exit 0",
        "4.3",
        "0.1",
        "17.2",
    ]
    shown = terminal(report, width=300)
    assert "M params" in shown and "17.2" in shown and "p95" in shown
