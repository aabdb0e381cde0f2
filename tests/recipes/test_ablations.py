"""The ablations of fine-tuning: what is measured on, and that the tables are those of the figures kept."""

import json
from pathlib import Path

import ablate
import numpy as np
import pytest
import report

from mose.data.retrieval.retrieval_set import RetrievalSet


@pytest.mark.slow
def test_the_tables_in_the_documentation_are_those_of_the_results(tmp_path, monkeypatch):
    docs = report.DOCS
    monkeypatch.setattr(report, "DOCS", tmp_path)
    results = json.loads((Path(report.__file__).parent / "results.json").read_text())
    assert report.document(results) == (docs / "finetuning-ablations.md").read_text()
    assert (tmp_path / "finetuning-exits.png").stat().st_size > 10_000


def test_spread_is_that_of_a_sample():
    assert report.spread(np.array([0.1, 0.2, 0.3])) == "0.200 ± 0.100"
    assert report.spread(np.array([0.25]), signed=True) == "+0.250"


def test_differences_are_taken_between_runs_of_one_seed():
    def run(arm, seed, mrr):
        return {"arm": arm, "seed": seed, "steps": 1, "mrr": {"set": {"0": {"0": mrr}}}}

    by_arm = {"none": [run("none", 0, 0.5), run("none", 1, 0.7)], "alone-0": [run("alone-0", 1, 0.6)]}
    table = report.depth_table(by_arm, ["0"], ["set"])
    assert table.splitlines()[-1] == "| exit 0 | 0.700 | 0.600 | +0.100 | +0.100 |"


def test_a_smaller_set_keeps_what_answers_its_queries():
    documents, queries = [f"d{i}" for i in range(50)], [f"q{i}" for i in range(20)]
    data = RetrievalSet(
        *("set", tuple(documents), tuple(documents), ("python",) * 50),
        *(tuple(queries), tuple(queries), ("en",) * 20),
        {f"q{i}": {f"d{2 * i}": 1} for i in range(20)},
    )
    small = ablate.reduced_set(data, queries=5, documents=12)
    assert (len(small.query_ids), len(small.document_ids)) == (5, 12)
    assert small.qrels.keys() == set(small.query_ids)
    assert {f"d{2 * int(query[1:])}" for query in small.query_ids} <= set(small.document_ids)
    assert small == ablate.reduced_set(data, queries=5, documents=12)
    assert ablate.reduced_set(data, queries=99, documents=99) == data


def test_every_arm_is_one_of_a_matrix_or_of_a_depth():
    assert {*report.MATRICES[:-1], *(f"alone-{e}" for e in ablate.EXITS)} == set(ablate.ARMS)
    with pytest.raises(SystemExit, match="no runs"):
        report.collect(Path("nowhere"))
