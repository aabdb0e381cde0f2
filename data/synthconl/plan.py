"""What is to be translated into what: decided before the model runs, and the same whenever it is decided."""

import hashlib
import logging
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm

from mose.data.source.mining import mine
from mose.data.source.near_duplicates import NearDuplicates
from mose.data.tables import load_table
from mose.tokenization.prompts import LANGUAGES

logger = logging.getLogger(__name__)

#: The languages of SynthCoNL (paper, section 4).
TARGETS = ("go", "ruby", "javascript", "python", "cpp", "php", "c", "java")
COLUMNS = ("text", "code", "language")


@dataclass(frozen=True)
class Job:
    """One translation: the row of the source, and the language wanted."""

    row: int
    language_b: str


def load_source(
    source_trees: Sequence[str | Path] = (),
    dataset: str | Path | None = None,
    column_mapping: Mapping[str, str] | None = None,
    split: str = "train",
) -> Dataset:
    """Pairs of text and code whose languages are known.

    Args:
        source_trees: Folders to mine for documented functions.
        dataset: A Hub id, local file or folder with the columns `text`, `code` and `language`, and `repository`
            where it knows it.
        column_mapping: From the dataset's names to those.
        split: What to read of a dataset that has several.

    Returns:
        Rows of the strings `text`, `code`, `language` and `repository`.

    Raises:
        ValueError: Not one source was given, it can't be read, lacks a column, or is empty.
    """
    if bool(source_trees) == bool(dataset):
        raise ValueError("give either source trees or a dataset")
    if source_trees:
        table, _ = mine(source_trees, TARGETS)
    else:
        table = load_table(str(dataset), split)
        for old, new in (column_mapping or {}).items():
            if old not in table.column_names:
                raise ValueError(f"column_mapping names {old!r}; {dataset} has {', '.join(table.column_names)}")
            if new not in (*COLUMNS, "repository"):
                raise ValueError(
                    f"column_mapping gives {new!r}: the names known are {', '.join(COLUMNS)}, repository"
                )
            if new in table.column_names and new != old:
                table = table.remove_columns(new)
            table = table.rename_column(old, new)
    if missing := [name for name in COLUMNS if name not in table.column_names]:
        raise ValueError(
            f"{dataset} has the columns {', '.join(table.column_names)}; it lacks {', '.join(missing)}"
        )
    if "repository" not in table.column_names:
        table = table.add_column("repository", [""] * len(table))
    if not len(table):
        raise ValueError("the source has no rows")
    return table.select_columns([*COLUMNS, "repository"])


def language_key(name: str) -> str:
    """The key in `LANGUAGES` of a language by its key or display name ("C++", "c++" and "cpp" are one)."""
    names = {shown.lower(): key for key, shown in LANGUAGES.items()} | {key: key for key in LANGUAGES}
    return names.get(name.strip().lower(), name)


def choose(source: Dataset, seed: int, counts: Counter[str], progress: bool = False) -> Iterator[Job]:
    """The jobs of a source, in its order.

    Each source language goes round the seven others in an order that is drawn anew each time, so that every
    target comes equally often. Rows that are blank, in another language, or near-duplicates of an earlier row's
    code (Jaccard 0.7, 256 permutations, character 5-grams) are left out before anything is spent on them.

    Args:
        source: As `load_source` gives it.
        seed: Of the languages.
        counts: Takes up how many rows were skipped for which reason.
    """
    seen = NearDuplicates()
    turns: dict[str, list[str]] = defaultdict(list)
    generators = {language: random.Random(f"{seed} {language}") for language in TARGETS}
    bar = tqdm(source, desc="planning", unit=" rows", disable=not progress)
    for row, example in enumerate(bar):
        language = language_key(example["language"] or "")
        if not (example["text"] or "").strip() or not (example["code"] or "").strip():
            counts["source: empty text or code"] += 1
        elif language not in TARGETS:
            counts["source: other language"] += 1
        elif not seen.add(example["code"]):
            counts["source: near-duplicate"] += 1
        else:
            if not turns[language]:
                turns[language] = [target for target in TARGETS if target != language]
                generators[language].shuffle(turns[language])
            yield Job(row, turns[language].pop())


def fingerprint(source: Dataset) -> str:
    """A digest of the source's texts and code, by which a build knows it again."""
    digest = hashlib.sha256()
    for example in source:
        for value in example.values():
            digest.update(f"{value}\0".encode(errors="surrogatepass"))
    return digest.hexdigest()[:32]
