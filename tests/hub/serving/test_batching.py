"""The queue on its own, around a function that is easy to check."""

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mose.hub.serving.batching import Batcher, QueueFullError


def label(ids: list[list[int]], exit_layer: int) -> np.ndarray:
    """Return a vector that only this text at this exit has."""
    return np.array([[len(text), sum(text), exit_layer] for text in ids], dtype=np.float32)


class Gate:
    """A `label` that waits at each call until it is opened, and keeps what it got."""

    def __init__(self):
        self.rounds: list[tuple[list[list[int]], int]] = []
        self.entered, self.open = threading.Semaphore(0), threading.Semaphore(0)

    def __call__(self, ids, exit_layer):
        self.rounds.append((ids, exit_layer))
        self.entered.release()
        assert self.open.acquire(timeout=10)
        return label(ids, exit_layer)


@pytest.fixture
def gated():
    """A queue of 40 tokens with rounds of 10, whose first round, of one token, has begun."""
    gate = Gate()
    batcher = Batcher(gate, round_tokens=10, max_tokens=40)
    first = batcher.submit([[0]], 0)
    assert gate.entered.acquire(timeout=10)
    yield batcher, gate, first
    for _ in range(100):
        gate.open.release()
    batcher.close(10)


texts = st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=30), min_size=1, max_size=9)


@settings(max_examples=30)
@given(st.lists(st.tuples(texts, st.sampled_from([0, 1, 3])), min_size=1, max_size=12), st.integers(1, 60))
def test_every_request_gets_its_own_vectors_whatever_waits_beside_it(requests, round_tokens):
    rounds = []

    def embed(ids, exit_layer):
        rounds.append(ids)
        return label(ids, exit_layer)

    batcher = Batcher(embed, round_tokens, max_tokens=10**6)
    jobs = [batcher.submit(ids, exit_layer) for ids, exit_layer in requests]
    for job, (ids, exit_layer) in zip(jobs, requests, strict=True):
        np.testing.assert_array_equal(job.future.result(10), label(ids, exit_layer))

    batcher.close(10)
    assert batcher.waiting_tokens == batcher.waiting_requests == 0
    # A round ends with the text that fills it.
    assert all(sum(map(len, ids[:-1])) < round_tokens for ids in rounds)
    assert sum(map(len, rounds)) == sum(len(ids) for ids, _ in requests)


def test_a_short_request_does_not_wait_for_a_long_one(gated):
    batcher, gate, _ = gated
    long = batcher.submit([[1] * 3] * 9, 1)
    short = batcher.submit([[2] * 3], 1)
    for _ in range(2):
        gate.open.release()
    np.testing.assert_array_equal(short.future.result(10), label([[2] * 3], 1))
    assert not long.future.done()
    # The second round took turns, and held texts of both.
    assert [2] * 3 in gate.rounds[1][0] and [1] * 3 in gate.rounds[1][0]


def test_each_half_of_the_queue_is_bounded(gated):
    batcher, _, _ = gated
    long, short = [[1] * 6] * 2, [[1] * 9]
    batcher.submit(long, 1)
    with pytest.raises(
        QueueFullError, match="12 tokens of requests like this one wait already, and at most 20"
    ) as full:
        batcher.submit(long, 1)
    assert full.value.retry_after >= 1
    # The first round's token waits until it is embedded.
    batcher.submit(short, 1)
    batcher.submit(short, 1)
    with pytest.raises(QueueFullError, match="19 tokens of requests like this one"):
        batcher.submit(short, 1)
    assert batcher.waiting_tokens == 31


def test_a_request_longer_than_the_queue_waits_for_an_empty_one():
    batcher = Batcher(label, round_tokens=10, max_tokens=40)
    assert batcher.submit([[1] * 20] * 9, 0).future.result(10).shape == (9, 3)
    batcher.close(10)


def test_a_cancelled_request_takes_no_more_work(gated):
    batcher, gate, first = gated
    waiting = batcher.submit([[1] * 5] * 4, 1)
    batcher.cancel(waiting)
    batcher.cancel(first)  # while the model runs on it
    assert batcher.waiting_tokens == batcher.waiting_requests == 0
    last = batcher.submit([[3]], 2)
    for _ in range(2):
        gate.open.release()
    np.testing.assert_array_equal(last.future.result(10), label([[3]], 2))
    assert [exit_layer for _, exit_layer in gate.rounds] == [0, 2]


def test_a_failure_reaches_its_requests_and_not_the_next_ones():
    def embed(ids, exit_layer):
        if exit_layer == 1:
            raise FloatingPointError("broken")
        return label(ids, exit_layer)

    batcher = Batcher(embed, round_tokens=3, max_tokens=100)
    failing, fine = batcher.submit([[1] * 2] * 5, 1), batcher.submit([[1]], 0)
    with pytest.raises(FloatingPointError, match="broken"):
        failing.future.result(10)
    assert fine.future.result(10).shape == (1, 3)
    assert batcher.waiting_tokens == 0
    batcher.close(10)


def test_requests_that_one_round_ends_are_announced_together(gated):
    batcher, gate, first = gated
    announced = []
    batcher.announce = lambda jobs: announced.append([job.waiter for job in jobs])
    waiting = [batcher.submit([[1]], 1, waiter) for waiter in ("a", "b", "c")]
    gone = batcher.submit([[1]], 1, "gone")
    batcher.cancel(gone)
    for _ in range(2):
        gate.open.release()
    for job in waiting:
        job.future.result(10)
    batcher.close(10)
    assert announced == [[None], ["a", "b", "c"], []] and gone.future.cancelled()


def test_closing_fails_what_waits(gated):
    batcher, gate, first = gated
    waiting = batcher.submit([[1]], 1)
    closer = threading.Thread(target=batcher.close)
    closer.start()
    gate.open.release()
    closer.join(10)
    assert first.future.result(10).shape == (1, 3)
    with pytest.raises(QueueFullError, match="ending"):
        waiting.future.result(10)
    with pytest.raises(QueueFullError, match="ending"):
        batcher.submit([[1]], 1)
