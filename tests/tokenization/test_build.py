import itertools
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from mose.tokenization.build import build_tokenizer, extend_starcoder2
from mose.tokenization.prompts import LANGUAGES, code_prompt, text_prompt

CORPUS = [
    "def parse_date(text):\n    return datetime.fromisoformat(text)\n",
    "public static int addNumbers(int first, int second) { return first + second; }",
    "Represent this Python code snippet for retrieval: parse the date and add numbers",
    "class HTMLParser(Parser):\n\tdef __init__(self, max_size=1024):\n\t\tself.max_size = max_size",
]
SEP, CLS = 1, 2


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(CORPUS, vocab_size=380, model_max_length=32, show_progress=False)


@pytest.fixture(scope="module")
def starcoder2() -> PreTrainedTokenizerFast:
    """A tokenizer of StarCoder-2's size and make: 49,152 byte-level tokens, `<|endoftext|>` first."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(itertools.islice(itertools.product(alphabet, alphabet), 49_152 - 1 - len(alphabet)))
    tokens = ["<|endoftext|>", *alphabet, *(a + b for a, b in merges)]
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, merges))
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", special=True)])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>")


@pytest.fixture(scope="module")
def extended(starcoder2) -> PreTrainedTokenizerFast:
    return extend_starcoder2(starcoder2)


def pieces(tokenizer, text: str) -> list[str]:
    return [text[a:b] for _, (a, b) in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]


any_text = st.one_of(
    st.text(),
    st.text(st.characters(codec="utf-8", categories=["Cc", "Cf", "Zs", "Zl", "Zp", "Mn", "Lo", "So", "Co"])),
    st.text(alphabet="aB_ 1\n\t\r.<>|\x00\x7f\ufeff\u200d\U0001f600e\u0301", max_size=40),
    st.binary().map(lambda data: data.decode("latin-1")),
    st.binary().map(lambda data: data.decode("utf-8", errors="replace")),
    st.lists(st.sampled_from(["<sep>", "<cls>", "<mask>", "<pad>", " ", "x"])).map("".join),
)


@pytest.mark.parametrize("name", ["tokenizer", "extended"])
@settings(deadline=None, max_examples=150)
@given(text=any_text)
def test_any_text_encodes_and_decodes_back(name, request, text):
    tokenizer = request.getfixturevalue(name)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == f"<sep>{text}<cls>"
    if not re.search("<(sep|cls|mask|pad)>", text):
        assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


@settings(deadline=None, max_examples=60)
@given(st.binary())
def test_any_bytes_encode_and_decode_back(tokenizer, data):
    ids = tokenizer(data.decode("latin-1"), add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids).encode("latin-1") == data


@settings(deadline=None, max_examples=100)
@given(text=any_text)
def test_pieces_cover_the_text_without_gap_or_overlap(tokenizer, text):
    assert "".join(pieces(tokenizer, text)) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("parseDate", ["parse", "Date"]),
        ("parseHTMLPage", ["parse", "HTML", "Page"]),
        ("HTML", ["HTML"]),
        ("parse_date", ["parse", "_date"]),
        ("MAX_SIZE", ["MAX", "_SIZE"]),
        ("__init__", ["__init", "__"]),
        ("getX", ["get", "X"]),
        ("parse date", ["parse", " date"]),
        ("utf8", ["utf", "8"]),
        ("12345678", ["123", "456", "78"]),
        ("éÈé", ["é", "Èé"]),
        ("f(x)->y", ["f", "(", "x", ")->", "y"]),
        ("a\n    return b", ["a", "\n   ", " return", " b"]),
        ("a  ", ["a", "  "]),
        ("日本語", ["日本語"]),
    ],
)
def test_identifiers_are_cut_at_case_and_underscore(tokenizer, text, expected):
    assert pieces(tokenizer, text) == expected


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.from_regex("[a-z]{1,8}", fullmatch=True), min_size=1, max_size=4),
    st.sampled_from(["camel", "snake"]),
)
def test_a_words_tokens_do_not_depend_on_the_identifier(tokenizer, words, style):
    parts = words[:1] + [word.capitalize() if style == "camel" else f"_{word}" for word in words[1:]]

    def encode(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    assert encode("".join(parts)) == [token for part in parts for token in encode(part)]


def test_ids_of_the_special_tokens(tokenizer):
    specials = [tokenizer.pad_token_id, tokenizer.sep_token_id, tokenizer.cls_token_id, tokenizer.mask_token_id]
    assert specials == [0, SEP, CLS, 3]
    assert len(tokenizer) == 380
    assert len(tokenizer("parse_date", add_special_tokens=False)["input_ids"]) <= 4  # merges were learned


def test_building_is_repeatable(tokenizer):
    again = build_tokenizer(iter(CORPUS), vocab_size=380, model_max_length=32, show_progress=False)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


@pytest.mark.parametrize("name", ["tokenizer", "extended"])
def test_sep_and_cls_stand_around_one_text_and_two(name, request):
    tokenizer = request.getfixturevalue(name)
    assert tokenizer.decode(tokenizer("a")["input_ids"]) == "<sep>a<cls>"
    assert tokenizer.decode(tokenizer("")["input_ids"]) == "<sep><cls>"
    assert tokenizer.decode(tokenizer("a", "b")["input_ids"]) == "<sep>a<sep>b<cls>"
    assert set(tokenizer("a", "b")) == {"input_ids", "attention_mask"}


@settings(deadline=None, max_examples=60)
@given(
    text=st.text(max_size=80),
    second=st.none() | st.text(min_size=1, max_size=80),
    prompt=st.sampled_from(["", text_prompt(), code_prompt("go")]),
    limit=st.integers(4, 40),
)
def test_truncation_keeps_cls(tokenizer, text, second, prompt, limit):
    whole = tokenizer(prompt + text, second)["input_ids"]
    cut = tokenizer(prompt + text, second, truncation=True, max_length=limit)["input_ids"]
    assert len(cut) == min(limit, len(whole))
    assert (cut[0], cut[-1]) == (SEP, CLS)
    if second is None:
        assert cut[:-1] == whole[: len(cut) - 1]
    else:
        assert SEP in cut[1:]


def test_a_text_is_cut_to_the_models_length_by_itself(tokenizer):
    ids = tokenizer("word " * 100, truncation=True)["input_ids"]
    assert (len(ids), ids[0], ids[-1]) == (32, SEP, CLS)


def test_padding_is_on_the_right_and_masked(tokenizer):
    batch = tokenizer(["a", "parse the date"], padding=True)
    assert batch["input_ids"][0][0] == SEP
    assert batch["attention_mask"][0] == [1, 1, 1] + [0] * (len(batch["input_ids"][0]) - 3)
    assert batch["input_ids"][0][-1] == 0


def test_it_is_saved_as_a_stock_tokenizer_that_needs_no_remote_code(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert type(loaded).__module__.startswith("transformers.")
    assert not list(tmp_path.glob("*.py"))
    for field in ("model_max_length", "padding_side", "pad_token_id", "cls_token_id", "model_input_names"):
        assert getattr(loaded, field) == getattr(tokenizer, field)
    texts = [code_prompt("python") + "def f(x): return x_y", "é\x00\U0001f600"]
    assert loaded(texts, padding=True).data == tokenizer(texts, padding=True).data


@pytest.mark.parametrize("vocab_size", [0, 259])
def test_a_vocabulary_without_room_for_the_bytes_is_refused(vocab_size):
    with pytest.raises(ValueError, match=f"vocab_size must be at least 260, .*got {vocab_size}"):
        build_tokenizer(CORPUS, vocab_size, show_progress=False)


def test_bytes_alone_are_a_vocabulary_and_a_small_corpus_fills_no_large_one():
    assert len(build_tokenizer([], 260, show_progress=False)) == 260
    with pytest.raises(ValueError, match="vocab_size must be at most .*got 5000. Pass more text"):
        build_tokenizer(CORPUS, 5000, show_progress=False)


def test_starcoder2_extended_has_the_papers_ids(starcoder2, extended):
    assert (extended.sep_token_id, extended.cls_token_id, extended.mask_token_id) == (49_152, 49_153, 49_154)
    assert extended.pad_token_id == 0
    assert extended.model_max_length == 2048
    assert len(extended) == 49_155  # within the model's vocab_size of 49,156
    assert len(starcoder2) == 49_152  # left as it was
    text = "def add_one(x): return x + 1"
    assert extended(text)["input_ids"] == [49_152, *starcoder2(text)["input_ids"], 49_153]
    for language in LANGUAGES:
        ids = extended(code_prompt(language) + text)["input_ids"]
        assert ids.count(49_152) == 2


def test_another_tokenizer_is_not_taken_for_starcoder2(tokenizer):
    with pytest.raises(ValueError, match="StarCoder-2's 49152 tokens, got 380"):
        extend_starcoder2(tokenizer)


def test_training_shows_its_progress(monkeypatch):
    settings = {}
    trainer = trainers.BpeTrainer

    def recorded(**options):
        settings.update(options)
        return trainer(**options)

    monkeypatch.setattr(trainers, "BpeTrainer", recorded)
    build_tokenizer(CORPUS, vocab_size=380)
    assert settings["show_progress"]
