import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pyarrow.parquet
import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard

import mose
from mose.data.retrieval.pairs import load_pairs
from mose.data.synthconl.__main__ import main
from mose.data.synthconl.answers import NoCodeError, read_answer
from mose.data.synthconl.dataset import write_dataset
from mose.data.synthconl.plan import TARGETS, choose_jobs, load_source
from mose.data.synthconl.translator import Translator
from mose.utils.journal import Journal

pytestmark = pytest.mark.slow


def answers_of(folder: Path) -> list[dict]:
    """The stored answers with their jobs; a chunk ends with its SHA-256."""
    answers = [a for path in chunks_of(folder) for a in json.loads(path.read_bytes()[:-32])]
    jobs = json.loads((folder / "plan.json").read_text())["jobs"]
    return [
        {"row": row, "language_b": language, "answer": answer}
        for (row, language), answer in zip(jobs, answers, strict=True)
    ]


def chunks_of(folder: Path) -> list[Path]:
    return sorted((folder / "answers").glob("*.chunk"))


def rows_of(folder: Path) -> list[dict]:
    return [
        row
        for path in sorted(folder.glob("data/*.parquet"))
        for row in pyarrow.parquet.read_table(path).to_pylist()
    ]


def test_triples_are_what_the_answers_hold(finished_build, source_rows, learned_answers):
    answers = answers_of(finished_build)
    assert len(answers) == 60 - 3
    asked = [answer for answer in answers if answer["answer"] is not None]
    assert [answer["row"] for answer in answers if answer["answer"] is None] == [40]
    assert all(
        answer["answer"] == {"text": learned_answers[answer["language_b"]], "finished": True} for answer in asked
    )
    expected, reasons, seen = [], Counter(), set()
    for answer in asked:
        try:
            code_b = read_answer(answer["answer"]["text"], answer["language_b"])
        except NoCodeError as reason:
            reasons[f"answer: {reason}"] += 1
            continue
        if code_b in seen:
            reasons["answer: near-duplicate"] += 1
            continue
        seen.add(code_b)
        row = source_rows[answer["row"]]
        language_a = {"Go": "go", "C++": "cpp"}.get(row["language"], row["language"])
        expected.append(
            {"text": row["text"], "code_a": row["code"], "code_b": code_b, "language_a": language_a,
             "language_b": answer["language_b"], "repository": ""}
        )  # fmt: skip
    assert rows_of(finished_build) == expected and {row["language_b"] for row in expected} == set(TARGETS) - {
        "c",
        "cpp",
    }
    skipped = {"source: other language": 1, "source: empty text or code": 1, "source: near-duplicate": 1}
    counts = {**skipped, "source: too long": 1, **reasons}
    card = DatasetCard.load(finished_build / "README.md")
    for reason, n in counts.items():
        assert f"| {reason} | {n} |" in card.text
    assert card.data.license == "mit" and card.data.size_categories == ["n<1K"]
    assert "6 triples (text, code A, code B)" in card.text


def test_others_load_it(finished_build, tmp_path):
    data = load_dataset(str(finished_build), split="train", cache_dir=str(tmp_path))
    assert data.to_list() == rows_of(finished_build)
    pairs = load_pairs((), [str(finished_build / "data" / "train-00000-of-00001.parquet")])
    assert len(pairs) == 2 * len(data)  # text to code, and code to code


def test_a_killed_build_ends_as_an_unbroken_one(
    build_flags, finished_build, tiny_translator, source_file, tmp_path, capsys
):
    folder = tmp_path / "killed"
    flags = build_flags(tiny_translator, source_file, folder)
    environment = os.environ | {"PYTHONPATH": str(Path(mose.__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mose.data.synthconl", *flags],
            stdout=log, stderr=log, env=environment, stdin=subprocess.DEVNULL, cwd=tmp_path,
        )  # fmt: skip
        deadline = time.monotonic() + 300
        while len(chunks_of(folder)) < 2:
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
    chunks = chunks_of(folder)
    assert len(chunks) < -(-57 // 2) and not (folder / "data").exists()
    # As if the disk had lost a part of one batch, and another had been cut within a write.
    chunks[0].write_bytes(chunks[0].read_bytes()[:-9])
    chunks[1].rename(chunks[1].with_suffix(".chunk.partial"))
    assert main(flags) == 0
    for name in ("plan.json", "README.md"):
        assert (folder / name).read_bytes() == (finished_build / name).read_bytes(), name
    assert [path.name for path in chunks_of(folder)] == [path.name for path in chunks_of(finished_build)]
    assert answers_of(folder) == answers_of(finished_build)
    assert rows_of(folder) == rows_of(finished_build)
    # A finished build that is run again asks nothing.
    before = [path.stat().st_mtime_ns for path in chunks_of(folder)]
    assert main(flags) == 0 and [path.stat().st_mtime_ns for path in chunks_of(folder)] == before
    # Other settings, another source: another build.
    assert main([*flags, "--seed", "1"]) == 2
    assert f"{folder} has a build with seed=0, got 1" in capsys.readouterr().err
    other = tmp_path / "other.jsonl"
    other.write_text(Path(source_file).read_text().replace("alpha", "aleph"))
    assert main([*flags, "--dataset", str(other)]) == 2
    assert "has a build with source=" in capsys.readouterr().err


def test_a_build_of_a_source_tree_and_of_a_model_without_a_chat_template(tiny_translator, tmp_path, capsys):
    tree = tmp_path / "tree"
    tree.mkdir()
    for i, word in enumerate(("alpha", "omega")):
        (tree / f"{word}.py").write_text(
            f'def {word}(a):\n    """Work out {word} of this."""\n    {word}s = a ** {i}\n    return {word}s\n'
        )
    base = tmp_path / "base"
    base.mkdir()
    for path in Path(tiny_translator).iterdir():
        if path.name != "chat_template.jinja":
            (base / path.name).write_bytes(path.read_bytes())
    translator = Translator(str(base), device="cpu", max_new_tokens=2)
    prompt = translator.prompt("x", "python", "go")
    assert prompt.endswith("```python\nx\n```\n\n```go\n")
    assert translator.translate([prompt], ["go"], 0)[0].text.startswith(
        "```go\n"
    )  # which the model did not write
    out = tmp_path / "out"
    flags = [
        "build",
        "--model",
        str(base),
        "--source-tree",
        str(tree),
        "--output-dir",
        str(out),
        "--device",
        "cpu",
    ]
    assert main([*flags, "--max-new-tokens", "1", "--no-progress"]) == 1  # every answer is cut off at one token
    assert "of 2 translations no triple is left: {'answer: cut off': 2}" in capsys.readouterr().err
    assert not (out / "data").exists() and not (out / "README.md").exists()


def test_two_builds_in_one_folder_are_refused(build_flags, tiny_translator, source_file, tmp_path, capsys):
    folder = tmp_path / "out"
    with Journal(folder / "answers").lock():
        assert main(build_flags(tiny_translator, source_file, folder)) == 1
    assert "is being written by another process" in capsys.readouterr().err
    assert not (folder / "plan.json").exists()


def test_sampling_follows_the_seed(tiny_translator):
    translator = Translator(tiny_translator, device="cpu", max_new_tokens=6, temperature=5.0)
    prompts = [translator.prompt(f"x {i}", "python", "go") for i in range(4)]
    first, again, other = (translator.translate(prompts, ["go"] * 4, seed) for seed in (1, 1, 2))
    assert first == again != other


def test_targets_come_equally_often_for_each_language():
    rows = [
        {
            "text": "t",
            "code": f"{i:06d} {i * 7919:x} {i * 104729:o}",
            "language": TARGETS[i % 3],
            "repository": "",
        }
        for i in range(3 * 21)
    ]
    counts: Counter[str] = Counter()
    jobs = list(choose_jobs(Dataset.from_list(rows), seed=3, counts=counts))
    assert len(jobs) == 63 and not counts
    pairs = Counter((rows[job.row]["language"], job.language_b) for job in jobs)
    assert (
        set(pairs.values()) == {3} and len(pairs) == 3 * 7 and not [pair for pair in pairs if len(set(pair)) == 1]
    )
    assert jobs == list(choose_jobs(Dataset.from_list(rows), seed=3, counts=counts))
    assert jobs != list(choose_jobs(Dataset.from_list(rows), seed=4, counts=counts))


@pytest.mark.parametrize("rows", [0, 1, 4, 5, 8])
def test_files_of_bounded_size_hold_all_rows_in_order(tmp_path, rows):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train-old.parquet").write_text("of an earlier build")
    columns = ("text", "code_a", "code_b", "language_a", "language_b", "repository")
    given = [dict.fromkeys(columns, str(i)) for i in range(rows)]
    assert write_dataset(given, tmp_path, rows_per_file=4) == rows
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    if rows:
        assert rows_of(tmp_path) == given
        assert names == [f"train-{i:05d}-of-{-(-rows // 4):05d}.parquet" for i in range(-(-rows // 4))]
    else:
        assert names == ["train-old.parquet"]


@pytest.mark.parametrize(
    ("flags", "status", "message"),
    [
        (["--batch-size", "0"], 2, "batch_size must be at least 1, got 0"),
        (["--temperature", "-1"], 2, "temperature must be at least 0 and finite, got -1.0"),
        (["--dataset", "no/such.jsonl"], 2, "no/such.jsonl"),
        (["--column-mapping", "{"], 2, "--column-mapping must be a JSON object, got { ("),
        (["--column-mapping", '["code"]'], 2, '--column-mapping must be a JSON object, got ["code"]'),
        (
            ["--column-mapping", '{"code": "kode"}'],
            2,
            "column_mapping must map to text, code, language, repository; got 'kode'",
        ),
        (["--column-mapping", '{"text": "repository"}'], 2, "must have the columns text, code, language; it has"),
        (["--source-tree", "."], 2, "You must specify exactly one of source trees or a dataset"),
        (["--model", "no/such-model"], 1, "no/such-model"),
    ],
)
def test_bad_arguments(build_flags, tiny_translator, source_file, tmp_path, capsys, flags, status, message):
    assert main([*build_flags(tiny_translator, source_file, tmp_path / "out"), *flags]) == status
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_help_and_missing_sources(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stop:
        main(["build", "--help"])
    assert stop.value.code == 0
    assert "Qwen/Qwen2.5-Coder-7B-Instruct" in capsys.readouterr().out
    with pytest.raises(ValueError, match="You must specify exactly one of source trees or a dataset"):
        load_source()
    assert main(["push", "no-such-folder", "owner/name"]) == 2
    assert "has no finished dataset" in capsys.readouterr().err
