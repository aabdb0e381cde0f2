"""Python code is parsed at every allocation, as finalizers and other threads may do at any time."""

import ast
import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def parsing_meanwhile() -> Iterator[None]:
    """Parse at every garbage collection, and collect as often as can be."""

    def parse(phase: str, info: dict) -> None:
        ast.parse("a + b")

    threshold = gc.get_threshold()
    gc.callbacks.append(parse)
    gc.set_threshold(1)
    try:
        yield
    finally:
        gc.set_threshold(*threshold)
        gc.callbacks.remove(parse)
