"""The Hub's inference entry point: called as the Hub calls it, against the model called by hand."""

import ast
import json
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import mose
from mose.handler import EndpointHandler, RequestError
from mose.hub.files import write_sentence_transformers_files
from mose.tokenization.prompts import text_prompt

ROOT = Path(mose.__file__).parent
TEXTS = [
    "def add(a, b): return a + b",
    "",
    "Add two numbers.",
    "x = 1\n" * 40,
    "é ∑ 漢 \U0001f600",
    "<cls> <sep>",
]


@pytest.fixture(scope="module")
def folder(tiny_model_folder) -> str:
    write_sentence_transformers_files(Path(tiny_model_folder))
    return tiny_model_folder


@pytest.fixture(scope="module")
def handler(folder) -> EndpointHandler:
    return EndpointHandler(folder, max_texts=50, max_characters=5_000, device="cpu")


@pytest.fixture(scope="module")
def by_hand(handler, tiny_tokenizer):
    """One text at a time, without batches and padding."""

    def embed(text: str, exit_layer: int = 3) -> torch.Tensor:
        options = {"truncation": True, "max_length": 1024, "return_tensors": "pt"}
        # A prompt's `<sep>` is special; one in a text is not.
        prompted = text.startswith("Represent this ")
        batch = tiny_tokenizer(text, split_special_tokens=not prompted, **options)
        batch.pop("token_type_ids", None)
        with torch.no_grad():
            return handler.model(**batch, exit_layer=exit_layer).pooler_output[0]

    return embed


@pytest.mark.parametrize("exit_layer", [None, 0, 1, 3])
@pytest.mark.parametrize("at_root", [True, False])
def test_vectors_are_the_models(handler, by_hand, exit_layer, at_root):
    chosen = {} if exit_layer is None else {"exit_layer": exit_layer}
    request = {"inputs": TEXTS, **chosen} if at_root else {"inputs": TEXTS, "parameters": chosen}
    vectors = torch.tensor(handler(request))
    expected = torch.stack([by_hand(text, 3 if exit_layer is None else exit_layer) for text in TEXTS])
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        torch.tensor(handler({**request, "inputs": TEXTS[0]})), expected[0], atol=1e-5, rtol=0
    )
    json.dumps(handler(request), allow_nan=False)


def test_prompts_and_shorter_vectors(handler, by_hand):
    text = "Add two numbers."
    expected = by_hand(text_prompt() + text)
    request = {"inputs": text, "parameters": {"prompt_name": "query", "truncate_dim": 7}}
    cut = torch.tensor(handler(request))
    torch.testing.assert_close(cut, expected[:7] / expected[:7].norm(), atol=1e-5, rtol=0)
    request["parameters"]["normalize"] = False
    torch.testing.assert_close(torch.tensor(handler(request)), expected[:7], atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=60), min_size=1, max_size=12))
def test_any_text_is_answered_whatever_stands_beside_it(handler, by_hand, texts):
    vectors = torch.tensor(handler({"inputs": texts}))
    expected = torch.stack([by_hand(text) for text in texts])
    torch.testing.assert_close(vectors, expected, atol=1e-5, rtol=0)


def test_batches_hold_no_more_tokens_than_their_budget(folder, monkeypatch):
    handler = EndpointHandler(folder, device="cpu")
    handler.token_budget, shapes = 100, []
    forward = handler.model.forward
    monkeypatch.setattr(
        handler.model, "forward", lambda ids, mask, **kw: (shapes.append(ids.shape), forward(ids, mask, **kw))[1]
    )
    texts = ["a" * length for length in (5, 900, 40, 41, 3000, 20)] * 3
    assert len(handler({"inputs": texts})) == len(texts)
    assert sum(rows for rows, _ in shapes) == len(texts)
    assert all(rows * tokens <= 100 or rows == 1 for rows, tokens in shapes)
    assert max(tokens for _, tokens in shapes) == 1024  # cut off


MALFORMED = [
    (None, "JSON object"),
    ([], "JSON object"),
    ("text", "JSON object"),
    ({}, "JSON object"),
    ({"input": "x"}, "JSON object"),
    ({"inputs": []}, "at least one text"),
    ({"inputs": None}, "at least one text"),
    ({"inputs": 3}, "at least one text"),
    ({"inputs": {"text": "x"}}, "at least one text"),
    ({"inputs": ["x", 3]}, r"inputs\[1\] must be a text, got 3"),
    ({"inputs": ["x", ["y"]]}, r"inputs\[1\] must be a text"),
    ({"inputs": "\ud800"}, "surrogate"),
    ({"inputs": "x", "parameters": []}, "parameters must be an object"),
    ({"inputs": "x", "parameters": {"layer": 3}}, 'parameters must be among exit_layer, .* got "layer"'),
    ({"inputs": "x", "top_k": 3}, 'parameters must be among .* got "top_k"'),
    ({"inputs": "x", "exit_layer": 1, "parameters": {"exit_layer": 3}}, "twice"),
    ({"inputs": "x", "parameters": {"exit_layer": 2}}, "exit_layer must be one of 0, 1, 3, got 2"),
    ({"inputs": "x", "parameters": {"exit_layer": True}}, "exit_layer must be .* got true"),
    ({"inputs": "x", "parameters": {"exit_layer": "1"}}, 'exit_layer must be .* got "1"'),
    ({"inputs": "x", "parameters": {"exit_layer": 1.0}}, "exit_layer must be .* got 1.0"),
    ({"inputs": "x", "parameters": {"normalize": 1}}, "normalize must be true or false, got 1"),
    (
        {"inputs": "x", "parameters": {"prompt_name": "nobody"}},
        'prompt_name must be one of query, document, .* got "nobody"',
    ),
    ({"inputs": "x", "parameters": {"prompt_name": ["query"]}}, "prompt_name must be one of"),
    ({"inputs": "x", "parameters": {"truncate_dim": 0}}, r"truncate_dim must be an integer in \[1, 32\], got 0"),
    ({"inputs": "x", "parameters": {"truncate_dim": 33}}, "truncate_dim must be .* got 33"),
    ({"inputs": "x", "parameters": {"truncate_dim": {"a": "b" * 100}}}, "truncate_dim must be .* got .{60}…"),
]


@pytest.mark.parametrize(("request_", "message"), MALFORMED)
def test_malformed_requests_are_refused_with_what_is_allowed(handler, request_, message):
    with pytest.raises(RequestError, match=message) as refused:
        handler(request_)
    assert refused.value.status == 400


@pytest.mark.parametrize("inputs", [["x"] * 51, ["x" * 5_001], ["x" * 101] * 50])
def test_requests_that_are_too_large_are_refused(handler, inputs):
    with pytest.raises(RequestError, match="at most") as refused:
        handler({"inputs": inputs})
    assert refused.value.status == 413


def test_broken_weights_are_named(folder):
    handler = EndpointHandler(folder, device="cpu")
    with torch.no_grad():
        handler.model.exits["1"].projection.weight.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        handler({"inputs": "x", "parameters": {"exit_layer": 1}})


def test_it_imports_only_torch_and_what_transformers_needs():
    tree = ast.parse((ROOT / "handler.py").read_text(encoding="utf-8"))
    imported = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    imported |= {str(n.module).split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert imported - set(sys.stdlib_module_names) == {"numpy", "torch", "transformers"}
