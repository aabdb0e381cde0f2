"""Figures in a model card: read back by the Hub's own parser, and every other byte as it was."""

import pytest
from huggingface_hub import ModelCard

from mose.eval.__main__ import main
from mose.eval.model_index import card_with_results, update_card


def figures(mrr):
    return {"mrr": mrr, "recall@10": 1.0}


REPORT = {
    "sets": {
        "one": {
            "queries": 1,
            "documents": 2,
            "exits": {"0": figures(0.25), "12": figures(1 / 3)},
            "peers": {"x": figures(1)},
        },
        "two": {"queries": 1, "documents": 2, "exits": {"0": figures(0.5)}, "peers": {}},
    },
    "speed": {},
    "settings": {"model": "mose-nano"},
}
BODY = "# A model  \n\nmodel-index: not here\n---\ntrailing white space   \n\ttabs, ünïcode"
OTHERS = """model-index:
- name: kept
  results:
  - task:
      type: text-retrieval
    dataset:
      name: three
      type: three
    metrics:
    - type: mrr
      value: 0.125
"""
HEADERS = {
    "plain": "license:   apache-2.0   # a comment\ntags: [a,  b]\n",
    "others": f"license: mit\n{OTHERS}\nlanguage:\n- code\n",
    "others-last": f"tags:\n- x\n{OTHERS}",
    "empty": "",
}


def results(card):
    return {
        (result.dataset_name, result.metric_name): result.metric_value
        for result in ModelCard(card).data.eval_results
    }


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("kind", HEADERS)
def test_the_rest_of_the_card_stays_to_the_byte(tmp_path, kind, newline):
    file = tmp_path / "README.md"
    old = f"---\n{HEADERS[kind]}---\n{BODY}".replace("\n", newline).encode()
    file.write_bytes(old)
    update_card(REPORT, file)
    new = file.read_bytes()
    start = new.index(b"model-index:")
    block = new[
        start : new.index(
            b"---" if kind != "others" else b"\r\nlanguage" if newline == "\r\n" else b"\nlanguage", start
        )
    ]
    before = old.replace(OTHERS.replace("\n", newline).encode(), b"")
    assert new.replace(block, b"", 1) == before
    assert (b"\r\n" in block) == (newline == "\r\n") and block.count(b"\n") == block.count(newline.encode())
    update_card(REPORT, file)
    assert file.read_bytes() == new  # twice is once


def test_the_hub_reads_every_exit():
    card = card_with_results(f"---\n{HEADERS['others']}---\n{BODY}", REPORT)
    assert ModelCard(card).data.model_name == "kept"
    actual = results(card)
    assert actual.pop(("three", None)) == 0.125
    assert actual == {
        (name, f"{metric} at exit {key}"): round(value, 4)
        for name, data in REPORT["sets"].items()
        for key, values in data["exits"].items()
        for metric, value in values.items()
    }
    ModelCard(card)
    assert ModelCard(card_with_results(BODY, REPORT)).data.model_name == "mose-nano"  # a card without a header
    assert card_with_results(BODY, REPORT).endswith(BODY)


def test_new_figures_take_the_place_of_old_ones():
    card = card_with_results(f"---\n{HEADERS['plain']}---\n{BODY}", REPORT)
    later = {**REPORT, "sets": {"one": {**REPORT["sets"]["one"], "exits": {"3": figures(0.75)}}}}
    actual = results(card_with_results(card, later))
    assert {key for key in actual if key[0] == "one"} == {
        ("one", "mrr at exit 3"),
        ("one", "recall@10 at exit 3"),
    }
    assert actual["two", "mrr at exit 0"] == 0.5
    assert set(results(card_with_results(card, REPORT, ["mrr"]))) == {
        ("one", "mrr at exit 0"),
        ("one", "mrr at exit 12"),
        ("two", "mrr at exit 0"),
    }


def test_what_cannot_be_done_leaves_the_card_as_it_was(tmp_path, capsys):
    file, report = tmp_path / "README.md", tmp_path / "report.json"
    broken = b"---\nmodel-index: 5\n---\n"
    file.write_bytes(broken)
    with pytest.raises(ValueError, match="cannot be read"):
        update_card(REPORT, file)
    with pytest.raises(ValueError, match=r"measure must be one of the report's \(mrr, recall@10\), got 'map'"):
        update_card(REPORT, file, ["map"])
    assert file.read_bytes() == broken
    report.write_text('{"sets": {}, "speed": {}}')
    assert main(["card", str(report), "--write-card", str(tmp_path / "none.md")]) == 2
    assert "none.md: no such file" in capsys.readouterr().err
