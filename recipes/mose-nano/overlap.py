"""Overlap of training pairs with evaluation sets, up to near-duplicates."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from recipe_steps import evaluation_texts
from tqdm import tqdm

from mose.data.source.near_duplicates import NearDuplicates

#: Shortest text that is compared, in characters. Shorter ones, such as "Return the name.", are alike by chance.
LEAST_CHARACTERS = 60
#: The same among questions, which are short and seldom alike by chance.
LEAST_CHARACTERS_OF_QUESTION = 20
SIDES = ("query", "document")


def leave_out_near_duplicates(
    pairs: Dataset, sets: Sequence[Path], least_characters: int = LEAST_CHARACTERS
) -> tuple[Dataset, dict[str, Any]]:
    """Return the pairs without those that have a near-duplicate of an evaluation text on a side, and a report.

    The report has `pairs`, `left_out`, and by evaluation set how many different texts of the pairs were alike.
    The teacher's texts are compared: they have the names that the student may not see.
    """
    known, names = NearDuplicates(), []
    for folder in sets:
        for text in evaluation_texts([folder]):
            if len(text) >= least_characters and known.add(text):
                names.append(folder.name)

    alike: dict[str, str] = {}
    texts = _distinct_texts(pairs)
    for text in tqdm(texts, "overlap", unit="text"):
        if len(text) >= least_characters and (place := known.find(text)) is not None:
            alike[text] = names[place]

    columns = zip(*(pairs[f"teacher_{side}"][:] for side in SIDES), strict=True)
    clean = [row for row, both in enumerate(columns) if not any(text in alike for text in both)]
    report = {"pairs": len(pairs), "left_out": len(pairs) - len(clean), "texts": dict(Counter(alike.values()))}
    return pairs.select(clean), report


def _distinct_texts(pairs: Dataset) -> Iterable[str]:
    return dict.fromkeys(text for side in SIDES for text in pairs[f"teacher_{side}"][:])
