"""Ids looked up piece by piece are those of the tokenizer, whatever the text."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

import mose
from mose.tokenization import pieces
from mose.tokenization.pieces import PieceTable, splits_into_pieces
from mose.tokenization.prompts import SEP, code_prompt, text_prompt

ROOT = Path(mose.__file__).parent
RULES = json.loads((ROOT / "tokenizer.json").read_text())
TOKENIZER = Tokenizer.from_file(str(ROOT / "tokenizer.json"))
TOKENIZER.encode_special_tokens = True

code = st.lists(
    st.sampled_from(
        ["def", "HTTPServer2", "parse_date", "__init__", "_x", "A", "aB", "é", "漢", "\x1c", "\x85", "\u2028"]
        + [" ", "  ", "\n", "\t", "\r\n", "\n\n    ", "(", "):", "...", "==", "123", "4567", "_", "__"]
        + [text_prompt(), code_prompt("python"), SEP, ":", "Represent this "]
    ),
    max_size=12,
).map("".join)
texts = st.lists(
    st.one_of(code, st.text(max_size=40), st.text(st.characters(max_codepoint=127), max_size=40)), max_size=4
)


def encode(batch):
    return [encoding.ids for encoding in TOKENIZER.encode_batch_fast(batch, add_special_tokens=False)]


@given(texts)
def test_ids_are_those_of_the_tokenizer(batch):
    assert PieceTable(encode).ids(batch) == encode(batch)


def test_a_piece_goes_to_the_tokenizer_once_and_the_table_stays_small(monkeypatch):
    seen = []
    table = PieceTable(lambda batch: seen.extend(batch) or encode(batch))
    for _ in range(3):
        table.ids(["parse_date(x) + parse_date(y)", "Größe"])
    once = ["parse", "_date", "(", "x", ")", " +", " parse", "y"]
    assert sorted(seen) == sorted([*once, *["Größe"] * 3])
    monkeypatch.setattr(pieces, "_MOST_KNOWN", 3)
    assert table.ids(["a_b"]) == encode(["a_b"]) and len(table._known) <= 3


def changed(**fields):
    return {**RULES, **fields}


SPLIT, BYTES = RULES["pre_tokenizer"]["pretokenizers"]


@pytest.mark.parametrize(
    "rules",
    [
        changed(normalizer={"type": "Lowercase"}),
        changed(model={**RULES["model"], "dropout": 0.1}),
        changed(model={"type": "WordPiece"}),
        changed(pre_tokenizer=None),
        changed(pre_tokenizer=BYTES),
        changed(pre_tokenizer={"pretokenizers": [{**SPLIT, "pattern": {"Regex": r"\w+"}}, BYTES]}),
        changed(pre_tokenizer={"pretokenizers": [SPLIT, {**BYTES, "use_regex": True}]}),
        changed(added_tokens=[{"content": "def", "special": False}]),
    ],
)
def test_other_tokenizers_are_not_split_here(rules):
    assert splits_into_pieces(RULES) and not splits_into_pieces(rules)
