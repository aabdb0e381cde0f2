import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mose.inference import encoding
from mose.inference.encoding import encode, length_sorted_batches

TEXTS = ["def f(x):\n    return x + 1", "", "x", "int add(int a, int b) { return a + b; }", "é" * 40, "return x"]


def one_by_one(model, tokenizer, text, exit_layer):
    """The definition: one text, no padding, one exit."""
    batch = tokenizer([text], truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], exit_layer=exit_layer)
    return out.pooler_output[0].numpy()


@pytest.mark.parametrize("token_budget", [1, 50, 10_000])
def test_every_exit_equals_separate_calls_in_input_order(model, tokenizer, token_budget):
    result = encode(model, tokenizer, TEXTS, token_budget=token_budget)
    assert tuple(result) == model.exit_layers
    for exit_layer, embeddings in result.items():
        assert embeddings.dtype == np.float32
        expected = np.stack([one_by_one(model, tokenizer, text, exit_layer) for text in TEXTS])
        np.testing.assert_allclose(embeddings, expected, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)


def test_windows_do_not_change_results(model, tokenizer, monkeypatch):
    whole = encode(model, tokenizer, TEXTS)
    monkeypatch.setattr(encoding, "WINDOW", 2)
    for exit_layer, embeddings in encode(model, tokenizer, TEXTS).items():
        np.testing.assert_allclose(embeddings, whole[exit_layer], atol=1e-5)


@pytest.mark.parametrize("token_budget", [1, 50, 10_000])
def test_exit_0_alone_is_looked_up_without_a_forward_pass(model, tokenizer, token_budget, monkeypatch):
    expected = encode(model, tokenizer, TEXTS)[0]
    monkeypatch.setattr(encoding, "TEXTS_AT_ONCE", 4)
    monkeypatch.setattr(model, "forward", None)
    actual = encode(model, tokenizer, TEXTS, [0], token_budget=token_budget)[0]
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 50), max_size=30),
    st.integers(1, 200),
    st.one_of(st.none(), st.integers(0, 100)),
)
def test_batches_hold_every_text_once_within_their_bounds(lengths, token_budget, max_padding):
    batches = list(length_sorted_batches(lengths, token_budget, max_padding))
    assert sorted(row for rows in batches for row in rows) == list(range(len(lengths)))
    for position, rows in enumerate(batches):
        sizes = [lengths[row] for row in rows]
        padding = max(sizes) * len(sizes) - sum(sizes)
        assert max(sizes) * len(sizes) <= token_budget or len(rows) == 1
        assert max_padding is None or padding <= max_padding

        # The next text would not have fit.
        for row in batches[position + 1][:1] if position + 1 < len(batches) else ():
            longer, more = max(sizes) * (len(sizes) + 1), padding + max(sizes) - lengths[row]
            assert lengths[row] <= min(sizes)
            assert longer > token_budget or (max_padding is not None and more > max_padding)


@pytest.mark.parametrize(("exits", "blocks"), [([0], 0), ([1], 1), ([1, 0, 1], 1), ([3, 0], 3)])
def test_one_pass_that_stops_at_the_deepest_wanted_exit(model, tokenizer, exits, blocks):
    runs, passes = [], []
    hooks = [block.register_forward_hook(lambda *_: runs.append(1)) for block in model.layers]
    hooks.append(model.register_forward_hook(lambda *_: passes.append(1)))
    try:
        result = encode(model, tokenizer, ["a", "b"], exits)
    finally:
        for hook in hooks:
            hook.remove()
    assert tuple(result) == tuple(sorted(set(exits)))
    assert len(passes) == 1
    assert len(runs) == blocks


def test_batches_keep_within_the_budget_and_waste_little(model, tokenizer):
    shapes = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: shapes.append((kwargs["input_ids"].shape, int(kwargs["attention_mask"].sum()))),
        with_kwargs=True,
    )
    texts = [word * count for count in (1, 30, 2, 29, 1, 31) for word in ("q", "z")]
    try:
        encode(model, tokenizer, texts, [0], token_budget=70)
    finally:
        hook.remove()
    assert all(rows * tokens <= 70 for (rows, tokens), _ in shapes)
    assert sum(rows for (rows, _), _ in shapes) == len(texts)
    padded, real = sum(rows * tokens for (rows, tokens), _ in shapes), sum(count for _, count in shapes)
    assert real > 0.75 * padded  # in input order, half of every batch would be padding


def test_prompts_are_prefixes(model, tokenizer):
    plain = encode(model, tokenizer, ["Q: " + text for text in TEXTS], [3])[3]
    np.testing.assert_allclose(encode(model, tokenizer, TEXTS, [3], prompts="Q: ")[3], plain, atol=1e-6)
    each = [f"{i}: " for i in range(len(TEXTS))]
    expected = encode(model, tokenizer, [a + b for a, b in zip(each, TEXTS, strict=True)], [3])[3]
    np.testing.assert_allclose(encode(model, tokenizer, TEXTS, [3], prompts=each)[3], expected, atol=1e-6)


def test_long_texts_are_cut_off_and_keep_cls(model, tokenizer):
    seen = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    try:
        long = encode(model, tokenizer, ["q" * 500], [3])[3]
        encode(model, tokenizer, ["q" * 500], [3], max_length=9)
        encode(model, tokenizer, ["q" * 500], [3], max_length=10_000)
    finally:
        hook.remove()
    assert [ids.shape[1] for ids in seen] == [64, 9, 64]
    assert all(ids[0, -1] == tokenizer.cls_token_id for ids in seen)
    np.testing.assert_allclose(long, encode(model, tokenizer, ["q" * 400], [3])[3], atol=1e-6)


def test_bf16_is_close_and_of_unit_norm(model, tokenizer):
    exact, rough = encode(model, tokenizer, TEXTS), encode(model, tokenizer, TEXTS, dtype=torch.bfloat16)
    for exit_layer in exact:
        assert rough[exit_layer].dtype == np.float32
        assert (exact[exit_layer] * rough[exit_layer]).sum(axis=1).min() > 0.999
        assert not np.array_equal(exact[exit_layer], rough[exit_layer])
        np.testing.assert_allclose(np.linalg.norm(rough[exit_layer], axis=1), 1, atol=1e-6)


def test_dropout_is_off_and_training_mode_is_left_as_found(model, tokenizer):
    expected = encode(model, tokenizer, TEXTS, [3])[3]
    model.train()
    try:
        np.testing.assert_array_equal(encode(model, tokenizer, TEXTS, [3])[3], expected)
        assert model.training
    finally:
        model.eval()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"texts": []}, "no texts"),
        ({"texts": "def f(): pass"}, "not one string"),
        ({"exit_layers": [2]}, "exit_layer must be one of 0, 1, 3, got 2"),
        ({"exit_layers": []}, "exit_layers is empty"),
        ({"prompts": ["one"]}, "1 prompts for 2 texts"),
        ({"max_length": 0}, "max_length must be at least 2 .*got 0"),
        ({"max_length": 1}, "max_length must be at least 2 .*got 1"),
        ({"token_budget": 0}, "token_budget must be at least 1, got 0"),
        ({"dtype": torch.float64}, "wider than the weights .torch.float32., got torch.float64"),
    ],
)
def test_bad_input_is_named(model, tokenizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        encode(model, tokenizer, **{"texts": ["a", "b"], **arguments})


def test_broken_weights_are_named_with_exit_and_text(model, tokenizer):
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.exits["1"].projection.weight.fill_(float("nan"))
    assert np.isfinite(encode(model, tokenizer, TEXTS, [0])[0]).all()
    with pytest.raises(FloatingPointError, match="at exit 1 is not finite"):
        encode(model, tokenizer, TEXTS)
