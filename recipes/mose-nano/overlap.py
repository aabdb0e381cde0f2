"""Overlap of training texts with evaluation sets, up to near-duplicates."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from recipe_steps import evaluation_texts
from tqdm import tqdm

from mose.data.source.near_duplicates import NearDuplicates

#: Shortest text that is compared, in characters. Shorter ones, such as "Return the name.", are alike by chance.
LEAST_CHARACTERS = 60
#: The same for questions, which are short and seldom alike by chance.
LEAST_CHARACTERS_OF_QUESTION = 20
SIDES = ("query", "document")


def near_duplicates(
    texts: Iterable[str], sets: Sequence[Path], least_characters: int = LEAST_CHARACTERS
) -> dict[str, str]:
    """Return the texts that are near-duplicates of an evaluation text: text -> name of the first such set.

    Case and white space do not count: queries are often typed in lower case, and titles are not.

    Args:
        texts: what may be trained on.
        sets: folders of evaluation sets.
        least_characters: texts of either kind that are shorter are not compared.
    """
    known, names = NearDuplicates(), []
    for folder in sets:
        for text in map(_plain, evaluation_texts([folder])):
            if len(text) >= least_characters and known.add(text):
                names.append(folder.name)

    alike: dict[str, str] = {}
    for text in tqdm(dict.fromkeys(texts), "overlap", unit="text"):
        plain = _plain(text)
        if len(plain) >= least_characters and (place := known.find(plain)) is not None:
            alike[text] = names[place]
    return alike


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def leave_out_near_duplicates(pairs: Dataset, sets: Sequence[Path]) -> tuple[Dataset, dict[str, Any]]:
    """Return the pairs without those that have a near-duplicate of an evaluation text on a side, and a report.

    The report has `pairs`, `left_out`, and by evaluation set how many different texts of the pairs were alike.
    The teacher's texts are compared: they have the names that the student may not see.
    """
    columns = [pairs[f"teacher_{side}"][:] for side in SIDES]
    alike = near_duplicates((text for column in columns for text in column), sets)
    rows = zip(*columns, strict=True)
    clean = [row for row, both in enumerate(rows) if not any(text in alike for text in both)]
    return pairs.select(clean), overlap_report("pairs", len(pairs), len(clean), alike)


def leave_out_near_duplicate_questions(
    questions: Sequence[str], sets: Sequence[Path]
) -> tuple[list[str], dict[str, Any]]:
    """Return the questions that are no near-duplicate of an evaluation text, and a report with `questions`."""
    alike = near_duplicates(questions, sets, LEAST_CHARACTERS_OF_QUESTION)
    clean = [text for text in questions if text not in alike]
    return clean, overlap_report("questions", len(questions), len(clean), alike)


def overlap_report(unit: str, before: int, after: int, alike: Mapping[str, str]) -> dict[str, Any]:
    """Return what was read (`unit`: how many), what of it was left out, and how many different texts by set."""
    return {unit: before, "left_out": before - after, "texts": dict(Counter(alike.values()))}
