"""Prometheus metrics of a server, in a registry of its own."""

from collections.abc import Callable, Mapping

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
        options = {"registry": registry}

        labels = ("route", "status")
        self.requests = Counter("mose_requests", "Answered requests.", labels, **options)
        labels = ("route", "exit_layer")
        text = "Seconds from the headers of a request to its answer."
        self.request_seconds = Histogram("mose_request_seconds", text, labels, buckets=SECONDS, **options)

        text = "Seconds of one round of the model."
        self.round_seconds = Histogram("mose_round_seconds", text, ("exit_layer",), buckets=SECONDS, **options)
        text = "Texts that one round embeds together."
        self.round_texts = Histogram("mose_round_texts", text, ("exit_layer",), buckets=TEXTS, **options)
        text = "Tokens that one round embeds together."
        self.round_tokens = Histogram("mose_round_tokens", text, ("exit_layer",), buckets=TOKENS, **options)

        gauge = Gauge("mose_connections", "Open connections.", **options)
        gauge.set_function(count_connections)
        waiting = Gauge("mose_queue_requests", "Requests that wait for the model.", ("queue",), **options)
        tokens = Gauge("mose_queue_tokens", "Tokens that wait for the model.", ("queue",), **options)
        for name, batcher in batchers.items():
            waiting.labels(name).set_function(lambda batcher=batcher: batcher.waiting_requests)
            tokens.labels(name).set_function(lambda batcher=batcher: batcher.waiting_tokens)

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
