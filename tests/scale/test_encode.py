"""`mose encode` in this process, and its worker as Ray Data calls it."""

import json

import fsspec
import lance
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mose.inference.encoding import encode
from mose.inference.fingerprints import model_fingerprint
from mose.inference.loading import load_model
from mose.scale.encode import main
from mose.scale.parts import Columns, plan_parts
from mose.scale.results import ResultFolder
from mose.scale.workers import EncodeSettings, PartEncoder, size_pool
from mose.tokenization.prompts import code_prompt

ROWS = [{"text": f"def f{i}(): return {i}", "language": ["python", "java"][i % 2], "id": i} for i in range(12)]


@pytest.fixture(scope="module")
def loaded(tiny_model_folder):
    return load_model(tiny_model_folder, [0, 3], "cpu", False)


@pytest.fixture(scope="module")
def expected(loaded) -> dict[int, np.ndarray]:
    model, tokenizer, exits = loaded
    prompts = [code_prompt(row["language"]) for row in ROWS]
    return encode(model, tokenizer, [row["text"] for row in ROWS], exits, prompts)


@pytest.fixture
def corpus(tmp_path):
    """Twelve rows in two files of two kinds."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:5]))
    pq.write_table(pa.Table.from_pylist(ROWS[5:]), folder / "b.parquet", row_group_size=2)
    return folder


@pytest.fixture
def run(corpus, tiny_model_folder, tmp_path, capsys):
    """Runs `mose encode` with further flags, and returns its exit code and what it printed."""

    def run_command(*flags: str, output: str = "out") -> tuple[int, str]:
        command = [str(corpus), "--model", tiny_model_folder, "--exit-layers", "0", "3", "--device", "cpu"]
        command += ["--language-column", "language", "--part-rows", "2", "--output-dir", str(tmp_path / output)]
        code = main([*command, *flags])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run_command


def check_vectors(table: pa.Table, expected: dict[int, np.ndarray], rows: list[int] | None = None) -> None:
    """Check the embeddings of some of the rows, in any order."""
    rows = list(range(len(ROWS))) if rows is None else rows
    ids = [int(value) for value in table["id"].to_pylist()]
    assert sorted(ids) == rows
    for exit_layer, vectors in expected.items():
        stored = np.array(table[f"exit_{exit_layer}"].to_pylist(), dtype=np.float32)
        np.testing.assert_allclose(stored, vectors[ids], atol=1e-6)


def test_vectors_are_the_encoders_in_both_formats(run, expected, tmp_path):
    # JSON lines keep ids as text, parquet as numbers: one file for each part.
    assert run() == (0, f"{tmp_path / 'out'}: 12 texts in 5 parts\n")
    assert run("--keep", "id", output="kept")[0] == 0
    files = sorted((tmp_path / "kept").glob("part-*.parquet"))
    tables = [pq.read_table(file).select(["id", "exit_0", "exit_3"]) for file in files]
    tables = [table.set_column(0, "id", table["id"].cast(pa.string())) for table in tables]
    check_vectors(pa.concat_tables(tables), expected)


def test_lance_is_one_dataset_in_the_corpus_order(run, expected, corpus, tmp_path):
    (corpus / "a.jsonl").unlink()
    code, _ = run("--output-format", "lance", "--keep", "id")
    dataset = lance.dataset(str(tmp_path / "out" / "vectors.lance"))
    assert code == 0 and dataset.to_table()["id"].to_pylist() == list(range(5, 12))
    check_vectors(dataset.to_table(), expected, list(range(5, 12)))
    # Running again changes nothing, and a file that is gone goes from the dataset, too.
    assert run("--output-format", "lance", "--keep", "id")[0] == 0
    assert lance.dataset(str(tmp_path / "out" / "vectors.lance")).count_rows() == 7


def test_a_run_resumes_with_the_parts_that_are_missing_or_damaged(run, corpus, tmp_path):
    assert run()[0] == 0
    files = sorted((tmp_path / "out").glob("part-*"))
    times = {file: file.stat().st_mtime_ns for file in files}
    files[0].unlink()
    files[1].write_bytes(files[1].read_bytes()[:-20])
    assert "3 of 5 parts are finished already" in run()[1]
    again = {file: file.stat().st_mtime_ns for file in sorted((tmp_path / "out").glob("part-*"))}
    assert again.keys() == times.keys()
    assert {file for file in files if again[file] != times[file]} == set(files[:2])

    # A changed file's parts replace those of its old content.
    (corpus / "a.jsonl").write_text(json.dumps(ROWS[0]))
    assert "8 texts in 5 parts" in run()[1]
    assert sum(pq.read_metadata(file).num_rows for file in (tmp_path / "out").glob("part-*")) == 8


def test_results_of_a_file_that_cannot_be_read_today_stay(run, corpus, tmp_path):
    assert run()[0] == 0
    before = {file.name for file in (tmp_path / "out").glob("part-*")}
    content = (corpus / "b.parquet").read_bytes()
    (corpus / "b.parquet").write_bytes(content[:50])
    assert run()[0] == 1
    assert {file.name for file in (tmp_path / "out").glob("part-*")} == before
    (corpus / "b.parquet").unlink()
    assert run()[0] == 0  # gone, not unreadable: what belongs to it goes, too
    assert len(list((tmp_path / "out").glob("part-*"))) == 1


def test_corpus_and_results_may_be_at_any_address(loaded, expected, tiny_model_folder, capsys):
    memory = fsspec.filesystem("memory")
    memory.pipe("/store/corpus/a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS).encode())
    command = [
        "memory://store/corpus",
        "--model",
        tiny_model_folder,
        "--exit-layers",
        "0",
        "3",
        "--device",
        "cpu",
    ]
    command += ["--output-dir", "memory://store/out", "--keep", "id", "--language-column", "language"]
    assert main(command) == 0 and main(command) == 0
    assert "1 of 1 parts are finished already" in capsys.readouterr().err
    (name,) = memory.glob("/store/out/part-*.parquet")
    with memory.open(name) as stream:
        check_vectors(pq.read_table(stream), expected)


def test_one_bad_file_does_not_end_the_run(run, corpus, tmp_path):
    (corpus / "0.parquet").write_bytes(b"junk")
    pq.write_table(pa.table({"code": ["x"]}), corpus / "1.parquet")
    with (corpus / "a.jsonl").open("a") as stream:
        stream.write("{\n")
    code, text = run()
    assert code == 1 and "12 texts in 5 parts" in text
    assert "0.parquet cannot be opened" in text and "has no column text, only code" in text
    assert "1 rows without a usable text were left out, such as file:" in text
    assert "1 parts failed and 1 files cannot be opened" in text


def test_a_corpus_without_a_usable_row_is_a_failure(run, corpus):
    for file in corpus.iterdir():
        file.unlink()
    (corpus / "a.jsonl").write_text(json.dumps({"text": 3}) + "\n" + json.dumps({"text": None}) + "\n")
    code, text = run()
    assert code == 1 and "None of 2 rows has a usable text. Check --column." in text


def test_embeddings_of_other_settings_are_kept(run, tmp_path):
    assert run()[0] == 0
    code, text = run("--max-length", "9")
    assert code == 1 and "holds embeddings of another max_length. Allow overwriting (--overwrite)." in text
    assert run("--max-length", "9", "--overwrite")[0] == 0
    (tmp_path / "out" / "_encode.json").write_text("{")
    assert "holds embeddings of another model" in run("--max-length", "9")[1]
    assert run("--overwrite")[0] == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    code, text = run("--overwrite", output="mine")
    assert code == 1 and "holds thesis.tex, which is no embeddings file" in text
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_exit_0_alone_is_looked_up_and_the_same(run, expected, tmp_path):
    assert run("--keep", "id")[0] == 0
    assert run("--keep", "id", "--exit-layers", "0", output="lookup")[0] == 0
    for file in (tmp_path / "out").glob("part-*"):
        both = (pq.read_table(path)["exit_0"].to_pylist() for path in (file, tmp_path / "lookup" / file.name))
        np.testing.assert_allclose(*both, atol=1e-6)


def test_half_precision_takes_half_the_space(run, expected, tmp_path):
    assert run("--vector-type", "float16")[0] == 0
    table = pq.read_table(next((tmp_path / "out").glob("part-*")))
    assert table.schema.field("exit_3").type == pa.list_(pa.float16(), 32)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--exit-layers", "2"], "exit_layer must be one of 0, 1, 3, got 2"),
        (["--exit-layers", "x"], "--exit-layers must be whole numbers, or 'all' alone, got x"),
        (["--model", "./nowhere"], "--model ./nowhere: no such folder"),
    ],
)
def test_bad_arguments_are_named(run, flags, message, tmp_path):
    code, text = run(*flags)
    assert code == 2 and message in text and not (tmp_path / "out").exists()


def test_a_batch_of_ray_data_gives_reports(loaded, corpus, tiny_model_folder, tmp_path):
    model, tokenizer, exits = loaded
    fingerprint = model_fingerprint(model, tokenizer, exits[-1])
    results = ResultFolder(str(tmp_path / "out"), "parquet")
    results.open({}, overwrite=False)
    settings = EncodeSettings(tiny_model_folder, exits, Columns(), results, fingerprint, device="cpu")
    parts, _ = plan_parts(str(corpus))
    reports = PartEncoder(settings)({"part": np.array([part.to_json() for part in parts])})
    assert reports["rows"] == [5, 7] and list(reports["error"]) == ["", ""]
    assert set(results.finished([part.key for part in parts])) == set(reports["key"])

    other = EncodeSettings(tiny_model_folder, exits, Columns(), results, "0" * 64, device="cpu")
    with pytest.raises(RuntimeError, match="another model here than where the run was started"):
        PartEncoder(other)


@pytest.mark.parametrize(
    ("machines", "workers", "cpus", "gpus_allowed", "pool"),
    [
        ([{"CPU": 16}, {"CPU": 16}, {}], None, None, True, (8, 4, 0)),
        ([{"CPU": 2}], None, None, True, (1, 2, 0)),  # the default fits every machine
        ([{}, {"CPU": 1}, {"CPU": 1}], None, None, True, (2, 1, 0)),
        ([{"CPU": 16}], 3, 2, True, (3, 2, 0)),
        ([{"CPU": 16, "GPU": 8}, {"CPU": 64}], None, None, True, (8, 2, 1)),
        ([{"CPU": 16, "GPU": 8}, {"CPU": 64}], None, None, False, (20, 4, 0)),
        ([{"CPU": 16, "GPU": 1}, {"CPU": 4, "GPU": 4}], None, None, True, (5, 1, 1)),
        ([], None, None, True, (1, 1, 0)),
    ],
)
def test_actors_fit_the_machines(machines, workers, cpus, gpus_allowed, pool):
    assert size_pool(machines, workers, cpus, gpus_allowed) == pool


def test_actors_that_do_not_fit_are_named(caplog):
    assert size_pool([{"CPU": 2}], 9, 1, True) == (9, 1, 0)
    assert "space for 2 workers of 1 CPUs now, not for 9" in caplog.text
    assert size_pool([{"CPU": 2}], None, 4, True) == (1, 4, 0)
    assert "no machine of the cluster has 4 CPUs" in caplog.text
