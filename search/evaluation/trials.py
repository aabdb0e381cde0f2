"""Queries with everything that ranking needs to know, so that it can be judged many times over."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mose.search.evaluation.dataset import LabelledQuery, LabelledRepositories, write_tree
from mose.search.evaluation.metrics import file_ndcg
from mose.search.index import Index
from mose.search.ranking.catalogue import Catalogue
from mose.search.ranking.ranker import Evidence, Ranking

#: Hits that count.
DEPTH = 10


@dataclass(frozen=True)
class Trial:
    """A labelled query on an index: what speaks for each unit, and which files are right."""

    query: LabelledQuery
    evidence: Evidence
    catalogue: Catalogue


@dataclass(frozen=True)
class TrialSet:
    """Trials on the indexes of several repositories.

    Attributes:
        trials: the labelled queries.
        absent: evidence for each query about what no repository holds, by repository.
        units: number of units of each repository.
    """

    trials: tuple[Trial, ...]
    absent: dict[str, list[Evidence]]
    units: dict[str, int]

    @property
    def repositories(self) -> np.ndarray:
        """The repository of each trial, (trials,)."""
        return np.array([trial.query.repository for trial in self.trials])

    @property
    def categories(self) -> np.ndarray:
        """The category of each trial, (trials,)."""
        return np.array([trial.query.category for trial in self.trials])


def collect_trials(
    data: LabelledRepositories,
    model: Any,
    tokenizer: Any,
    exit_layer: int | None,
    indexes: Path | None = None,
    absent: Sequence[str] = (),
    progress: bool = False,
) -> TrialSet:
    """Index each repository and return its queries as trials.

    Args:
        data: repositories and queries.
        model: a `MoSEModel`.
        tokenizer: the model's tokenizer.
        exit_layer: exit to embed at; None means the deepest.
        indexes: folder in which the indexes are kept for the next run; None keeps none.
        absent: queries about what the repositories do not hold.
        progress: show progress bars on stderr.
    """
    trials: dict[int, Trial] = {}
    nothing: dict[str, list[Evidence]] = {}
    units: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in data.repositories:
            # Always at the same place below the indexes, which know their tree.
            tree = (indexes or Path(temporary)) / f"{name}-tree"
            if tree.exists():
                shutil.rmtree(tree)  # files of an earlier run may be gone
            write_tree(data.contents[name], tree)
            folder = (indexes or Path(temporary)) / f"{name}-exit{model.config.resolve_exit_layer(exit_layer)}"
            index = Index.build(tree, model, tokenizer, folder, exit_layer, progress=progress)

            units[name] = len(index)
            nothing[name] = [index.evidence(text) for text in absent]
            for number, query in enumerate(data.queries):
                if query.repository == name:
                    trials[number] = Trial(query, index.evidence(query.text), index.catalogue)
    return TrialSet(tuple(trials[number] for number in sorted(trials)), nothing, units)


def score_trials(trials: Sequence[Trial], rank: Callable[[Evidence, Catalogue, int], Ranking]) -> np.ndarray:
    """Return the NDCG@10 over files of each trial, (trials,).

    Args:
        trials: from `collect_trials`.
        rank: a function of evidence, catalogue and number of hits, such as `rank_units`.
    """
    scores = []
    for trial in trials:
        rows = rank(trial.evidence, trial.catalogue, DEPTH).rows
        paths = [trial.catalogue.files[file] for file in trial.catalogue.file_of[rows]]
        scores.append(file_ndcg(paths, trial.query.gold, DEPTH))
    return np.array(scores)
