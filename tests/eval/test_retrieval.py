import json
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import mose.eval
from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval import speed
from mose.eval.__main__ import main
from mose.eval.baselines import BM25Baseline, SentenceTransformerBaseline
from mose.eval.quality import Judgements
from mose.eval.retrieval import evaluate
from mose.inference import corpus
from mose.tokenization.prompts import code_prompt, prompt_for, text_prompt

CODE = tuple(f"def function_{i}(x{i}):\n    return x{i} * {i}" for i in range(12))
IDS = tuple(f"d{i}" for i in range(12))
SEARCH = RetrievalSet(
    "search",
    IDS,
    CODE,
    ("python",) * 12,
    ("q0", "q1", "q2"),
    ("multiply by 3", "return x5", "function 7"),
    ("en", "", "en"),
    {"q0": {"d3": 1}, "q1": {"d5": 2, "d6": 1}, "q2": {"d7": 1}},
)
CLONES = RetrievalSet(
    "clones", IDS, CODE, ("python",) * 12, IDS, CODE, ("python",) * 12, {key: {key: 1} for key in IDS}
)
METRICS = {"mrr", "ndcg@10", "recall@1", "recall@10"}


@pytest.fixture
def quick(monkeypatch):
    """Few repetitions: these tests ask what is measured, not how fast it is."""
    for name, value in (("DOCUMENTS", 4), ("QUERIES", 2), ("PASSES", 1), ("WARM_UP", 1)):
        monkeypatch.setattr(speed, name, value)


@pytest.fixture
def folders(tmp_path):
    """The sets above as BEIR folders."""
    for data in (SEARCH, CLONES):
        folder = tmp_path / data.name
        folder.mkdir()
        for file, rows in (
            ("corpus.jsonl", (data.document_ids, data.documents, data.document_languages)),
            ("queries.jsonl", (data.query_ids, data.queries, data.query_languages)),
        ):
            lines = [
                json.dumps({"_id": key, "text": text, "language": language})
                for key, text, language in zip(*rows, strict=True)
            ]
            (folder / file).write_text("\n".join(lines))
        lines = [
            f"{query}\t{key}\t{grade}" for query, values in data.qrels.items() for key, grade in values.items()
        ]
        (folder / "qrels.tsv").write_text("\n".join(lines))
    return tmp_path


@pytest.mark.parametrize(
    ("language", "query", "expected"),
    [
        ("en", True, text_prompt()),
        ("", True, text_prompt()),
        ("English", False, text_prompt()),
        ("java", True, code_prompt("java")),
        ("csharp", False, code_prompt("csharp")),
        ("", False, code_prompt()),
        ("code", True, code_prompt()),
    ],
)
def test_the_language_chooses_the_prompt(language, query, expected):
    assert prompt_for(language, query) == expected


@pytest.mark.parametrize("name", mose.eval.__all__)
def test_every_public_name_is_importable(name):
    assert getattr(mose.eval, name).__name__ == name


def test_quality_equals_the_definition(model, tokenizer):
    """One text at a time through the model, a plain sort, the formula of MRR."""

    def embed(prompt, text, exit_layer):
        batch = tokenizer([prompt + text], truncation=True, max_length=64, return_tensors="pt")
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        with torch.no_grad():
            return model(**inputs, exit_layer=exit_layer).pooler_output[0].numpy()

    result = evaluate(model, tokenizer, [SEARCH], measure_speed=False)["sets"]["search"]
    assert (result["queries"], result["documents"]) == (3, 12)
    assert list(result["exits"]) == ["0", "1", "3"]
    for exit_layer, figures in result["exits"].items():
        documents = np.stack([embed(code_prompt("python"), text, int(exit_layer)) for text in CODE])
        reciprocal = []
        for key, query in zip(SEARCH.query_ids, SEARCH.queries, strict=True):
            scores = documents @ embed(text_prompt(), query, int(exit_layer))
            order = [IDS[i] for i in np.argsort(-scores)]
            reciprocal.append(1 / (1 + min(order.index(relevant) for relevant in SEARCH.qrels[key])))
        assert figures["mrr"] == pytest.approx(np.mean(reciprocal))
        assert set(figures) == METRICS


def test_a_query_finds_its_own_copy_at_every_exit(model, tokenizer):
    result = evaluate(model, tokenizer, [CLONES], baselines=[BM25Baseline()], measure_speed=False)["sets"][
        "clones"
    ]
    for figures in [*result["exits"].values(), result["peers"]["bm25"]]:
        assert figures == {"mrr": 1, "ndcg@10": 1, "recall@1": 1, "recall@10": 1}


def test_a_set_may_name_its_measures_and_leave_each_query_out_of_its_candidates(model, tokenizer):
    """Every document has one twin under another id: found first, once the query itself is left out."""
    ids = tuple(f"{kind}{i}" for kind in "ab" for i in range(6))
    code = CODE[:6] * 2
    twins = {key: {key: 1, f"{'ba'['ab'.index(key[0])]}{key[1:]}": 1} for key in ids}
    languages = ("python",) * 12
    data = RetrievalSet("twins", ids, code, languages, ids, code, languages, twins, True, ("map@r", "recall@2"))
    for figures in evaluate(model, tokenizer, [data], measure_speed=False)["sets"]["twins"]["exits"].values():
        assert figures == {"map@r": 1, "recall@2": 1}
    blocks = [np.eye(12)]  # each query sees itself alone: all others tie, greater ids first
    judgements = Judgements(data)
    ranks, grades = judgements.ranks(blocks), judgements.grades
    assert [result.tolist() for result in ranks[:2]] == [[6], [5]] and grades == [[1]] * 12


def test_speed_is_measured_per_exit_and_baseline(model, tokenizer, quick):
    class Fake(SentenceTransformerBaseline):
        name = "fake"
        keys = (name,)

        def __init__(self):
            self.calls: list[list[str]] = []
            self.model = torch.nn.ModuleList([torch.nn.Linear(3, 5)])

        def encode_documents(self, texts):
            self.calls.append(list(texts))
            return np.eye(12, dtype=np.float32)[[CODE.index(text) for text in texts]]

        def encode_queries(self, texts):
            return np.eye(12, dtype=np.float32)[[SEARCH.queries.index(text) for text in texts]]

    baseline = Fake()
    report = evaluate(model, tokenizer, [SEARCH], [0, 3], [BM25Baseline(), baseline])
    assert list(report["speed"]) == ["0", "3", "bm25", "fake"]
    for figures in report["speed"].values():
        assert set(figures) == {"snippets_per_second", "query_ms_p50", "query_ms_p95"}
        assert min(figures.values()) > 0
    assert list(report["costs"]) == ["0", "3", "fake"]
    assert report["costs"]["fake"] == {"parameters": 20, "memory_mb": 80e-6}
    assert baseline.calls == [list(CODE), [CODE[0]], [CODE[0], CODE[3], CODE[6], CODE[9]]]
    assert set(report["sets"]["search"]["peers"]) == {"bm25", "fake"}


def test_bad_input_is_named(model, tokenizer):
    with pytest.raises(ValueError, match="no sets"):
        evaluate(model, tokenizer, [])
    with pytest.raises(ValueError, match="exit_layer must be one of 0, 1, 3, got 2"):
        evaluate(model, tokenizer, [SEARCH], [2])
    with pytest.raises(ValueError, match="sets of a report must have different names, got 'search' twice"):
        evaluate(model, tokenizer, [SEARCH, replace(CLONES, name="search")])
    with pytest.raises(ValueError, match="rows of a report must have different names, got 'bm25' twice"):
        evaluate(model, tokenizer, [SEARCH], baselines=[BM25Baseline(), BM25Baseline()])


def test_the_command_writes_the_report(model, tokenizer, model_folder, folders, quick, monkeypatch, capsys):
    monkeypatch.chdir(model_folder)  # as from a clone of a model repository
    data = [str(folders / "search"), str(folders / "clones")]
    command = ["retrieval", "--model", ".", "--data", data[0], "--data", data[1], "--peers", "bm25"]
    assert main([*command, "--exit-layers", "all", "--json", str(folders / "report.json")]) == 0
    table = capsys.readouterr().out
    report = json.loads((folders / "report.json").read_text())
    expected = evaluate(model, tokenizer, [SEARCH, CLONES], baselines=[BM25Baseline()], measure_speed=False)
    across = report["sets"]["search"]["across_exits"]
    assert {k: across[k][k] for k in across} == {
        k: pytest.approx(values["mrr"]) for k, values in report["sets"]["search"]["exits"].items()
    }
    assert list(report) == ["sets", "speed", "costs", "settings"]
    for name, result in report["sets"].items():
        assert result["peers"] == expected["sets"][name]["peers"]
        for exit_layer, figures in result["exits"].items():
            assert figures == pytest.approx(expected["sets"][name]["exits"][exit_layer])
    for word in ("search (3 → 12)", "exit 3", "bm25", "snippets/s"):
        assert word in table

    assert main(["table", str(folders / "report.json"), "--metrics", "mrr"]) == 0
    assert capsys.readouterr().out.startswith("| MRR | search | clones |\n")


def test_json_on_stdout_is_one_document(model_folder, folders, capsys):
    arguments = ["--exit-layers", "1", "0", "--no-speed", "--json", "-", "--dtype", "bf16"]
    assert main(["retrieval", "--model", str(model_folder), "--data", str(folders / "clones"), *arguments]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert report["speed"] == {}
    assert list(report["sets"]["clones"]["exits"]) == ["0", "1"]
    assert report["sets"]["clones"]["exits"]["1"]["mrr"] == 1
    assert "exit 1" in captured.err


@pytest.mark.slow
def test_an_evaluation_killed_halfway_goes_on(model, tokenizer, tmp_path, monkeypatch):
    """kill -9 when the first set's documents and queries are on the disk, and the second's documents are due."""

    def measured():
        return evaluate(model, tokenizer, [SEARCH, CLONES], measure_speed=False, cache=tmp_path)

    plain = evaluate(model, tokenizer, [SEARCH, CLONES], measure_speed=False)
    make, made = corpus._encode_shard, []

    def count(encoder, task, progress):
        made.append((task.store.folder.parents[1].name, task.query))
        return make(encoder, task, progress)

    monkeypatch.setattr(corpus, "_encode_shard", count)
    if (child := os.fork()) == 0:
        write = corpus.Store.write
        corpus.Store.write = lambda *given: os.kill(os.getpid(), 9) if len(made) == 3 else write(*given)
        measured()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9
    result = measured()
    assert made == [("clones", False), ("clones", True)]
    for name, expected in plain["sets"].items():
        for exit_layer, figures in expected["exits"].items():
            assert result["sets"][name]["exits"][exit_layer] == pytest.approx(figures)


@pytest.mark.slow
def test_a_cache_and_an_earlier_mose_beside_it(model, tokenizer, model_folder, folders, monkeypatch, capsys):
    """The same figures with embeddings on the disk, and nothing is encoded the second time."""
    plain = evaluate(model, tokenizer, [CLONES, SEARCH], measure_speed=False)
    command = ["retrieval", "--model", str(model_folder)]
    command += ["--data", str(folders / "clones"), "--data", str(folders / "search")]
    command += ["--peers", f"{model_folder}@1", "--no-speed", "--no-intervals"]
    command += ["--cache", str(folders / "cache"), "--json", str(folders / "report.json")]
    for _ in range(2):
        assert main(command) == 0
        report = json.loads((folders / "report.json").read_text())
        for name, expected in plain["sets"].items():
            result = report["sets"][name]
            for exit_layer, figures in expected["exits"].items():
                assert result["exits"][exit_layer] == pytest.approx(figures)
            assert result["peers"] == {f"{model_folder.name}@1": pytest.approx(result["exits"]["1"])}
            for exit_layer, figures in expected["across_exits"].items():
                assert result["across_exits"][exit_layer] == pytest.approx(figures)
            assert "intervals" not in result and "intervals" in expected
        assert report["costs"][f"{model_folder.name}@1"] == report["costs"]["1"]
        monkeypatch.setattr("mose.inference.encoders.encode", None)  # whoever calls it fails


@pytest.mark.parametrize(
    ("changed", "code", "message"),
    [
        (
            {"--num-proc": "9", "--device": "meta"},
            2,
            "--num-proc must be at most 0 (devices of the kind 'meta'), got 9",
        ),
        ({"--peers": "./nowhere@1"}, 1, "baseline ./nowhere@1: cannot be loaded: no such folder"),
        ({"--exit-layers": "2"}, 2, "exit_layer must be one of 0, 1, 3, got 2"),
        ({"--exit-layers": "deep"}, 2, "--exit-layers must be whole numbers, or 'all' alone, got deep"),
        ({"--data": "./nowhere"}, 2, "./nowhere: no such folder"),
        ({"--model": "./nowhere"}, 2, "--model ./nowhere: no such folder"),
        ({"--model": "cut-short"}, 2, "--model cut-short: cut-short: the weights are damaged"),
        ({"--model": "stranger"}, 2, "a 'bert' model has no exits"),
        ({"--json": "./nowhere/report.json"}, 2, "there is no folder nowhere"),
        ({"--json": "broken"}, 2, "--json broken: is a folder"),
        ({"--max-length": "0"}, 2, "--max-length: must be a whole number of at least 1, got '0'"),
        ({"--max-length": "far"}, 2, "--max-length: must be a whole number of at least 1, got 'far'"),
        ({"--peers": "bm25 bm25"}, 1, "rows of a report must have different names, got 'bm25' twice"),
        ({"--data": "broken"}, 1, "the corpus is empty"),
    ],
)
def test_failures_are_named_and_counted(model_folder, folders, monkeypatch, capsys, changed, code, message):
    monkeypatch.chdir(folders)
    (folders / "broken").mkdir()
    for file in ("corpus.jsonl", "queries.jsonl", "qrels.tsv"):
        (folders / "broken" / file).touch()
    shutil.copytree(model_folder, "cut-short")
    Path("cut-short/model.safetensors").write_bytes((model_folder / "model.safetensors").read_bytes()[:1000])
    Path("stranger").mkdir()
    Path("stranger/config.json").write_text('{"model_type": "bert"}')
    options = {"--model": str(model_folder), "--data": "clones", **changed}
    arguments = [word for name, value in options.items() for word in (name, *value.split())]
    with pytest.raises(SystemExit) as stop:  # argparse's own way out, or ours
        sys.exit(main(["retrieval", "--no-speed", *arguments]))
    assert stop.value.code == code
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_table_refuses_what_is_no_report(tmp_path, capsys):
    for content, message in (("{", "not JSON"), ("[]", "must be a report of mose.eval")):
        (tmp_path / "x.json").write_text(content)
        assert main(["table", str(tmp_path / "x.json")]) == 1
        assert message in capsys.readouterr().err
    assert main(["table", str(tmp_path / "missing.json")]) == 2
