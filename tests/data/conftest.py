"""Repositories that tests of the pre-training data read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _no_shared_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def plant_repositories(tmp_path) -> Callable[..., Path]:
    """Writes packages of Python files: `{"a": [300, 20]}` is a package `a` of files of 300 and 20 words.

    A package's words begin with its own name, so that a text tells where it is from.
    """

    def plant(sizes: dict[str, list[int]], name: str = "tree", seed: int = 0) -> Path:
        rng = np.random.default_rng(seed)
        root = tmp_path / name
        for repository, files in sizes.items():
            (root / repository).mkdir(parents=True)
            for number, words in enumerate(files):
                text = " ".join(f"{repository}{n}" for n in rng.integers(1000, size=words))
                (root / repository / f"f{number:03}.py").write_text(text + "\n")
        return root

    return plant
