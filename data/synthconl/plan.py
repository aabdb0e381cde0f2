"""Plan which code is translated into which language. A plan depends only on the source and the seed."""

import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm

from mose.data.source.mining import mine
from mose.data.source.near_duplicates import NearDuplicates
from mose.data.tables import check_column_mapping, load_table, match_columns, rename_columns
from mose.tokenization.prompts import LANGUAGES

#: The languages of SynthCoNL (paper, section 4).
TARGETS = ("go", "ruby", "javascript", "python", "cpp", "php", "c", "java")
COLUMNS = ("text", "code", "language")


@dataclass(frozen=True)
class Job:
    """One translation: the row of the source, and the target language."""

    row: int
    language_b: str


def load_source(
    source_trees: Sequence[str | Path] = (),
    dataset: str | Path | None = None,
    column_mapping: Mapping[str, str] | None = None,
    split: str = "train",
) -> Dataset:
    """Load pairs of text and code in known languages, from source trees or a dataset.

    Args:
        source_trees: folders to mine for documented functions.
        dataset: a Hub id, local file or folder with the columns `text`, `code`, `language`, and optionally
            `repository`.
        column_mapping: the dataset's names -> those above.
        split: the split to read of a dataset that has several.

    Returns:
        Rows of the strings `text`, `code`, `language` and `repository` ("" if unknown).

    Raises:
        ValueError: both or none of the sources are given, or the source cannot be read, lacks a column, or is
            empty.
    """
    if bool(source_trees) == bool(dataset):
        raise ValueError("You must specify exactly one of source trees or a dataset.")

    if source_trees:
        table, _ = mine(source_trees, TARGETS)
    else:
        table = load_table(str(dataset), split)
        mapping = column_mapping or {}
        check_column_mapping(mapping, (*COLUMNS, "repository"), [(str(dataset), table.column_names)])
        table = rename_columns(table, mapping)

    match_columns(str(dataset or "the source"), table, COLUMNS)
    if not len(table):
        raise ValueError("the source has no rows")
    if "repository" not in table.column_names:
        table = table.add_column("repository", [""] * len(table))
    return table.select_columns([*COLUMNS, "repository"])


def language_key(name: str) -> str:
    """Return the key in `LANGUAGES` of a language by its key or display name: "C++", "c++" and "cpp" are one."""
    display_names = {display_name.lower(): key for key, display_name in LANGUAGES.items()}
    folded = name.strip().lower()
    return folded if folded in LANGUAGES else display_names.get(folded, name)


def choose_jobs(source: Dataset, seed: int, counts: Counter[str], progress: bool = False) -> Iterator[Job]:
    """Yield the jobs of a source, in its order.

    Each source language cycles through the seven others, in a new random order each time, so that all targets are
    equally frequent. Rows that are blank, in another language, or near-duplicates of an earlier row's code
    (Jaccard 0.7, 256 permutations, character 5-grams) are skipped.

    `counts` is updated with the number of rows skipped for each reason.
    """
    unique = NearDuplicates()
    cycles: dict[str, list[str]] = defaultdict(list)
    # One generator for each language: a row does not change the targets of other languages.
    generators = {language: random.Random(f"{seed} {language}") for language in TARGETS}

    for row, example in enumerate(tqdm(source, desc="planning", unit=" rows", disable=not progress)):
        language = language_key(example["language"] or "")
        if not (example["text"] or "").strip() or not (example["code"] or "").strip():
            counts["source: empty text or code"] += 1
        elif language not in TARGETS:
            counts["source: other language"] += 1
        elif not unique.add(example["code"]):
            counts["source: near-duplicate"] += 1
        else:
            if not cycles[language]:
                cycles[language] = [target for target in TARGETS if target != language]
                generators[language].shuffle(cycles[language])
            yield Job(row, cycles[language].pop())


def digest_source(source: Dataset) -> str:
    """Return a digest of the source's rows, which identifies it when a build is resumed."""
    digest = hashlib.sha256()
    for example in source:
        for value in example.values():
            digest.update(f"{value}\0".encode(errors="surrogatepass"))
    return digest.hexdigest()[:32]
