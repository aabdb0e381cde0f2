"""`mose deduplicate` on this machine, against the project's own near-duplicates, and what Slurm is told."""

import json
import os
import random
import stat

import pyarrow.parquet as pq
import pytest

from mose.data.source.near_duplicates import NearDuplicates
from mose.scale.deduplicate import main

WORDS = [f"w{number}" for number in range(500)]


@pytest.fixture
def rows() -> list[dict]:
    """Thirty texts, ten that nearly equal one of them, and two that equal one."""
    draw = random.Random(0)
    texts = [" ".join(draw.choices(WORDS, k=80)) for _ in range(30)]
    texts += [f"{text} w1" for text in texts[:10]] + texts[:2]
    return [{"text": text, "id": number} for number, text in enumerate(texts)]


@pytest.fixture
def corpus(rows, tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    for number in range(3):
        lines = "".join(json.dumps(row) + "\n" for row in rows[number::3])
        (folder / f"{number}.jsonl").write_text(lines)
    return folder


def test_one_text_of_each_group_is_left(corpus, rows, tmp_path, capsys):
    out = tmp_path / "out"
    command = [str(corpus), "--output-dir", str(out), "--keep", "id"]
    assert main(command) == 0
    assert "30 of 42 texts, without 12 near-duplicates" in capsys.readouterr().out

    texts = {row["id"]: row["text"] for row in rows}
    remaining = pq.read_table(out / "kept")
    ids = [int(value) for value in remaining["id"].to_pylist()]
    assert remaining["text"].to_pylist() == [texts[number] for number in ids]
    distinct = NearDuplicates()
    assert all(distinct.add(texts[number]) for number in ids)
    assert not any(distinct.add(text) for number, text in texts.items() if number not in ids)

    # Running again runs no stage again; another corpus is refused.
    before = {file: file.stat().st_mtime_ns for file in (out / "kept").iterdir()}
    assert main(command) == 0
    assert {file: file.stat().st_mtime_ns for file in (out / "kept").iterdir()} == before
    (corpus / "0.jsonl").write_text("{}")
    assert main(command) == 2
    assert "belongs to another corpus" in capsys.readouterr().err


def test_one_bad_file_does_not_end_the_run(corpus, tmp_path, capsys):
    (corpus / "a.parquet").write_bytes(b"junk")
    assert main([str(corpus), "--output-dir", str(tmp_path / "out"), "--tasks", "2"]) == 1
    captured = capsys.readouterr()
    assert "30 of 42 texts" in captured.out and "a.parquet cannot be opened" in captured.err
    assert "0 parts and 1 files could not be read" in captured.err


def test_a_corpus_without_a_usable_row_is_a_failure(tmp_path, capsys):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": 3}) + "\n" + json.dumps({"text": None}) + "\n")
    assert main([str(tmp_path / "a.jsonl"), "--output-dir", str(tmp_path / "out")]) == 1
    assert "None of 2 rows has a usable text. Check --column." in capsys.readouterr().err


def test_slurm_gets_four_jobs_in_order(corpus, tmp_path, monkeypatch, capsys):
    """A program in the place of sbatch keeps the scripts that it is given."""
    assert main([str(corpus), "--output-dir", str(tmp_path / "x"), "--executor", "slurm"]) == 2
    assert "--executor slurm needs --partition" in capsys.readouterr().err

    programs, log = tmp_path / "bin", tmp_path / "calls"
    programs.mkdir()
    sbatch = programs / "sbatch"
    sbatch.write_text(f'#!/bin/sh\necho "$@" >> {log}\necho Submitted batch job $(wc -l < {log})\n')
    sbatch.chmod(sbatch.stat().st_mode | stat.S_IEXEC)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    command = [str(corpus), "--output-dir", str(tmp_path / "out"), "--executor", "slurm", "--partition", "cpu"]
    assert main(command) == 0
    assert "4 jobs submitted" in capsys.readouterr().out

    # Two jobs a stage: its tasks, which wait for those of the stage before, and one that adds up their figures.
    calls = [call.split() for call in log.read_text().splitlines()]
    waits = [next((word for word in call if word.startswith("--dependency")), "") for call in calls[::2]]
    assert waits == ["", *(f"--dependency=afterok:{number}" for number in (1, 3, 5))]
    scripts = sorted((tmp_path / "out").rglob("launch_script.slurm"))
    assert len(scripts) == 4 and all("--partition=cpu" in script.read_text() for script in scripts)
