"""Special tokens that a text spells are text, at every entrance."""

import copy
import difflib
import inspect
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import mose
from mose.data.classification.examples import ClassificationCollator
from mose.data.pretraining.contexts import tokenize_texts
from mose.data.retrieval.collator import PairCollator
from mose.handler import EndpointHandler
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.tokenization.build import build_tokenizer, read_prompts
from mose.tokenization.inputs import input_ids, text_ids
from mose.tokenization.prompts import CLS, LANGUAGES, MASK, PAD, SEP, code_prompt, text_prompt
from mose.training.setup import load_tokenizer

ROOT = Path(mose.__file__).parent
SPECIALS = (SEP, CLS, MASK, PAD)
PROMPTS = ["", text_prompt(), code_prompt(), *map(code_prompt, LANGUAGES), code_prompt("Visual Basic"), "query: "]

any_text = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=80),
    st.text(alphabet="aB_ 1\n\t\r.:<>()=\u00e9\u6f22", max_size=60),
    st.sampled_from(["def add(first, second):\n    return first + second\n", " x", "\n\nx", ":", ""]),
).filter(lambda text: not any(token in text for token in SPECIALS))
parts = st.sampled_from([*SPECIALS, *PROMPTS[1:4], "a", " ", "\n", "<", "sep>"])
with_specials = st.lists(parts, min_size=1).map("".join)


@cache
def recognizing(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A copy that knows nothing of prompts, and takes every special token in a text for the token."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["model"]["ignore_merges"] = False
    for step in state["pre_tokenizer"]["pretokenizers"]:
        if step["type"] == "Split":
            step["pattern"]["Regex"] = step["pattern"]["Regex"].split(":<sep>)|", 1)[-1]
    backend = Tokenizer.from_str(json.dumps(state))
    assert "Represent" not in json.dumps(state["pre_tokenizer"])
    names = {f"{name}_token": token for name, token in zip(("sep", "cls", "mask", "pad"), SPECIALS, strict=True)}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


@pytest.fixture(scope="module")
def shipped() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(ROOT)


@pytest.fixture(scope="module")
def built() -> PreTrainedTokenizerFast:
    corpus = [inspect.getsource(difflib), *PROMPTS]
    return build_tokenizer(corpus, vocab_size=700, model_max_length=1024, show_progress=False)


@pytest.fixture(scope="module")
def byte_level(tiny_model_folder) -> PreTrainedTokenizerFast:
    """Cut as GPT-2 and StarCoder-2 cut, and made to read prompts when training loads it."""
    return load_tokenizer(tiny_model_folder)


def special_ids(tokenizer) -> set[int]:
    return {tokenizer.convert_tokens_to_ids(token) for token in SPECIALS}


KINDS = pytest.mark.parametrize("kind", ["shipped", "built", "byte_level"])


@KINDS
@settings(deadline=None, max_examples=150)
@given(text=any_text, prompt=st.sampled_from(PROMPTS), limit=st.none() | st.integers(2, 60))
def test_ids_of_ordinary_texts_are_those_of_prompt_and_text_as_one_string(kind, request, text, prompt, limit):
    tokenizer = request.getfixturevalue(kind)
    expected = recognizing(tokenizer)(prompt + text, truncation=limit is not None, max_length=limit)["input_ids"]
    assert input_ids(tokenizer, [text], prompt, limit) == [expected]
    assert input_ids(tokenizer, ["z", text, ""], ["", prompt, prompt], limit)[1] == expected
    alone = tokenizer(prompt + text, truncation=limit is not None, max_length=limit, split_special_tokens=True)
    assert alone["input_ids"] == expected


@KINDS
@settings(deadline=None, max_examples=150)
@given(text=with_specials, prompt=st.sampled_from(PROMPTS[1:-1]))
def test_no_text_brings_special_tokens_into_an_input(kind, request, text, prompt):
    tokenizer = request.getfixturevalue(kind)
    (ids,) = input_ids(tokenizer, [text], prompt)
    opening = recognizing(tokenizer)(prompt)["input_ids"][:-1]
    assert (ids[: len(opening)], ids[-1]) == (opening, tokenizer.cls_token_id)
    content = ids[len(opening) : -1]
    assert not special_ids(tokenizer) & set(content)
    assert tokenizer.decode(content) == text
    assert text_ids(tokenizer, [text]) == [content]

    # The parts of the tokenizer that know no special tokens.
    plain = recognizing(tokenizer).backend_tokenizer
    pieces = [piece for piece, _ in plain.pre_tokenizer.pre_tokenize_str(text)]
    assert content == [token.id for piece in pieces for token in plain.model.tokenize(piece)]


@KINDS
def test_only_a_prompt_at_the_very_start_brings_its_separator(kind, request):
    tokenizer = request.getfixturevalue(kind)
    for prompt in PROMPTS[1:-1]:
        ids = tokenizer(prompt + "a<sep>b", split_special_tokens=True)["input_ids"]
        assert ids.count(tokenizer.sep_token_id) == 2
        for text in (f" {prompt}", f"\n{prompt}x", f"x\n{prompt}", prompt.replace(":<", ": <"), prompt[1:]):
            ids = tokenizer(text, split_special_tokens=True)["input_ids"]
            assert ids.count(tokenizer.sep_token_id) == 1, text


@pytest.mark.parametrize(
    ("text", "message"), [("a\udc80", "got U\\+DC80. Remove it"), (None, "must be a text, got None")]
)
def test_what_no_tokenizer_reads_is_named(tiny_tokenizer, text, message):
    with pytest.raises(ValueError, match=f"text 1 .*{message}"):
        text_ids(tiny_tokenizer, ["x", text])


def test_a_language_with_the_name_of_a_special_token_is_text(shipped):
    (ids,) = input_ids(shipped, ["x"], code_prompt("<cls><sep>"))
    assert [ids.count(shipped.sep_token_id), ids.count(shipped.cls_token_id)] == [2, 1]


def test_a_tokenizer_that_keeps_special_tokens_in_one_piece_cannot_read_prompts(tiny_tokenizer):
    state = json.loads(tiny_tokenizer.backend_tokenizer.to_str())
    cut = {"type": "Split", "pattern": {"Regex": r"\S+|\s+"}, "behavior": "Isolated", "invert": False}
    steps = [cut, state["pre_tokenizer"] | {"use_regex": False}]
    state["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    assert read_prompts(Tokenizer.from_str(json.dumps(state))) is None
    state["pre_tokenizer"] = None
    assert read_prompts(Tokenizer.from_str(json.dumps(state))) is None


@pytest.mark.parametrize("split", [True, False])
def test_what_training_saves_reads_texts_as_the_model_needs_it(split, tiny_model_folder, tmp_path):
    load_tokenizer(tiny_model_folder, split_special_tokens=split).save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    ids = loaded(code_prompt("go") + "a<mask>b")["input_ids"]
    assert ids.count(loaded.sep_token_id) == 2
    assert (loaded.mask_token_id in ids) != split
    again = load_tokenizer(str(tmp_path), split_special_tokens=not split)
    assert again.backend_tokenizer.to_str() == loaded.backend_tokenizer.to_str()
    assert (again.mask_token_id in again("a<mask>b")["input_ids"]) == split


def test_collators_keep_texts_text(tiny_tokenizer):
    row = {"query": "a<sep>b", "query_language": "", "document": "<mask>c<cls>", "document_language": "<pad>"}
    batch = PairCollator(tiny_tokenizer)([row, row])
    for side, prompt in (("query", text_prompt()), ("document", code_prompt("<pad>"))):
        ids = batch[f"{side}_input_ids"][0].tolist()
        assert [i for i in ids if i in special_ids(tiny_tokenizer)] == [1, 1, 2]
        assert tiny_tokenizer.decode(ids) == f"<sep>{prompt}{row[side]}<cls>"

    collate = ClassificationCollator(tiny_tokenizer, ["no", "yes"], 60)
    pair = collate([{"first": "a<sep>b", "second": "<cls>", "label": "yes"}])["input_ids"][0].tolist()
    assert [i for i in pair if i in special_ids(tiny_tokenizer)] == [1, 1, 2]
    assert tiny_tokenizer.decode(pair) == "<sep>a<sep>b<sep><cls><cls>"
    assert not special_ids(tiny_tokenizer) & set(tokenize_texts(tiny_tokenizer, ["a<sep>b"])[0].tolist())


@pytest.mark.slow
def test_every_entrance_embeds_a_text_as_text():
    """Through the package, the handler, sentence-transformers and the tokenizer alone, as by hand."""
    model, tokenizer, exits = load_model(str(ROOT), device="cpu", trust_remote_code=False)
    text, prompt = "x = 'a<sep>b'  # <mask> <pad><cls>", code_prompt("python")
    plain = recognizing(tokenizer)
    ids = [*plain(prompt)["input_ids"][:-1], *plain(text, split_special_tokens=True)["input_ids"][1:]]
    with torch.no_grad():
        vector = model(torch.tensor([ids]), exit_layer=exits[-1]).pooler_output[0]
        batch = tokenizer(prompt + text, return_tensors="pt")
        by_tokenizer = model(**batch, exit_layer=exits[-1]).pooler_output[0]
    expected = torch.nn.functional.normalize(vector, dim=0).numpy()

    vectors = {
        "encode": encode(model, tokenizer, [text], exits[-1:], prompt)[exits[-1]][0],
        "tokenizer": torch.nn.functional.normalize(by_tokenizer, dim=0).numpy(),
        "handler": EndpointHandler(ROOT, device="cpu")({"inputs": text, "prompt_name": "python"}),
    }
    options = {"trust_remote_code": True, "model_kwargs": {"dtype": torch.float32}, "device": "cpu"}
    sentences = SentenceTransformer(str(ROOT), **options)
    vectors["sentence-transformers"] = sentences.encode(text, prompt_name="python")
    for name, actual in vectors.items():
        np.testing.assert_allclose(actual, expected, atol=2e-6, err_msg=name)

    # As words in a comment, they leave the embedding of a function what it was.
    lines = inspect.getsource(difflib.get_close_matches).splitlines(keepends=True)
    comment = "    # " + " ".join(5 * SPECIALS) + "\n"
    changed = [*lines[:1], comment, *lines[1:]]
    first, second = sentences.encode(["".join(lines), "".join(changed)], prompt_name="python")
    assert first @ second > 0.95


@pytest.mark.slow
def test_an_exported_exit_embeds_a_text_as_text(tmp_path, shared_tiny_model, tiny_tokenizer):
    from mose.hub.export import export  # of the extra [onnx]
    from mose.hub.files import write_sentence_transformers_files
    from mose.hub.onnx_encoder import OnnxEncoder

    shared_tiny_model.save_pretrained(tmp_path)
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(tmp_path)
    write_sentence_transformers_files(tmp_path)
    export(shared_tiny_model, tmp_path, tmp_path / "out", [1])

    texts = ["a<sep>b", "<cls>", "<mask>" * 30, code_prompt("go") + "x"]
    expected = encode(shared_tiny_model, tiny_tokenizer, texts, [1], code_prompt("c"), max_length=64)[1]
    np.testing.assert_allclose(OnnxEncoder(tmp_path / "out", 1).encode(texts, "c"), expected, atol=1e-5)
    served = EndpointHandler(tmp_path, device="cpu")({"inputs": texts, "exit_layer": 1, "prompt_name": "c"})
    np.testing.assert_allclose(served, expected, atol=1e-5)
