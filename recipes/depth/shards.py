#!/usr/bin/env python
"""Make the shards that pre-training reads of the files of `fetch.py`, without what evaluation sets hold.

    python recipes/depth/shards.py runs/depth/corpus --evaluation SET … --output-dir runs/depth/shards \
      --report runs/depth/corpus.json

Left out are files of excluded projects (sources.yaml), files that repeat an earlier one but for white space, and
files that share text with an evaluation set: at least 8 of its runs of 24 tokens. Up to 16 files of one
repository lie one behind the other (a parcel); the parcels are shuffled. A SET is a file of JSON lines with
`text`, `content` or `query`, or a folder of such files. The shards appear together at the end, in a new folder.
"""

import argparse
import hashlib
import json
import random
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fetch import excluded_project, read_list
from tqdm import tqdm

from mose.data.pretraining.sources import PARCEL_FILES
from mose.utils.command_line import ArgumentError, exit_status, positive_int
from mose.utils.files import atomic_folder, atomic_write_json, check_new_folder

sys.path.append(str(Path(__file__).parents[1]))
from recipe_steps import evaluation_texts  # noqa: E402

#: Tokens (words and numbers, without case) of a run, and the runs that a file may share with no evaluation text.
#: One run of 24 is often a licence's line; eight are 31 tokens in a row, or several passages.
RUN_TOKENS, SHARED_RUNS = 24, 8
_TOKEN = re.compile(r"\w+")
_MULTIPLIER = np.uint64(6364136223846793005)
SHARED = "shares text with an evaluation set"


@dataclass
class Selection:
    """The part of a corpus that is kept.

    Attributes:
        parcels: file of a package, and the offsets in bytes of its lines that lie one behind the other.
        repositories: names of those with a file that is kept.
        left_out: reason -> files.
        files: language -> files that are kept.
        characters: language -> their characters.
    """

    parcels: list[tuple[Path, list[int]]] = field(default_factory=list)
    repositories: set[str] = field(default_factory=set)
    left_out: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    characters: Counter[str] = field(default_factory=Counter)


def token_runs(text: str) -> np.ndarray:
    """Return a hash of each run of 24 tokens of a text: (tokens - 23,) uint64, empty for a shorter text."""
    tokens = np.array([zlib.crc32(word.encode()) for word in _TOKEN.findall(text.lower())], np.uint64)
    count = max(len(tokens) - RUN_TOKENS + 1, 0)
    hashes = np.zeros(count, np.uint64)
    for offset in range(RUN_TOKENS if count else 0):
        hashes = (hashes + tokens[offset : offset + count]) * _MULTIPLIER
        # The low bits of a product depend on the low bits alone.
        hashes ^= hashes >> np.uint64(29)
    return hashes


def evaluation_runs(paths: Iterable[Path]) -> tuple[np.ndarray, int]:
    """Return the distinct runs of evaluation sets, sorted, (runs,) uint64, and how many texts have none."""
    runs = [token_runs(text) for text in tqdm(evaluation_texts(paths), unit="evaluation text")]
    empty = np.zeros(0, np.uint64)
    return np.unique(np.concatenate([empty, *runs])), sum(not len(part) for part in runs)


def shared_runs(text: str, evaluation: np.ndarray) -> int:
    """Return how many of a text's runs are among those of `evaluation`, sorted, (runs,) uint64."""
    runs = token_runs(text)
    if not len(evaluation):
        return 0
    places = np.searchsorted(evaluation, runs).clip(max=len(evaluation) - 1)
    return int((evaluation[places] == runs).sum())


def select_rows(files: Sequence[Path], evaluation: np.ndarray, excluded: Mapping[str, str]) -> Selection:
    """Return the parcels of the files to keep, in the order of `files`, and counts."""
    selection, seen = Selection(), set()
    for path in tqdm(files, unit="package"):
        places: list[tuple[str, int]] = []
        for offset, row in json_lines(path):
            text, language = row["text"], row["language"]
            fingerprint = hashlib.sha1(" ".join(text.split()).encode()).digest()
            if excluded_project(row["repository"].partition("/")[2], excluded):
                selection.left_out["excluded repository"] += 1
            elif fingerprint in seen:
                selection.left_out["duplicate"] += 1
            elif shared_runs(text, evaluation) >= SHARED_RUNS:
                selection.left_out[SHARED] += 1
                seen.add(fingerprint)
            else:
                seen.add(fingerprint)
                places.append((language, offset))
                selection.repositories.add(row["repository"])
                selection.files[language] += 1
                selection.characters[language] += len(text)

        # One language behind the other, so that the snippets of a parcel are mostly of one.
        offsets = [offset for _, offset in sorted(places, key=lambda place: place[0])]
        parcels = [offsets[i : i + PARCEL_FILES] for i in range(0, len(offsets), PARCEL_FILES)]
        selection.parcels += [(path, parcel) for parcel in parcels]
    return selection


def json_lines(path: Path) -> Iterator[tuple[int, dict]]:
    """Yield the rows of a file of JSON lines, each after its offset in bytes.

    Raises:
        ValueError: a line is no row of `fetch.py`.
    """
    with path.open("rb") as lines:
        offset = 0
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                row["text"], row["repository"], row["language"]
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(
                    f"{path}, line {number}: no row of fetch.py. Fetch this package again."
                ) from error
            yield offset, row
            offset += len(line)


def write_corpus_shards(parcels: list[tuple[Path, list[int]]], folder: Path, count: int, seed: int) -> None:
    """Write the parcels to `count` shards in turn, shuffled by `seed`."""
    order = list(parcels)
    random.Random(seed).shuffle(order)
    with ExitStack() as stack:
        shards = [stack.enter_context((folder / f"shard-{i:02d}.jsonl").open("wb")) for i in range(count)]
        for number, (path, offsets) in enumerate(tqdm(order, unit="parcel")):
            with path.open("rb") as lines:
                for offset in offsets:
                    lines.seek(offset)
                    shards[number % count].write(lines.readline())


def make_shards(options: argparse.Namespace) -> None:
    """Write the shards and their report.

    Raises:
        ArgumentError: there is no file of a package, no evaluation text, or the report exists.
        FileExistsError: the output folder is not new.
    """
    check_new_folder(options.output_dir)
    if options.report.exists():
        raise ArgumentError(f"{options.report} exists. Name another --report.")
    files = sorted(options.corpus.glob("*.jsonl"))
    if not files:
        raise ArgumentError(f"{options.corpus} has no .jsonl file. Run fetch.py first.")

    evaluation, short = evaluation_runs(options.evaluation)
    selection = select_rows(files, evaluation, read_list()["excluded"])
    if not selection.parcels:
        raise ArgumentError(f"no file of {options.corpus} is left: {dict(selection.left_out)}.")

    with atomic_folder(options.output_dir) as folder:
        write_corpus_shards(selection.parcels, folder, options.shards, options.seed)

    report = {
        "repositories": len(selection.repositories),
        "kept": selection.files.total(),
        "left_out": dict(selection.left_out.most_common()),
        "evaluation": {"runs": len(evaluation), "texts_shorter_than_a_run": short},
        "files": dict(selection.files.most_common()),
        "characters": dict(selection.characters.most_common()),
    }
    atomic_write_json(options.report, report)
    print(json.dumps(report, indent=2))


def main() -> int:
    """Parse the arguments, make the shards and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("corpus", type=Path, help="folder of fetch.py")
    add("--evaluation", type=Path, nargs="+", required=True, metavar="SET", help="sets to keep out of training")
    add("--output-dir", type=Path, required=True, help="new folder for the shards")
    add("--report", type=Path, required=True, help="new JSON file for the counts")
    add("--shards", type=positive_int, default=32, help="number of shards")
    add("--seed", type=int, default=16, help="seed of the order of the parcels")
    options = parser.parse_args()
    return exit_status(parser.prog, lambda: make_shards(options))


if __name__ == "__main__":
    sys.exit(main())
