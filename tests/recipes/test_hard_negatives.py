"""Hard negatives: high for the query, below the own document, of the same language, and another text."""

import torch
from datasets import Dataset
from hard_negatives import attach_negatives, choose_negatives


def unit_vectors(rows: int, dim: int = 16) -> torch.Tensor:
    vectors = torch.randn(rows, dim, generator=torch.Generator().manual_seed(rows))
    return torch.nn.functional.normalize(vectors, dim=1)


def test_negatives_are_the_highest_that_may_be_drawn():
    queries, documents = unit_vectors(300), unit_vectors(301)[:300]
    groups = ["go" if row % 3 else "c" for row in range(300)]
    keys = [f"document {row // 2}" for row in range(300)]
    chosen = choose_negatives(queries, documents, groups, keys, below=0.9, among=5)

    scores = (queries @ documents.T).tolist()
    drawn = 0
    for row, negative in enumerate(chosen):
        allowed = [
            other
            for other in range(300)
            if groups[other] == groups[row]
            and keys[other] != keys[row]
            and scores[row][other] < 0.9 * scores[row][row]
        ]
        best = sorted(allowed, key=lambda other: -scores[row][other])[:5]
        assert negative in best if best else negative == -1
        drawn += bool(best) and negative != best[0]
    assert drawn > 100  # not always the highest
    assert chosen == choose_negatives(queries, documents, groups, keys, below=0.9, among=5)


def test_a_share_of_the_pairs_gets_the_text_of_a_negative():
    vectors = unit_vectors(80)
    rows = {"document": [f"d{row}" for row in range(40)], "document_language": ["c"] * 40}
    rows |= {"teacher_query": list(range(40)), "teacher_document": list(range(40, 80))}
    pairs = attach_negatives(Dataset.from_dict(rows), vectors, share=0.5, seed=1, below=2.0, among=3)
    given = [(row["document"], row["negative"]) for row in pairs if row["negative"]]
    assert 8 < len(given) < 32 and all(
        own != negative and negative in rows["document"] for own, negative in given
    )
