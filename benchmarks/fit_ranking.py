"""Fit the constants of `mose.search`'s ranking and of its scores, and judge them on repositories left out."""

import argparse
import dataclasses
import sys
from functools import cache, partial
from pathlib import Path

import numpy as np
from sklearn.linear_model import LogisticRegression

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.inference.loading import load_model
from mose.search.evaluation.dataset import read_labelled_repositories
from mose.search.evaluation.figures import area_under_curve
from mose.search.evaluation.fitting import fit_constants, fit_without_each
from mose.search.evaluation.trials import TrialSet, collect_trials, score_trials
from mose.search.ranking.confidence import ConfidenceConstants, confidence_features
from mose.search.ranking.constants import RankingConstants
from mose.search.ranking.ranker import rank_units

ABSENT_QUERIES = Path(__file__).with_name("absent_queries.txt")


class RankingFit(Benchmark):
    """Constants fitted on all repositories, and NDCG@10 and AUC with each repository left out in turn."""

    description = "Fit the constants of the search's ranking and scores; report figures on repositories left out."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_model(parser)
        text = "folder of labelled repositories, see `python -m mose.search eval`"
        parser.add_argument("folder", type=Path, metavar="FOLDER", help=text)
        text = "queries about what no repository holds, one a line (default: %(default)s)"
        parser.add_argument("--absent", type=Path, default=ABSENT_QUERIES, metavar="FILE", help=text)
        text = "folder in which to keep the indexes (default: they are not kept)"
        parser.add_argument("--indexes", type=Path, metavar="DIR", help=text)

    def measure(self, options: argparse.Namespace) -> Report:
        data = read_labelled_repositories(options.folder)
        absent = options.absent.read_text(encoding="utf-8").splitlines()
        model, tokenizer, exits = load_model(options.model, options.exit_layers)
        sets = [collect_trials(data, model, tokenizer, k, options.indexes, absent) for k in exits]

        # A query counts once for each exit.
        @cache
        def score(constants: RankingConstants) -> np.ndarray:
            rank = partial(rank_units, constants=constants)
            return np.concatenate([score_trials(trials.trials, rank) for trials in sets])

        groups = np.concatenate([trials.repositories for trials in sets])
        fitted = fit_constants(score, np.ones(len(groups), bool))
        left_out = {
            name: {"ndcg@10": mean, "queries": int((groups == name).sum()), **dataclasses.asdict(constants)}
            for name, (constants, mean) in fit_without_each(score, groups).items()
        }
        return {
            "exits": list(exits),
            "fitted": {"ndcg@10": float(score(fitted).mean()), **dataclasses.asdict(fitted)},
            "left_out": left_out,
            "confidence": fit_confidence(sets),
        }

    def render(self, report: Report) -> str:
        rows = {"all": report["fitted"], **report["left_out"]}
        lines = [f"{'constant':24}" + "".join(f"{name[:12]:>14}" for name in rows)]
        for name in report["fitted"]:
            lines.append(f"{name:24}" + "".join(f"{row[name]:14.3f}" for row in rows.values()))

        queries = [row["queries"] for row in report["left_out"].values()]
        scores = [row["ndcg@10"] for row in report["left_out"].values()]
        mean = float(np.average(scores, weights=queries))
        lines += ["", f"NDCG@10 of queries on the repository left out: {mean:.3f}"]

        confidence = report["confidence"]
        lines += ["", f"score: {confidence['constants']}"]
        lines.append(
            f"AUC with each repository left out: {confidence['auc']:.4f}, {confidence['auc_by_repository']}"
        )
        return "\n".join(lines)


def fit_confidence(sets: list[TrialSet]) -> Report:
    """Return the coefficients of the score, and its AUC on repositories that they were not fitted on."""
    present = [(trial.evidence, trial.query.repository) for trials in sets for trial in trials.trials]
    absent = [(row, name) for trials in sets for name, rows in trials.absent.items() for row in rows]
    features = np.array([confidence_features(evidence) for evidence, _ in [*present, *absent]])
    labels = np.repeat([1, 0], [len(present), len(absent)])
    groups = np.array([name for _, name in [*present, *absent]])

    def fit(rows: np.ndarray) -> LogisticRegression:
        # Balanced: how often users ask for what is not there is unknown.
        return LogisticRegression(C=100, class_weight="balanced", max_iter=5000).fit(features[rows], labels[rows])

    held_out = np.empty(len(labels))
    for name in np.unique(groups):
        held_out[groups == name] = fit(groups != name).predict_proba(features[groups == name])[:, 1]

    def area(rows: np.ndarray) -> float:
        return area_under_curve(held_out[rows & (labels == 1)], held_out[rows & (labels == 0)])

    model = fit(np.ones(len(labels), bool))
    constants = ConfidenceConstants(float(model.intercept_[0]), *model.coef_[0].tolist())
    return {
        "constants": {name: round(value, 2) for name, value in dataclasses.asdict(constants).items()},
        "auc": area(np.ones(len(labels), bool)),
        "auc_by_repository": {str(name): round(area(groups == name), 4) for name in np.unique(groups)},
        "present": len(present),
        "absent": len(absent),
    }


if __name__ == "__main__":
    sys.exit(RankingFit().main())
