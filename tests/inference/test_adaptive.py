import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import softmax
from scipy.stats import entropy

from mose.inference.adaptive import (
    ENTROPY_DOCUMENTS,
    ENTROPY_SCALE,
    SIGNALS,
    AdaptivePolicy,
    adaptive_scores,
    fit_policy,
)
from mose.inference.encoders import MoSEEncoder

TEXTS = ["add two numbers", "read a file", "", "parse an ISO date", "x"]
LANGUAGES = [""] * len(TEXTS)


@settings(max_examples=25)
@given(arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 15)), elements=st.floats(-1, 1, width=32)))
def test_signals_are_what_their_definitions_say(scores):
    for row, margin, negative in zip(
        scores, *(SIGNALS[name](scores) for name in ("margin", "entropy")), strict=True
    ):
        best = np.sort(row)[::-1]
        assert margin == pytest.approx(best[0] - best[min(1, len(best) - 1)], abs=1e-6)
        shares = softmax(best[:ENTROPY_DOCUMENTS].astype(float) * ENTROPY_SCALE)
        assert negative == pytest.approx(-entropy(shares), abs=1e-4)


@pytest.mark.parametrize("signal", SIGNALS)
@pytest.mark.parametrize("share", [0, 0.4, 1])
def test_queries_in_doubt_are_answered_by_the_deep_exit_alone(model, tokenizer, signal, share, monkeypatch):
    encoder = MoSEEncoder(model, tokenizer)
    documents = encoder.encode(["def f(): pass", "x = 1", "return a + b"], ["python"] * 3, False)
    queries = encoder.encode(TEXTS, LANGUAGES, True)
    whole = {k: queries[k] @ documents[k].T for k in ("0", "3")}
    signals = SIGNALS[signal](whole["0"])
    threshold = {0: -np.inf, 0.4: np.sort(signals)[2], 1: np.inf}[share]

    calls = []
    encode = encoder.encode
    monkeypatch.setattr(
        encoder, "encode", lambda texts, *rest: calls.append((texts, rest[-1])) or encode(texts, *rest)
    )
    policy = AdaptivePolicy(0, 3, signal, threshold)
    scores, exits = adaptive_scores(
        encoder, TEXTS, LANGUAGES, lambda vectors, k: vectors @ documents[str(k)].T, policy
    )

    deep = signals < threshold
    assert deep.mean() == pytest.approx(share)
    np.testing.assert_allclose(scores, np.where(deep[:, None], whole["3"], whole["0"]), atol=1e-5)
    assert exits.tolist() == np.where(deep, 3, 0).tolist()
    assert calls[0] == (TEXTS, ["0"])
    assert calls[1:] == ([([text for text, far in zip(TEXTS, deep, strict=True) if far], ["3"])] if share else [])


def test_a_fit_finds_the_queries_that_depth_helps():
    """Depth helps below 0.3, harms above 0.6; exit 2 helps as exit 1, at twice the cost."""
    signals = np.linspace(0, 1, 101)
    shallow = np.full(101, 0.5)
    deeper = np.where(signals < 0.3, 1.0, np.where(signals > 0.6, 0.0, 0.5))
    quality = {0: shallow, 1: deeper, 2: deeper}

    policy = fit_policy("margin", signals, quality, 2.0)
    assert (policy.deep, policy.signal) == (1, "margin") and policy.threshold == pytest.approx(0.3, abs=0.03)
    tight = fit_policy("margin", signals, quality, 0.1)
    assert tight.deep == 1 and 0.05 < tight.in_doubt(signals).mean() <= 0.1
    assert not fit_policy("margin", signals, {0: shallow, 1: shallow - 0.1}, 9.0).in_doubt(signals).any()
    # Only the last queries count: depth harms them.
    weighted = fit_policy("margin", signals, quality, 2.0, weights=(signals > 0.6).astype(float))
    assert not weighted.in_doubt(signals).any()


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0, 3))
def test_a_fit_keeps_its_budget_and_is_never_worse_than_the_shallow_exit(seed, budget):
    generator = np.random.default_rng(seed)
    signals, weights = generator.normal(size=20), generator.random(20) + 0.01
    quality = {k: generator.random(20) for k in (0, 1, 3)}
    policy = fit_policy("entropy", signals, quality, budget, weights)
    deep = policy.in_doubt(signals)
    assert np.average(deep * policy.deep, weights=weights) <= budget + 1e-9
    values = np.where(deep, quality[policy.deep], quality[0])
    assert np.average(values, weights=weights) >= np.average(quality[0], weights=weights) - 1e-9


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: AdaptivePolicy(0, 3, "hope", 0.1), "signal must be one of margin, entropy, got 'hope'"),
        (lambda: AdaptivePolicy(3, 3, "margin", 0.1), "deep must be deeper than shallow, got exits 3 and 3"),
        (lambda: fit_policy("margin", np.ones(2), {0: np.ones(2)}, 1), "2 exits or more and queries"),
        (
            lambda: fit_policy("margin", np.ones(0), {0: np.ones(0), 1: np.ones(0)}, 1),
            "2 exits or more and queries",
        ),
        (
            lambda: fit_policy("margin", np.ones(1), {1: np.ones(1), 2: np.ones(1)}, 0.5),
            "budget must be at least 1",
        ),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()
