"""The benchmarks at sizes too small to measure anything: that they run, and what must hold of their reports."""

import json
import mmap
import shutil
import sys

import numpy as np
import pytest
import torch

from mose.benchmarks import (
    adaptive,
    command,
    encode,
    exits,
    export,
    gradcache,
    http_load,
    hybrid,
    laws,
    loading,
    peers,
    pretraining,
    query,
    scale,
    serving,
    static,
    topk,
)
from mose.benchmarks.command import Timing, interleave, text_table
from mose.configuration_mose import MoSEConfig
from mose.eval.baselines import BaselineError
from mose.modeling_mose import MoSEModel
from mose.training.pretraining.flops import training_flops


@pytest.fixture(scope="module")
def model_folder(tiny_tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    config = MoSEConfig.from_preset(
        "mose-nano-256",
        vocab_size=len(tiny_tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        exit_layers=(0, 1, 2),
        max_position_embeddings=64,
    )
    folder = tmp_path_factory.mktemp("model")
    MoSEModel(config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def report_of(tmp_path, capsys):
    """Run a benchmark, check what all have in common, and return its report and its text."""

    def run(benchmark, *arguments):
        file = tmp_path / "report.json"
        assert benchmark.main([*map(str, arguments), "--json", str(file)]) == 0
        report = json.loads(file.read_text())
        assert {"settings", "environment"} < report.keys()
        assert report["environment"]["threads"] == torch.get_num_threads()
        text = capsys.readouterr().out
        assert report["environment"]["torch"] in text
        return report, text

    return run


def test_tasks_take_turns_and_the_warm_up_does_not_count():
    calls = []
    tasks = {name: lambda number, name=name: calls.append((name, number)) for name in "ab"}
    times = interleave(tasks, rounds=2, warm_up=1)
    assert calls == [("a", 1), ("b", 1), ("a", 0), ("b", 0), ("a", 1), ("b", 1)]
    assert {name: len(t.seconds) for name, t in times.items()} == {"a": 2, "b": 2}
    with pytest.raises(ValueError, match="rounds must be at least 1 and warm_up at least 0, got 0 and 1"):
        interleave(tasks, rounds=0)


def test_timing_waits_for_the_device(monkeypatch):
    """Use a clock that only waiting for the device moves: the work counts, not its submission."""
    clock, queue = [0.0], list[float]()
    monkeypatch.setattr(command.time, "perf_counter", lambda: clock[0])

    def synchronize(device):
        assert device == "cuda:1"
        clock[0] += sum(queue)
        queue.clear()

    monkeypatch.setattr(command, "synchronize", synchronize)
    tasks = {seconds: lambda number, seconds=seconds: queue.append(seconds) for seconds in (1.0, 5.0)}
    times = interleave(tasks, rounds=3, device="cuda:1")
    assert {key: t.median for key, t in times.items()} == {1.0: 1.0, 5.0: 5.0}


def test_timing_figures():
    t = Timing((1.0, 2.0, 3.0, 4.0, 100.0))
    assert (t.median, t.percentile(100), t.spread) == (3.0, 100.0, pytest.approx(2 / 3))


def test_table_aligns():
    assert text_table(["a", "long"], [["row", "1"]]) == "a    long\nrow     1"


def test_figures_have_formats_and_units():
    rows = {"one": {"bytes": 1_500_000, "share": 0.25}, "two": {"bytes": None, "share": 1}}
    text = command.figures_table("", rows, {"size": ("bytes", "MB"), "of all": ("share", ".0%")})
    assert text.splitlines() == ["       size  of all", "one  1.5 MB     25%", "two            100%"]


def test_peak_memory_is_that_of_the_task():
    if sys.platform != "linux":
        pytest.skip("needs Linux's /proc")
    before, peak = command.peak_memory(lambda: bytearray(b"x" * 50_000_000))
    assert 45e6 < peak - before < 200e6


@pytest.mark.slow
def test_a_fresh_process_returns_its_result_and_its_error():
    assert command.in_fresh_process(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        command.in_fresh_process(divmod, 7, 0)


def test_what_the_blocks_predict():
    """A fixed cost of 2 and 1 a block is as expected; a slower exit is a deviation by that much."""
    exact = exits.compare_with_blocks({0: 2.0, 1: 3.0, 3: 5.0})
    assert [row["deviation_percent"] for row in exact["exits"].values()] == pytest.approx([0, 0, 0])
    assert exact["exits"]["1"]["time_share"] == pytest.approx(3 / 5)
    slow = exits.compare_with_blocks({0: 2.0, 1: 3.6, 3: 5.0})
    assert slow["worst_deviation_percent"] == pytest.approx(20)


def test_exits(report_of):
    small = ("--models", "mose-nano", "--batch", 1, "--tokens", 8, "--rounds", 1)
    report, text = report_of(exits.ExitTimes(), *small)
    preset = MoSEConfig.from_preset("mose-nano")
    (model,) = report["models"].values()
    assert model["blocks"] == preset.num_hidden_layers
    assert list(model["exits"]) == [str(k) for k in preset.exit_layers]
    shares = [row["block_share"] for row in model["exits"].values()]
    assert shares == sorted(shares) and (shares[0], shares[-1]) == (0, 1)
    assert all(row["ms"] > 0 for row in model["exits"].values())
    assert model["exits"][str(model["blocks"])]["time_share"] == 1
    assert "k/N" in text


def test_exit_0_is_added_for_the_fixed_cost():
    assert exits.exit_config("mose-1b").exit_layers == (0, 4, 9, 18, 27, 36)
    assert exits.exit_config(exits.DEEP_NANO).exit_layers[-1] == 12


@pytest.fixture
def on_disk(tmp_path):
    """Make a file of two pages and a bit, no byte of it in memory; skip if the file system cannot do that."""
    if sys.platform != "linux":
        pytest.skip("needs Linux's page cache and /proc")
    file = tmp_path / "file"
    file.write_bytes(bytes(2 * mmap.PAGESIZE + 1))
    try:
        loading.drop_cache(file)
    except loading.PageCacheError as error:
        pytest.skip(str(error))
    return file


def test_page_cache_holds_what_was_read(on_disk):
    assert loading.cached_bytes(on_disk) == 0
    on_disk.read_bytes()
    assert loading.cached_bytes(on_disk) == 3 * mmap.PAGESIZE


@pytest.mark.slow
def test_loading(report_of, on_disk, tmp_path):
    small = ("--exit-layers", 1, 2, "--hidden-size", 64, "--rounds", 1, "--folder", tmp_path)
    report, _ = report_of(loading.PartialLoading(), *small)
    shallow, deep = report["exits"]["1"], report["exits"]["2"]
    assert shallow["needed_bytes"] < deep["needed_bytes"] <= report["checkpoint_bytes"]
    for row in (shallow, deep):
        assert row["needed_bytes"] <= row["read_bytes"] < report["checkpoint_bytes"] + mmap.PAGESIZE
        assert row["memory_bytes"] > 0 and row["ready_seconds"] >= row["load_seconds"] > 0
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_needed_bytes_are_those_of_the_parameters(model_folder):
    config = MoSEConfig.from_pretrained(model_folder)
    for k in (0, 1, 2):
        model = MoSEModel.from_pretrained(model_folder, exit_layer=k)
        expected = sum(parameter.nbytes for parameter in model.parameters())
        assert loading.needed_bytes(model_folder / loading.WEIGHTS, config, k) == expected


@pytest.fixture
def toy_set(tmp_path):
    documents = [{"_id": f"d{i}", "text": f"def f{i}(x): return x + {i}"} for i in range(8)]
    queries = [{"_id": f"q{i}", "text": f"add {i}"} for i in range(3)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "qrels.tsv").write_text("".join(f"q{i}\td{i}\t1\n" for i in range(3)))
    return tmp_path


def test_encode(report_of, model_folder, toy_set, capsys):
    small = ("--model", model_folder, "--data", toy_set, "--rounds", 1, "--documents", 4, "--cpu-time", "--peers")
    report, _ = report_of(encode.EncodingSpeed(), *small)
    assert list(report["speed"]) == ["exit 0", "exit 1", "exit 2", "all exits"]
    assert report["all_exits_cost"] == pytest.approx(
        report["speed"]["exit 2"]["snippets_per_second"] / report["speed"]["all exits"]["snippets_per_second"]
    )
    for row in report["speed"].values():
        assert row["snippets_per_second"] > 0 and 0 < row["query_ms_p50"] <= row["query_ms_p95"]

    assert encode.EncodingSpeed().main([*map(str, small), "bm25"]) == 2
    assert "--peers must be sentence-transformers models, got bm25" in capsys.readouterr().err


@pytest.mark.slow
def test_static(report_of, model_folder, toy_set):
    small = ("--model", model_folder, "--data", toy_set, "--rounds", 1, "--documents", 4, "--queries", 2)
    report, text = report_of(static.StaticSpeed(), *small)
    expected = {"tokenizer alone", "static fp32", "static fp16", "static int8", "torch"}
    assert expected <= report["speed"].keys() <= expected | {"model2vec"}
    assert report["static_against"]["static fp32"] == 1 and "first vector s" in text
    cold = {name: row["first_vector_seconds"] for name, row in report["speed"].items()}
    assert 0 < cold["static fp32"] < cold["torch"] and cold["static int8"] is None


@pytest.mark.slow
def test_topk(report_of, tmp_path):
    if sys.platform != "linux":
        pytest.skip("needs Linux's /proc")
    sizes = ("--vectors", 1000, "--dim", 8, "--queries", 7, "--k", 5, "--shard-rows", 300, "--rounds", 1)
    report, text = report_of(topk.ExactSearch(), *sizes, "--folder", tmp_path)
    assert report["results"] == 7 * 5 and report["largest_error"] < 1e-6
    assert report["seconds"] > 0 and report["memory_bytes"] >= 0
    assert (report["vectors_bytes"], report["scores_bytes"]) == (4 * 1000 * 8, 4 * 1000 * 7)
    assert "1,000 vectors of 8" in text
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_adaptive(report_of, model_folder, toy_set, tmp_path):
    folder = tmp_path / "aligned"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "aligned_exits": True}))

    arguments = ("--model", folder, "--data", toy_set, "--budgets", 0, 1)
    some, _ = report_of(adaptive.AdaptiveDepth(), *arguments, "--exit-layers", 0, 2)
    assert list(some["layouts"][adaptive.LAYOUTS[0]]["fixed"]) == ["0", "2"]
    report, text = report_of(adaptive.AdaptiveDepth(), *arguments)
    deep, own = (report["layouts"][layout] for layout in adaptive.LAYOUTS)
    assert list(deep["fixed"]) == ["0", "1", "2"] and deep["fixed"]["2"] == pytest.approx(own["fixed"]["2"])
    # A cascade over fewer documents than it may re-rank is a search of the deep index.
    assert report["cascade"]["query at exit 2"] == pytest.approx(deep["fixed"]["2"])
    assert report["cascade"]["query at exit 0"] == pytest.approx(deep["fixed"]["0"])
    for figures in (deep, own):
        assert [(row["signal"], row["split"], row["budget"]) for row in figures["adaptive"]] == [
            (signal, "queries", budget) for signal in ("margin", "entropy") for budget in (0, 1)
        ]
        free = figures["adaptive"][0]
        assert free["blocks"] == free["gain"] == 0 and free["mrr"] == pytest.approx(figures["fixed"]["0"])
        assert all(row["mrr"] <= figures["best"] + 1e-9 for row in figures["adaptive"])
    assert "mixture" in text

    assert adaptive.AdaptiveDepth().main(["--model", str(model_folder), "--data", str(toy_set)]) == 2


def test_mixtures_cost_what_they_may():
    """Against the closed form: the concave hull of (blocks, MRR), never falling."""
    zeros, sets = np.zeros(1), np.zeros(1, int)
    trials = adaptive.DepthTrials({0: zeros, 1: zeros + 0.2, 3: zeros + 0.4, 4: zeros + 0.1}, {}, sets)
    expected = np.interp([0, 0.5, 1, 2, 3, 3.5], [0, 1, 3, 4], [0, 0.2, 0.4, 0.4])
    mixed = [adaptive.mixture(trials, trials, blocks)[0] for blocks in (0, 0.5, 1, 2, 3, 3.5)]
    assert mixed == pytest.approx(expected.tolist())


def test_hybrid(report_of, model_folder, toy_set):
    weights = ("--dense-weights", 0, 0.5, 1)
    arguments = ("--model", model_folder, "--data", toy_set, "--exit-layers", 0, 2, *weights)
    report, text = report_of(hybrid.HybridSearch(), *arguments)
    (figures,) = report["sets"].values()
    assert list(figures["exits"]) == ["0", "2"]
    for row in figures["exits"].values():
        assert list(row) == ["dense", "0", "0.5", "1"]
        # All weight on one side is that side: scaling its scores moves no document past another.
        assert row["0"] == pytest.approx(figures["bm25"])
        assert row["1"] == pytest.approx(row["dense"], abs=1e-6)
    assert "fused, 0.5" in text


@pytest.mark.slow
def test_the_default_set_is_the_standard_library(report_of, model_folder, monkeypatch):
    monkeypatch.setattr(command, "DEFAULT_SET", ("json",))
    report, _ = report_of(hybrid.HybridSearch(), "--model", model_folder, "--exit-layers", 1)
    (figures,) = report["sets"].values()
    assert list(report["sets"]) == ["stdlib"] and 0.2 < figures["bm25"] < 1


@pytest.mark.slow
def test_export(report_of, model_folder, toy_set):
    small = ("--documents", 4, "--queries", 2, "--rounds", 1, "--exit-layers", 0)
    report, text = report_of(export.ExportedExits(), "--model", model_folder, "--data", toy_set, *small)
    kinds = ("torch fp32", "torch bf16", "ONNX", "ONNX int8")
    assert list(report["encoders"]) == [f"exit 0, {kind}" for kind in kinds]
    rows = [report["encoders"][f"exit 0, {kind}"] for kind in kinds]
    mrr = f"mrr {toy_set.name}"
    assert rows[0][mrr] == rows[2][mrr] and all(0 < row[mrr] <= 1 for row in rows)
    assert rows[0]["bytes"] is None and rows[3]["bytes"] > 0
    assert all(row["snippets_per_second"] > 0 and row["query_ms_p50"] > 0 for row in rows)
    assert "int8" in text


@pytest.mark.slow
def test_serving(report_of, model_folder):
    small = ("--clients", 3, "--seconds", 1, "--slow", 2, "--requests", 40, "--words", 20)
    report, text = report_of(serving.ServerLoad(), "--model", model_folder, *small)
    assert list(report["load"]) == ["one client", "3 clients", "one client, again"]
    for row in report["load"].values():
        assert row["answered"] > 0 and row["server_ms_per_request"] > 0
        assert row["wrong"] == row["lost"] == row["busy"] == 0
    assert report["load"]["3 clients"]["refused"] > 0
    assert set(report["ms"]["3 clients"]) <= {"exit 0", "exit 1", "exit 2"}
    assert report["memory"]["series"] and all(row["ratio"] > 0 for row in report["compute"].values())
    assert "times the requests of one client" in text


@pytest.mark.slow
def test_scale(report_of, model_folder, monkeypatch):
    small = ("--documents", 20, "--rounds", 1, "--functions", 1_000_000, "--cores", 10, "--price", 0.5)
    report, text = report_of(scale.CorpusCosts(), "--model", model_folder, "--exit-layers", 0, 2, *small)
    rows = report["costs"]
    names = ["exit 0", "exit 2", "exit 2, float16", "exit 2, Lance", "exits 0 and 2", "near-duplicates"]
    assert list(rows) == names and "worked out for 1,000,000 functions on 10 cores" in text
    for row in rows.values():
        assert row["core_hours"] == pytest.approx(row["cpu_ms"] * 1e6 / 3.6e6)
        assert row["hours"] == pytest.approx(row["core_hours"] / 10)
        assert row["price"] == pytest.approx(row["core_hours"] / 2) and row["terabytes"] > 0


@pytest.mark.parametrize(
    ("status", "answer", "expected", "kind"),
    [
        (200, b"[[1.0]]", [[1.0]], "answered"),
        (200, b"[[1.1]]", [[1.0]], "wrong"),
        (200, b"[1.0]", [[1.0]], "wrong"),
        (200, b'{"data": [{"embedding": "AACAPw=="}]}', [[1.0]], "answered"),
        (500, b"{}", [[1.0]], "wrong"),
        (503, b"{}", [[1.0]], "busy"),
        (413, b"{}", None, "refused"),
        (200, b"[[1.0]]", None, "wrong"),
        (500, b"{}", None, "wrong"),
    ],
)
def test_outcomes_of_requests(status, answer, expected, kind):
    assert http_load.classify_answer(status, answer, None if expected is None else np.array(expected)) == kind


@pytest.mark.slow
def test_query(report_of, model_folder, tmp_path, monkeypatch):
    assert 0.01 < query.process_seconds([sys.executable, "-c", "sum(range(2_000_000))"]) < 10
    monkeypatch.setattr(query, "process_seconds", lambda words: 0.5 if "--index" in words else 0)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "m.py").write_text("".join(f"def parse_item{i}(x):\n    return x + {i}\n\n\n" for i in range(12)))
    arguments = (
        "--model",
        model_folder,
        "--source-tree",
        tree,
        "--index",
        tmp_path / "index",
        "--exit-layers",
        1,
    )
    first, _ = report_of(query.QueryLatency(), *arguments, "--queries", 5)
    assert (first["units"], first["embedded_now"], first["queries"], first["exit_layer"]) == (12, 12, 5, 1)
    assert set(first["steps_seconds"]) == {"model", "indexing", "opening", "first query"}
    assert first["cold_process_seconds"] == 0.5
    for row in first["latency"].values():
        assert 0 < row["ms_p50"] <= row["ms_p95"] <= row["ms_max"]
    again, _ = report_of(query.QueryLatency(), *arguments, "--queries", 5)
    assert again["embedded_now"] == 0


@pytest.mark.slow
def test_gradcache(report_of):
    small = ("--batches", 3, "--mini-batch", 2, "--timed-batch", 3, "--tokens", 6, "--rounds", 1)
    report, text = report_of(gradcache.GradCacheStep(), *small)
    (row,) = report["memory"].values()
    assert 0 < row["before_bytes"] <= row["peak_bytes"]
    assert set(report["time"]) == {"cached", "kept", "whole"} and "kept over cached" in text


@pytest.mark.slow
def test_pretraining(report_of):
    small = ("--blocks", 5, "--batch", 1, "--tokens", 16, "--rounds", 1)
    report, text = report_of(pretraining.PreTrainingStep(), *small)
    assert report["exits"] == [1, 2, 3, 4, 5] and list(report["losses"]) == list(pretraining.LOSSES)
    assert all(row["seconds"] > 0 and row["bytes"] > 0 for row in report["losses"].values())
    one = report["losses"]["one exit"]
    assert one["time_over_one"] == one["bytes_over_one"] == 1
    assert "The FLOPs predict" in text


def test_what_the_flops_predict_at_the_papers_shape():
    paper = MoSEConfig()
    ratio = training_flops(paper, 2048) / training_flops(paper, 2048, exits=1)
    assert ratio == pytest.approx(1.027, abs=0.001)
    rows = {
        name: {"seconds": s, "bytes": 100} for name, s in zip(pretraining.LOSSES, (1.0, 1.3, 2.0), strict=True)
    }
    report = pretraining.compare_losses(rows, 1.25)
    assert report["time_over_flops"] == pytest.approx(1.04)
    assert report["losses"]["naive"] == {"seconds": 2, "bytes": 100, "time_over_one": 2, "bytes_over_one": 1}


@pytest.mark.parametrize(("name", "words"), [("parse_iso_date", "parse iso date"), ("__readFile2", "read file2")])
def test_names_in_words(name, words):
    assert query.words_of_name(name) == words


@pytest.mark.parametrize(
    ("benchmark", "arguments", "message"),
    [
        (exits.ExitTimes(), ["--json", "nowhere/at/all.json"], "--json must be in an existing folder"),
        (loading.PartialLoading(), ["--exit-layers", "2", "1"], "sorted"),
        (query.QueryLatency(), ["--source-tree", "nowhere"], "--source-tree must be a folder, got nowhere"),
        (pretraining.PreTrainingStep(), ["--blocks", "7"], "--blocks must be a multiple of 5, got 7"),
    ],
)
def test_bad_arguments(benchmark, arguments, message, capsys):
    assert benchmark.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_bad_flags(capsys):
    with pytest.raises(SystemExit) as stop:
        exits.ExitTimes().main(["--rounds", "0"])
    assert stop.value.code == 2 and "whole number of at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_laws(report_of, model_folder, toy_set, tmp_path, monkeypatch):
    tokenizing = encode.EncodeFunctions(len, len)
    monkeypatch.setattr(laws, "load_peers", lambda *_: ({"tokenizer alone": tokenizing}, {"one": "a reason"}))
    monkeypatch.setattr(laws, "first_vector_seconds", lambda *_: 0.25)
    small = ("--model", model_folder, "--data", toy_set, "--documents", 2, "--queries", 2, "--rounds", 1)
    picture = tmp_path / "laws.svg"
    report, text = report_of(laws.Laws(), *small, "--picture", picture, "--skip", *laws.PARTS)

    exits = {"exit 0", "exit 1", "exit 2", "all exits", "exit 0, no torch"}
    assert set(report["speed"]) == exits | {"tokenizer alone", "BM25"}
    assert "left out: one: a reason" in text and "left out: loading: --skip" in text
    outcomes = {law["name"]: law["outcome"] for law in report["laws"]}
    assert outcomes["seconds to the first vector of a cold process, exit 0, no torch"] == "met"
    assert outcomes["speed of exit 0 in torch, over model2vec"] == "not measured"
    assert "<svg" in picture.read_text()


def test_laws_are_kept_or_missed_by_their_bounds():
    assert [laws.Law("", value, 2).outcome for value in (1.9, 2, None)] == ["MISSED", "met", "not measured"]
    assert [laws.Law("", value, 2, at_least=False).outcome for value in (2, 2.1)] == ["met", "MISSED"]
    seconds = {"exit 0": 1.0, "exit 3": 4.0, "all exits": 5.0, "exit 0, no torch": 0.5, "all-MiniLM-L6-v2": 24.0}
    values = {law.name: law.value for law in laws.encoding_laws(seconds, 0.1)}
    assert values["speed of exit 3 over all-MiniLM-L6-v2"] == 6
    assert values["time of all exits in one pass, over exit 3"] == 1.25

    parts = {
        "pretraining": {"time_over_flops": 1.1},
        "finetuning": {"time": {"kept": {"seconds": 3}, "cached": {"seconds": 4}}},
        "loading": {"exits": {"4": {"read_bytes": 20}, "36": {"read_bytes": 100}}},
        "exits": {"models": {"a": {"worst_deviation_percent": -2.0}}},
        "before": {"0": 2.0, "1": 1.5},
    }
    expected = {1.1: "MISSED", 0.75: "met", 0.2: "met", 0.02: "met", 1.5: "met"}
    assert {law.value: law.outcome for law in laws.part_laws(parts)} == expected


def test_peers_that_are_not_installed_are_named(monkeypatch, tiny_tokenizer, tmp_path):
    def unavailable(*_):
        raise BaselineError("cannot be loaded")

    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(peers, "SentenceTransformerBaseline", unavailable)
    rows, left_out = peers.load_peers(None, tiny_tokenizer.backend_tokenizer, 8, None, "cpu", tmp_path)
    assert list(rows) == ["tokenizer alone"]
    assert left_out["model2vec"] == "the package model2vec is not installed"
    assert left_out["all-MiniLM-L6-v2, ONNX int8"] == "cannot be loaded"
