"""`python -m mose.eval encode`, from files of several kinds."""

import json

import numpy as np
import pytest

import mose.eval
from mose.eval.__main__ import main
from mose.inference.encoding import encode
from mose.tokenization.prompts import code_prompt

TEXTS = [f"def f{i}(): return {i}" for i in range(9)]
LANGUAGES = ["python", "java", ""] * 3


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def corpus(tmp_path):
    rows = [
        {"_id": str(i), "text": t, "language": language}
        for i, (t, language) in enumerate(zip(TEXTS, LANGUAGES, strict=True))
    ]
    (tmp_path / "beir").mkdir()
    file = tmp_path / "beir" / "corpus.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_corpus_of_files_becomes_searchable(corpus, model, tokenizer, model_folder, tmp_path, capsys):
    expected = encode(model, tokenizer, TEXTS, [0, 3], [code_prompt(language) for language in LANGUAGES])
    for source in (corpus, corpus.parent):
        output = str(tmp_path / f"of-{source.name}")
        command = ["encode", "--model", str(model_folder), "--corpus", str(source), "--output-dir", output]
        command += ["--exit-layers", "0", "3", "--shard-rows", "4"]
        assert main(command) == 0
        assert "9 texts at exits 0, 3, in 3 shards" in capsys.readouterr().out
        store = mose.eval.open_store(output)
        for exit_layer, embeddings in expected.items():
            np.testing.assert_allclose(np.asarray(store[str(exit_layer)]), embeddings, atol=1e-5)
        _, result = mose.eval.top_k(expected[3], store["3"], 1)
        assert result[:, 0].tolist() == list(range(9))
    # The folder holds embeddings of another setting now: they are replaced where that is asked for.
    assert main([*command, "--max-length", "9"]) == 1
    assert "holds embeddings of another settings" in capsys.readouterr().err
    assert main([*command, "--max-length", "9", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--corpus": "none.jsonl"}, "--corpus none.jsonl: no such file"),
        ({"--column": "code"}, "corpus.jsonl, _id, text, language; got code."),
        ({"--exit-layers": "2"}, "exit_layer must be one of 0, 1, 3, got 2"),
        ({"--model": "./nowhere"}, "--model ./nowhere: no such folder"),
    ],
)
def test_bad_arguments_are_named(corpus, model_folder, tmp_path, capsys, changed, message):
    options = {
        "--model": str(model_folder),
        "--corpus": str(corpus),
        "--output-dir": str(tmp_path / "out"),
        **changed,
    }
    assert main(["encode", *(word for pair in options.items() for word in pair)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
