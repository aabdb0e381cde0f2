"""Compare adaptive depth with fixed exits at equal cost: deeper blocks run only for queries in doubt.

A query is answered from the shallowest exit. If a signal, such as the margin between its two best documents, is
below a threshold, a deeper exit answers instead. Thresholds are fitted on one half of the queries or sets, and
judged on the other. The baseline is a fixed mixture: each query takes one of two exits by chance, at the same
mean number of blocks.
"""

import argparse
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.data.retrieval.retrieval_set import RetrievalSet
from mose.eval.metrics import reciprocal_ranks, score_blocks
from mose.eval.quality import Judgements
from mose.inference.adaptive import SIGNALS, fit_policy
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.tokenization.prompts import prompt_for

#: Documents that the shallow exit hands to the deep one in a cascade.
CANDIDATES = 200
BOOTSTRAP_SAMPLES = 2_000
#: What the exits of a query search: the documents at the deepest exit, or at the query's own.
LAYOUTS = ("one deep index", "an index for each exit")


@dataclass(frozen=True)
class DepthTrials:
    """The queries of all sets under one layout of the index.

    Attributes:
        quality: exit -> (queries,) reciprocal ranks.
        signals: name -> (queries,) at the shallowest exit.
        sets: (queries,) number of the set.
    """

    quality: dict[int, np.ndarray]
    signals: dict[str, np.ndarray]
    sets: np.ndarray

    @property
    def weights(self) -> np.ndarray:
        """Weights of the queries under which each set counts the same: (queries,), with sum 1."""
        _, inverse, counts = np.unique(self.sets, return_inverse=True, return_counts=True)
        return 1 / (len(counts) * counts[inverse])

    def means(self) -> dict[int, float]:
        """Return exit -> MRR, the mean of all sets."""
        return {exit_layer: float(self.weights @ values) for exit_layer, values in self.quality.items()}

    def select(self, rows: np.ndarray) -> "DepthTrials":
        """Return some of the queries."""
        quality = {exit_layer: values[rows] for exit_layer, values in self.quality.items()}
        return DepthTrials(quality, {k: values[rows] for k, values in self.signals.items()}, self.sets[rows])


class AdaptiveDepth(Benchmark):
    """MRR against mean blocks run: adaptive depth, fixed exits, mixtures of fixed exits, and a cascade."""

    description = "MRR of adaptive depth beside fixed exits and mixtures of them, at equal mean blocks run."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        command.add_device(parser)
        command.add_model(parser)
        command.add_sets(parser)
        text = "mean blocks that a query may run (default: from a twelfth to two thirds of all)"
        parser.add_argument("--budgets", nargs="+", type=float, metavar="BLOCKS", help=text)

    def measure(self, options: argparse.Namespace) -> Report:
        model, tokenizer, exits = load_model(options.model, options.exit_layers, options.device)
        if len(exits) < 2 or not model.config.aligned_exits:
            raise ValueError(f"the model must have at least 2 aligned exits, got exits {exits}.")

        sets = command.retrieval_sets(options.data)
        parts: dict[str, list[DepthTrials]] = {layout: [] for layout in LAYOUTS}
        cascades: list[dict[str, float]] = []

        for number, data in enumerate(sets):
            documents, queries = (embed_set(model, tokenizer, data, query, options) for query in (False, True))

            for layout in LAYOUTS:
                deep = layout == LAYOUTS[0]
                searched = {k: documents[exits[-1] if deep else k] for k in exits}
                parts[layout].append(depth_trials(data, queries, searched, number))
            cascades.append(cascade_figures(data, queries, documents))

        budgets = options.budgets or [exits[-1] * share for share in (1 / 12, 1 / 6, 1 / 3, 1 / 2, 2 / 3)]
        layouts = {layout: layout_figures(_join_trials(trials), budgets) for layout, trials in parts.items()}
        means = {name: float(np.mean([row[name] for row in cascades])) for name in cascades[0]}
        return {"sets": [data.name for data in sets], "layouts": layouts, "cascade": means}

    def render(self, report: Report) -> str:
        lines = [f"MRR, mean of {len(report['sets'])} sets"]
        columns = {"budget": ("budget", ".2f"), "blocks": ("blocks", ".2f"), "MRR": ("mrr", ".4f")}
        columns |= {"mixture": ("mixture", ".4f"), "gain": ("gain", "+.4f")}
        columns |= {"from": ("low", "+.4f"), "to": ("high", "+.4f")}

        for layout, figures in report["layouts"].items():
            fixed = ", ".join(f"exit {k} {mrr:.4f}" for k, mrr in figures["fixed"].items())
            lines += ["", f"{layout}: {fixed}; the best exit for each query {figures['best']:.4f}", ""]
            rows = {
                f"{row['signal']}, halves of {row['split']}, {row['budget']:g}": row
                for row in figures["adaptive"]
            }
            lines.append(command.figures_table("adaptive", rows, columns))

        cascade = ", ".join(f"{name} {mrr:.4f}" for name, mrr in report["cascade"].items())
        return "\n".join([*lines, "", f"cascade of {CANDIDATES} documents: {cascade}"])


def embed_set(
    model: Any, tokenizer: Any, data: RetrievalSet, query: bool, options: argparse.Namespace
) -> dict[int, np.ndarray]:
    """Return exit -> (texts, dim) of the documents or the queries of a set, at the measured exits."""
    texts = data.queries if query else data.documents
    languages = data.query_languages if query else data.document_languages
    prompts = [prompt_for(language, query) for language in languages]

    limits: dict[str, Any] = {"max_length": options.max_length, "dtype": command.DTYPES[options.dtype]}
    return encode(model, tokenizer, texts, options.exit_layers, prompts, **limits)


def depth_trials(
    data: RetrievalSet, queries: Mapping[int, np.ndarray], documents: Mapping[int, np.ndarray], number: int
) -> DepthTrials:
    """Return the reciprocal ranks of one set at each exit, and the signals at the shallowest.

    Args:
        data: the set.
        queries: exit -> (queries, dim), the shallowest first.
        documents: exit of the query -> (documents, dim) of the index that it searches.
        number: of the set.
    """
    judgements = Judgements(data)
    quality = {k: reciprocal_ranks(judgements.vector_ranks(queries[k], documents[k])) for k in queries}

    shallow = next(iter(queries))
    signals: dict[str, list[np.ndarray]] = {name: [] for name in SIGNALS}
    for block in score_blocks(queries[shallow], documents[shallow]):
        for name, signal in SIGNALS.items():
            signals[name].append(signal(block))

    joined = {name: np.concatenate(values) for name, values in signals.items()}
    return DepthTrials(quality, joined, np.full(len(data.queries), number))


def _join_trials(parts: Sequence[DepthTrials]) -> DepthTrials:
    quality = {k: np.concatenate([part.quality[k] for part in parts]) for k in parts[0].quality}
    signals = {name: np.concatenate([part.signals[name] for part in parts]) for name in SIGNALS}
    return DepthTrials(quality, signals, np.concatenate([part.sets for part in parts]))


def cascade_figures(
    data: RetrievalSet, queries: Mapping[int, np.ndarray], documents: Mapping[int, np.ndarray]
) -> dict[str, float]:
    """Return the MRR of a cascade: the shallowest exit retrieves, stored vectors of the deepest re-rank.

    The query is re-ranked with its vector of the shallowest exit, which runs no further block, or of the deepest.
    """
    first, *_, last = queries
    judgements = Judgements(data)

    def reranked(vectors: np.ndarray) -> Iterator[np.ndarray]:
        retrieval = score_blocks(queries[first], documents[first])
        for shallow, deep in zip(retrieval, score_blocks(vectors, documents[last]), strict=True):
            count = min(CANDIDATES, shallow.shape[1])
            kept = np.argpartition(-shallow, count - 1, axis=1)[:, :count]

            # Cosines are in [-1, 1], so the other documents rank below all candidates.
            block = shallow - 4
            np.put_along_axis(block, kept, np.take_along_axis(deep, kept, axis=1), axis=1)
            yield block

    return {
        f"query at exit {k}": float(reciprocal_ranks(judgements.ranks(reranked(queries[k]))).mean())
        for k in (first, last)
    }


def layout_figures(trials: DepthTrials, budgets: Sequence[float]) -> Report:
    """Return the MRR of each fixed exit, of the best exit for each query, and of adaptive depth by budget."""
    halves = {"queries": np.arange(len(trials.sets)) % 2 == 0, "sets": trials.sets % 2 == 0}
    # A single set has no half of its sets.
    halves = {name: half for name, half in halves.items() if 0 < half.sum() < len(half)}

    adaptive = [
        judge_policy(trials, half, signal, budget) | {"split": name}
        for signal in SIGNALS
        for name, half in halves.items()
        for budget in budgets
    ]
    best = np.max(list(trials.quality.values()), axis=0)
    return {"fixed": trials.means(), "best": float(trials.weights @ best), "adaptive": adaptive}


def judge_policy(trials: DepthTrials, half: np.ndarray, signal: str, budget: float) -> Report:
    """Fit on each half, judge on the other, and return mean blocks, MRR and the gain over a mixture.

    "low" and "high" are the 95 % bootstrap interval of the gain over queries, within each set.

    Args:
        trials: of all queries.
        half: (queries,) bool, True for the queries of one half.
        signal: a key of `SIGNALS`.
        budget: mean blocks that a fit may spend.
    """
    blocks, values, mixed = (np.empty(len(half)) for _ in range(3))

    for judged in (half, ~half):
        fitted, part = trials.select(~judged), trials.select(judged)
        policy = fit_policy(signal, fitted.signals[signal], fitted.quality, budget, fitted.weights)
        doubtful = policy.in_doubt(part.signals[signal])

        blocks[judged] = policy.shallow + policy.deep * doubtful
        values[judged] = np.where(doubtful, part.quality[policy.deep], part.quality[policy.shallow])
        mixed[judged] = mixture(part, fitted, float(part.weights @ blocks[judged]))

    weights = trials.weights
    low, high = _gain_interval(values - mixed, trials.sets)
    return {
        "signal": signal,
        "budget": budget,
        "blocks": float(weights @ blocks),
        "mrr": float(weights @ values),
        "mixture": float(weights @ mixed),
        "gain": float(weights @ (values - mixed)),
        "low": low,
        "high": high,
    }


def mixture(judged: DepthTrials, fitted: DepthTrials, blocks: float) -> np.ndarray:
    """Return (queries,): the expected reciprocal ranks if chance picks one of two exits for each query.

    Args:
        judged: the queries.
        fitted: the queries on which the best two exits are chosen, or the one that needs no partner.
        blocks: mean blocks to spend, at most those of the deepest exit.
    """
    means = fitted.means()
    best, best_mean = judged.quality[min(means)], means[min(means)]

    for low, high in itertools.combinations(sorted(means), 2):
        if blocks < low:
            continue

        # A mixture may also spend less, if more blocks do not pay.
        for share in (0.0, min((blocks - low) / (high - low), 1.0)):
            mean = (1 - share) * means[low] + share * means[high]
            if mean > best_mean:
                best, best_mean = (1 - share) * judged.quality[low] + share * judged.quality[high], mean
    return best


def _gain_interval(gains: np.ndarray, sets: np.ndarray) -> tuple[float, float]:
    generator = np.random.default_rng(0)
    means = []
    for number in np.unique(sets):
        values = gains[sets == number]
        means.append(generator.choice(values, (BOOTSTRAP_SAMPLES, len(values))).mean(axis=1))

    low, high = np.percentile(np.mean(means, axis=0), [2.5, 97.5])
    return float(low), float(high)


if __name__ == "__main__":
    sys.exit(AdaptiveDepth().main())
