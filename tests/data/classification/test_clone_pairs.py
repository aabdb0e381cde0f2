import json

from mose.data.classification.clone_pairs import CodePair, labelled, main
from mose.data.classification.examples import load_examples


def test_negatives_share_language_and_code_a_but_never_the_task():
    pairs = [
        CodePair(f"a{t}", f"b{t}{k}", language, f"task {t}") for t in range(9) for k, language in enumerate("xy")
    ]
    rows = list(labelled(pairs, seed=1))
    assert len(rows) == 2 * len(pairs)
    for pair, positive, negative in zip(pairs, rows[::2], rows[1::2], strict=True):
        assert positive == {"code_a": pair.code_a, "code_b": pair.code_b, "label": 1}
        assert negative["label"] == 0 and negative["code_a"] == pair.code_a
        assert negative["code_b"][1] != pair.task[-1] and negative["code_b"][2] == pair.code_b[2]
    assert rows == list(labelled(pairs, seed=1)) != list(labelled(pairs, seed=2))
    # The same code under two tasks is no negative, and a lone task in its language has none.
    assert not list(
        labelled([CodePair("a", "b", "x", "t"), CodePair("c", "b", "x", "u"), CodePair("d", "e", "y", "v")])
    )


def test_the_command_reads_triples_and_retrieval_sets(tmp_path, capsys):
    triples = [{"text": f"t{i}", "code_a": f"a{i}", "code_b": f"b{i}", "language_b": "go"} for i in range(3)]
    (tmp_path / "triples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in triples))
    beir = tmp_path / "beir"
    beir.mkdir()
    for name, key in (("corpus", "b"), ("queries", "a")):
        rows = [{"_id": f"{key}{i}", "text": f"{key}{i}", "language": "go"} for i in range(3)]
        (beir / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (beir / "qrels.tsv").write_text(
        "query-id\tcorpus-id\tscore\n" + "".join(f"a{i}\tb{i}\t1\n" for i in range(3))
    )
    for source in (tmp_path / "triples.jsonl", beir):
        assert main([str(source), "--output-file", str(tmp_path / "out.jsonl")]) == 0
        rows = load_examples(tmp_path / "out.jsonl").to_list()
        assert [(row["first"], row["second"]) for row in rows[::2]] == [(f"a{i}", f"b{i}") for i in range(3)]
        assert [row["label"] for row in rows] == ["1", "0"] * 3
    (tmp_path / "bad.jsonl").write_text('{"code_a": "x"}\n')
    assert main([str(tmp_path / "bad.jsonl"), "--output-file", str(tmp_path / "out.jsonl")]) == 2
    assert "must have the columns code_a, code_b" in capsys.readouterr().err
