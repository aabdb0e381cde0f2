"""Measure how well fragments of functions find their source: exits, BM25, MinHash, and `mose search similar`.

    python benchmarks/fragments.py --fetch ~/packages
    python benchmarks/fragments.py FOLDER … --functions 5000 --exit-layers 0

Functions of the folders are units of an index: long ones in parts, with a line of path and name before the code.
Languages have an equal share as far as they can. A fragment is a row of tokens of the model, cut at random from a
unit. In half of the fragments every identifier is replaced by one of another function in the language. A unit
that holds the fragment is its source. Of units with equal scores, the source counts as if it stood in the middle.
"""

import argparse
import random
import re
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasketch import MinHash
from tqdm import tqdm

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.benchmarks.packages import fetch_packages
from mose.data.source.anonymization import identifiers_of
from mose.data.source.ngrams import hashed_ngrams
from mose.data.source.shapes import shape_of
from mose.inference.encoding import encode
from mose.inference.loading import load_model
from mose.search.lexical import TermCounter, TermTable, flatten_counts
from mose.search.records import MAX_LENGTH, Entry
from mose.search.shape_table import ShapeTable
from mose.search.similar import DENSE, STRUCTURE, WORDS, shared_structure
from mose.search.tree import read_whole_tree
from mose.tokenization.prompts import prompt_for

#: Lines of the shortest function.
MIN_LINES = 5
#: Scores to count.
LEAST_SCORES = (0.45, 0.5, 0.55, 0.6, 0.65, 0.7)
#: Length of a MinHash signature, whose standard error at a similarity of 0.5 is 0.03.
SIGNATURE = 256
_WORDS = re.compile(r"[^\W\d]\w*|.", re.DOTALL)


class Fragment(NamedTuple):
    """A part of a function."""

    tokens: int
    is_renamed: bool
    text: str
    sources: list[int]  # positions of the units that hold it


class Fragments(Benchmark):
    """MRR of fragments of functions, for every way to find their source."""

    description = "How well fragments of functions find their source."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what is read, and how many fragments of which lengths are cut."""
        command.add_device(parser)
        command.add_model(parser)
        parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="source trees")
        help_text = "fetch the packages of benchmarks/packages.py into this folder, and read them"
        parser.add_argument("--fetch", type=Path, metavar="FOLDER", help=help_text)
        command.add_count(parser, "--functions", 20_500, "functions to search among")
        command.add_count(parser, "--fragments", 500, "fragments of each length, half of them renamed")
        help_text = "tokens of a fragment (default: %(default)s)"
        parser.add_argument("--lengths", nargs="+", type=int, default=[60, 120, 240], metavar="N", help=help_text)
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random choices (default: 0)")

    def measure(self, options: argparse.Namespace) -> Report:
        """Return the MRR by engine, length and renaming."""
        folders = options.folders + (fetch_packages(options.fetch) if options.fetch else [])
        if not folders:
            raise ValueError("name folders of source code, or pass --fetch FOLDER.")
        rng = random.Random(options.seed)
        units = balanced_functions(folders, options.functions, rng)
        model, tokenizer, exits = load_model(options.model, options.exit_layers, options.device)
        fragments = [
            fragment
            for length in options.lengths
            for fragment in cut_fragments(units, tokenizer, length, options.fragments, rng)
        ]

        def embed(texts: Sequence[str], languages: Sequence[str]) -> dict[int, np.ndarray]:
            prompts = [prompt_for(language, query=False) for language in languages]
            settings: dict[str, Any] = {"dtype": command.DTYPES[options.dtype], "progress": True}
            return encode(model, tokenizer, texts, exits, prompts, MAX_LENGTH, **settings)

        texts = [fragment.text for fragment in fragments]
        documents = embed([unit.text for unit in units], [unit.language for unit in units])
        queries = embed(texts, [""] * len(texts))  # nobody has to know the language of a fragment
        engines = {f"exit {k}": _by_row(queries[k] @ documents[k].T) for k in exits}
        engines |= lexical_engines(units, texts)

        structure, words = engines["structure"], engines["words"]
        for k in exits:
            engines[f"similar, exit {k}"] = _sum(engines[f"exit {k}"], structure, words)

        counts: dict[str, int] = defaultdict(int)
        for unit in units:
            counts[unit.language] += 1
        report: Report = {"functions": len(units), "languages": dict(counts)}
        report |= {"fragments": len(fragments), "mrr": {}, "scores": {}}
        for name, scores in tqdm(engines.items(), "ranking"):
            rows = [scores(number) for number in range(len(fragments))]
            report["mrr"][name] = mean_reciprocal_ranks(fragments, rows)
            if name.startswith("similar"):
                report["scores"][name] = scores_above(fragments, rows)
        return report

    def render(self, report: Report) -> str:
        """Return one line for each engine, and how high the scores of `similar` are."""
        columns = {name: (name, ".3f") for name in next(iter(report["mrr"].values()))}
        languages = ", ".join(f"{n:,} {name}" for name, n in sorted(report["languages"].items()))
        lines = [f"{report['functions']:,} functions ({languages}), {report['fragments']:,} fragments", ""]
        lines.append(command.figures_table("MRR", report["mrr"], columns))
        columns = {"sources": ("sources", ".1%"), "best others": ("others", ".1%")}
        for name, rows in report["scores"].items():
            lines += ["", command.figures_table(f"{name}: score of at least", rows, columns)]
        return "\n".join(lines)


def balanced_functions(folders: Iterable[Path], count: int, rng: random.Random) -> list[Entry]:
    """Return functions of five lines or more, none twice, from as many languages as there are.

    Raises:
        ValueError: there are fewer.
    """
    by_language: dict[str, dict[str, Entry]] = defaultdict(dict)
    for folder in folders:
        for unit in read_whole_tree(folder)[0]:
            if unit.kind in ("function", "method") and unit.source.count("\n") + 1 >= MIN_LINES:
                by_language[unit.language].setdefault(_squeeze(unit.source), unit)

    total = sum(map(len, by_language.values()))
    if total < count:
        raise ValueError(f"--functions must be at most {total}, the number in these folders, got {count}.")

    units: list[Entry] = []
    # Small languages first: what they lack is shared among the others.
    for left, (_, known) in zip(
        range(len(by_language), 0, -1),
        sorted(by_language.items(), key=lambda item: (len(item[1]), item[0])),
        strict=True,
    ):
        share = (count - len(units)) // left if left > 1 else count - len(units)
        units += rng.sample(list(known.values()), min(share, len(known)))
    return units


def cut_fragments(
    units: Sequence[Entry], tokenizer: Any, length: int, count: int, rng: random.Random
) -> Iterator[Fragment]:
    """Yield fragments of `length` tokens, each of another unit; every second one is renamed."""
    names: dict[str, list[str]] = {}
    squeezed = [_squeeze(unit.source) for unit in units]
    cut = 0

    for row in rng.sample(range(len(units)), len(units)):
        source, language = units[row].source, units[row].language
        offsets = tokenizer(source, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        # Whole units would be no fragments.
        if cut == count or len(offsets) < 1.2 * length:
            continue
        first = rng.randrange(len(offsets) - length + 1)
        text = source[offsets[first][0] : offsets[first + length - 1][1]]
        sources = [place for place, other in enumerate(squeezed) if _squeeze(text) in other]

        is_renamed = cut % 2 == 1
        if is_renamed:
            if language not in names:
                others = rng.sample([unit for unit in units if unit.language == language], 50)
                names[language] = sorted(
                    {name for unit in others for name in identifiers_of(unit.source, language)}
                )
            new = {name: rng.choice(names[language]) for name in identifiers_of(source, language)}
            text = "".join(new.get(part, part) for part in _WORDS.findall(text))
        cut += 1
        yield Fragment(length, is_renamed, text, sources)


def lexical_engines(units: Sequence[Entry], texts: Sequence[str]) -> dict[str, Callable[[int], np.ndarray]]:
    """Return what needs no model: name -> function from a fragment's position to the (units,) scores."""
    counter = TermCounter()
    terms = TermTable(*flatten_counts([counter.count(unit.text) for unit in units]))
    matches = [terms.match(text) for text in texts]

    signatures = np.stack([_signature(unit.source) for unit in tqdm(units, "MinHash")])
    table = ShapeTable.of_shapes([shape_of(unit.source, unit.language) for unit in units])
    languages = [unit.language for unit in units]
    structure = [shared_structure(table, languages, text) for text in texts]
    return {
        "BM25": lambda number: matches[number][0],
        "MinHash": lambda number: (signatures == _signature(texts[number])).mean(axis=1),
        "structure": lambda number: structure[number],
        "words": lambda number: matches[number][1],
    }


def _by_row(matrix: np.ndarray) -> Callable[[int], np.ndarray]:
    return lambda number: matrix[number]


def _sum(
    dense: Callable[[int], np.ndarray], structure: Callable[[int], np.ndarray], words: Callable[[int], np.ndarray]
) -> Callable[[int], np.ndarray]:
    def scores(number: int) -> np.ndarray:
        similarities = np.maximum(dense(number), 0)
        return DENSE * similarities + STRUCTURE * structure(number) + WORDS * words(number)

    return scores


def _signature(text: str) -> np.ndarray:
    signature = MinHash(num_perm=SIGNATURE, seed=1, hashfunc=int)
    signature.update_batch(hashed_ngrams(text).tolist())
    return signature.hashvalues


def mean_reciprocal_ranks(fragments: Sequence[Fragment], scores: Sequence[np.ndarray]) -> dict[str, float]:
    """Return the MRR of each length, as it is and renamed."""
    values = defaultdict(list)
    for fragment, row in zip(fragments, scores, strict=True):
        best = row[fragment.sources].max()
        ties = int((row == best).sum() - (row[fragment.sources] == best).sum())
        rank = 1 + int((row > best).sum()) + ties / 2
        values[f"{fragment.tokens}{' renamed' if fragment.is_renamed else ''}"].append(1 / rank)
    return {name: float(np.mean(ranks)) for name, ranks in values.items()}


def scores_above(fragments: Sequence[Fragment], scores: Sequence[np.ndarray]) -> dict[str, dict[str, float]]:
    """Return the share of sources, and of best units that are no source, with at least each score."""
    pairs = list(zip(fragments, scores, strict=True))
    sources = np.array([row[fragment.sources].max() for fragment, row in pairs])
    others = np.array([np.delete(row, fragment.sources).max() for fragment, row in pairs])
    return {
        f"{least:.2f}": {"sources": float((sources >= least).mean()), "others": float((others >= least).mean())}
        for least in LEAST_SCORES
    }


def _squeeze(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    sys.exit(Fragments().main())
