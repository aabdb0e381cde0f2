"""The figures of an evaluation: overall, by category and repository, beside baselines and ablations."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from mose.search.evaluation.trials import TrialSet, score_trials
from mose.search.ranking.catalogue import Catalogue
from mose.search.ranking.confidence import query_confidence
from mose.search.ranking.constants import DEFAULT_CONSTANTS, RANKING_FUNCTIONS, RankingConstants
from mose.search.ranking.fusion import fuse
from mose.search.ranking.ranker import Evidence, Ranking, best_rows_by, rank_by_similarity, rank_units

#: Name of a row -> mean NDCG@10 by column.
Figures = dict[str, dict[str, float]]


def _rank_by_bm25(evidence: Evidence, catalogue: Catalogue, top_k: int) -> Ranking:
    return Ranking(best_rows_by(evidence.bm25, top_k, catalogue.position), [])


def _rank_by_fusion(evidence: Evidence, catalogue: Catalogue, top_k: int) -> Ranking:
    scores = fuse(evidence.similarities, evidence.bm25)
    return Ranking(best_rows_by(scores, top_k, catalogue.position), [])


#: How hits can be ordered without the ranking functions.
BASELINES: dict[str, Callable[[Evidence, Catalogue, int], Ranking]] = {
    "embeddings alone": rank_by_similarity,
    "BM25 alone": _rank_by_bm25,
    "both, fused": _rank_by_fusion,
}


def ranking_figures(trials: TrialSet, constants: RankingConstants = DEFAULT_CONSTANTS) -> Figures:
    """Return the NDCG@10 of the ranking, of the best unit of each file alone, and of each baseline."""
    rows: dict[str, Callable[[Evidence, Catalogue, int], Ranking]] = {
        "ranking": partial(rank_units, constants=constants),
        "ranking, one hit a file": partial(rank_units, constants=constants, one_per_file=True),
        **BASELINES,
    }
    return {name: _means(trials, score_trials(trials.trials, rank)) for name, rank in rows.items()}


def ablation_figures(trials: TrialSet, constants: RankingConstants = DEFAULT_CONSTANTS) -> Figures:
    """Return the NDCG@10 with each ranking function switched off."""
    return {
        name: _means(trials, score_trials(trials.trials, partial(rank_units, constants=constants.without(name))))
        for name in RANKING_FUNCTIONS
    }


def confidence_figures(trials: TrialSet) -> dict[str, Any]:
    """Return how well the score of the first hit tells labelled queries from those about what is not there."""
    present = np.array([query_confidence(trial.evidence) for trial in trials.trials])
    absent = np.array([query_confidence(evidence) for rows in trials.absent.values() for evidence in rows])
    return {
        "auc": area_under_curve(present, absent),
        "present": len(present),
        "absent": len(absent),
        "present_at_least_half": float((present >= 0.5).mean()),
        "absent_at_least_half": float((absent >= 0.5).mean()),
    }


def area_under_curve(positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the probability that a positive scores higher than a negative; ties count half."""
    ordered = np.sort(negative)
    below = np.searchsorted(ordered, positive, "left") + np.searchsorted(ordered, positive, "right")
    return float(below.mean() / 2 / len(negative))


def _means(trials: TrialSet, scores: np.ndarray) -> dict[str, float]:
    """Return the mean over all, over each category and over each repository."""
    means = {"all": float(scores.mean())}
    for groups in (trials.categories, trials.repositories):
        means |= {str(group): float(scores[groups == group].mean()) for group in np.unique(groups)}
    return means
