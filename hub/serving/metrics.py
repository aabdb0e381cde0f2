"""Prometheus metrics of a server, in a registry of its own."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

from mose.hub.serving.batching import Batcher

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
TOKENS = (16, 64, 256, 1024, 4096, 16_384, 65_536)


class ServerMetrics:
    """The metrics that `/metrics` shows.

    Args:
        batchers: name of each queue -> the queue.
        count_connections: returns the number of open connections.
    """

    def __init__(self, batchers: Mapping[str, Batcher], count_connections: Callable[[], int]):
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def histogram(name: str, text: str, labels: Sequence[str], buckets: Sequence[float]) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=registry)

        text = "Answered requests."
        self.requests = Counter("mose_requests", text, ("route", "status"), registry=registry)
        text = "Seconds from the headers of a request to its answer."
        self.request_seconds = histogram("mose_request_seconds", text, ("route", "exit_layer"), SECONDS)

        exits = ("exit_layer",)
        self.round_seconds = histogram("mose_round_seconds", "Seconds of one round of the model.", exits, SECONDS)
        self.round_texts = histogram("mose_round_texts", "Texts embedded in one round.", exits, TEXTS)
        self.round_tokens = histogram("mose_round_tokens", "Tokens embedded in one round.", exits, TOKENS)

        Gauge("mose_connections", "Open connections.", registry=registry).set_function(count_connections)
        text = "Requests that wait for the model."
        waiting = Gauge("mose_queue_requests", text, ("queue",), registry=registry)
        text = "Tokens that wait for the model."
        tokens = Gauge("mose_queue_tokens", text, ("queue",), registry=registry)
        for name, batcher in batchers.items():
            waiting.labels(name).set_function(partial(getattr, batcher, "waiting_requests"))
            tokens.labels(name).set_function(partial(getattr, batcher, "waiting_tokens"))

    def observe_round(self, exit_layer: int, texts: int, tokens: int, seconds: float) -> None:
        """Count one round of a batcher."""
        self.round_seconds.labels(exit_layer).observe(seconds)
        self.round_texts.labels(exit_layer).observe(texts)
        self.round_tokens.labels(exit_layer).observe(tokens)

    def observe_request(self, route: str, status: int, exit_layer: str, seconds: float) -> None:
        """Count one answer; `exit_layer` is empty if the answer has no embeddings."""
        self.requests.labels(route, str(status)).inc()
        if exit_layer:
            self.request_seconds.labels(route, exit_layer).observe(seconds)

    def render(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return generate_latest(self.registry)
