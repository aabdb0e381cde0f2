"""Questions as people ask them, each paired with the code that the teachers rank first for it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from datasets import Dataset
from recipe_steps import text_fingerprint
from torch import Tensor
from tqdm import tqdm

#: Questions that are scored at once.
BLOCK = 1024


def read_questions(files: Iterable[Path], excluded: set[str]) -> list[str]:
    """Return the lines of text files, each once, without those whose fingerprint is in `excluded`."""
    questions: dict[str, str] = {}
    for path in files:
        for line in path.read_text(encoding="utf-8").splitlines():
            questions.setdefault(text_fingerprint(line), " ".join(line.split()))
    return [text for fingerprint, text in questions.items() if fingerprint and fingerprint not in excluded]


def distinct_documents(pairs: Dataset) -> Dataset:
    """Return rows with every document that a teacher reads, once: what questions may be paired with.

    A function may be there with its documentation and without.
    """
    first = {text: row for row, text in reversed(list(enumerate(pairs["teacher_document"][:])))}
    pool = pairs.select(sorted(first.values()))
    # The student reads what the teacher reads: questions are about what code does, so its names stay.
    return pool.remove_columns("document").add_column("document", pool["teacher_document"][:])


def best_matches(questions: Tensor, documents: Tensor, share: float, repeats: int) -> list[tuple[int, int]]:
    """Return (question, document) of the best matches, the document being the one ranked first for the question.

    Args:
        questions: (questions, dim), the teachers' vectors of unit norm.
        documents: (documents, dim), alike.
        share: of the questions, those with the most similar documents; at least one.
        repeats: how often a document may be taken. Further questions that rank it first are left out.

    Raises:
        ValueError: the share is not in (0, 1], or `repeats` is below 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"questions: share must be in (0, 1], got {share}.")
    if repeats < 1:
        raise ValueError(f"questions: repeats must be at least 1, got {repeats}.")

    scores, places = [], []
    with tqdm(total=len(questions), desc="questions", unit="question") as bar:
        for block in questions.split(BLOCK):
            highest, places_of_block = (block @ documents.T).max(1)
            scores.append(highest)
            places += places_of_block.tolist()
            bar.update(len(block))

    order = torch.cat(scores).argsort(descending=True, stable=True).tolist()
    taken: Counter[int] = Counter()
    chosen = []
    for question in order[: max(1, round(share * len(order)))]:
        document = places[question]
        if taken[document] < repeats:
            taken[document] += 1
            chosen.append((question, document))
    return chosen


def question_rows(questions: Sequence[str], pool: Dataset, matches: Sequence[tuple[int, int]]) -> Dataset:
    """Return the pairs of `matches` as rows of kind `question`; `pool` is that of `distinct_documents`."""
    rows = pool.select([document for _, document in matches])
    texts = [questions[question] for question, _ in matches]
    columns = {"query": texts, "teacher_query": texts}
    columns |= {"kind": ["question"] * len(texts), "query_language": [""] * len(texts)}

    rows = rows.remove_columns(list(columns))
    for name, column in columns.items():
        rows = rows.add_column(name, column)
    return rows
