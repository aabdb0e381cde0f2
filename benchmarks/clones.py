"""Measure which threshold of `mose search clones` finds edited copies and leaves other code alone.

    python benchmarks/clones.py FOLDER

FOLDER holds labelled repositories (`docs/search.md`). Of functions from it, four copies each are made: with other
names, with lines left out, with lines of another function put in, and with all of that. A threshold is good if it
finds these, and if it calls few pairs of functions from different repositories alike: those are hardly copies.
"""

import argparse
import itertools
import random
import re
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.data.source.anonymization import identifiers_of
from mose.search.clones import MIN_CLONE_TOKENS, find_clones
from mose.search.evaluation.dataset import read_labelled_repositories, write_tree
from mose.search.records import Entry
from mose.search.tree import read_whole_tree

THRESHOLDS = (0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9)
#: Share of the lines that are left out or put in, and of the identifiers that get other names.
LINES, NAMES = 0.15, 0.5
_WORD = re.compile(r"[^\W\d]\w*")


class Clones(Benchmark):
    """Share of copies that are found, and pairs across repositories, by threshold."""

    description = "Edited copies found and other pairs called alike, by the threshold of clones."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add what is read, and how much of it is copied."""
        parser.add_argument("folder", type=Path, metavar="FOLDER", help="labelled repositories")
        command.add_count(parser, "--functions", 400, "functions to copy")
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all random choices (default: 0)")

    def measure(self, options: argparse.Namespace) -> Report:
        """Return the figures of each threshold."""
        data = read_labelled_repositories(options.folder)
        units: list[Entry] = []
        with tempfile.TemporaryDirectory() as temporary:
            for name in data.repositories:
                write_tree(data.contents[name], Path(temporary, name))
                units += [
                    unit._replace(root=name)
                    for unit in read_whole_tree(Path(temporary, name))[0]
                    if unit.kind in ("function", "method")
                ]

        rng = random.Random(options.seed)
        long = [unit for unit in units if len(_WORD.findall(unit.source)) >= MIN_CLONE_TOKENS]
        copied = rng.sample(long, min(options.functions, len(long)))
        copies = {kind: [edit(unit, kind, long, rng) for unit in copied] for kind in KINDS_OF_COPIES}

        rows: dict[str, dict[str, float]] = {}
        for threshold in tqdm(THRESHOLDS, desc="thresholds", disable=None):
            row = {kind: found_copies(copied, copies[kind], threshold) for kind in KINDS_OF_COPIES}
            rows[f"{threshold:g}"] = row | {"across": pairs_across(units, threshold)}
        return {"functions": len(units), "copied": len(copied), "thresholds": rows}

    def render(self, report: Report) -> str:
        """Return a row for each threshold."""
        columns = {kind: (kind, ".1%") for kind in KINDS_OF_COPIES} | {"pairs across": ("across", ",.0f")}
        head = "{functions:,} functions, {copied:,} of them copied".format_map(report)
        return f"{head}\n" + command.figures_table("threshold", report["thresholds"], columns)


#: Kind of copy -> whether its names change, lines are left out, and lines are put in.
KINDS_OF_COPIES: Mapping[str, tuple[bool, bool, bool]] = {
    "renamed": (True, False, False),
    "lines left out": (False, True, False),
    "lines put in": (False, False, True),
    "all three": (True, True, True),
}


def edit(unit: Entry, kind: str, others: Sequence[Entry], rng: random.Random) -> Entry:
    """Return an edited copy of a unit, in a file of its own."""
    renames, omits, inserts = KINDS_OF_COPIES[kind]
    lines = unit.source.split("\n")
    if omits:
        lines = [line for number, line in enumerate(lines) if not number or rng.random() > LINES]
    if inserts:
        other = rng.choice([one for one in others if one.language == unit.language])
        for line in rng.choices(other.source.split("\n"), k=max(1, round(LINES * len(lines)))):
            lines.insert(rng.randint(1, len(lines)), line)

    source = "\n".join(lines)
    if renames:
        names = sorted(identifiers_of(source, unit.language))
        changed = set(rng.sample(names, round(NAMES * len(names))))
        source = _WORD.sub(lambda match: f"{match[0][::-1]}_" if match[0] in changed else match[0], source)
    return unit._replace(path=f"copies/{unit.path}", source=source)


def found_copies(originals: Sequence[Entry], copies: Sequence[Entry], threshold: float) -> float:
    """Return the share of copies that are in a group with their original, each compared on its own."""
    pairs = zip(originals, copies, strict=True)
    return sum(bool(find_clones([*pair], threshold=threshold, min_tokens=1)) for pair in pairs) / len(originals)


def pairs_across(units: Sequence[Entry], threshold: float) -> int:
    """Return the number of pairs of functions from different repositories in the same group."""
    counts: dict[str, int] = defaultdict(int)
    for group in find_clones(
        [unit._replace(path=f"{unit.root}/{unit.path}") for unit in units], threshold=threshold
    ):
        for one, other in itertools.combinations(group.units, 2):
            counts[one.language] += one.root != other.root
    return sum(counts.values())


if __name__ == "__main__":
    sys.exit(Clones().main())
