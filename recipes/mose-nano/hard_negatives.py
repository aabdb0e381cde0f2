"""Hard negatives of training pairs: what a teacher ranks high for a query, and well below its own document."""

from collections import defaultdict
from collections.abc import Sequence

import torch
from datasets import Dataset
from torch import Tensor
from tqdm import tqdm

#: Queries that are scored at once.
BLOCK = 1024


def choose_negatives(
    queries: Tensor,
    documents: Tensor,
    groups: Sequence[str],
    keys: Sequence[str],
    below: float = 0.95,
    among: int = 20,
    seed: int = 0,
) -> list[int]:
    """Return a hard negative of each pair: the row of another pair's document, or -1 if there is none.

    It is drawn among the documents of the pair's group that the teacher ranks highest for the query, below a
    share of the score of its own document. What scores higher may well be an answer, too.

    Args:
        queries: (pairs, dim), the teacher's vectors of unit norm.
        documents: (pairs, dim), alike.
        groups: the language of each document.
        keys: the text of each document. Equal texts are no negatives of each other.
        below: highest score of a negative, as a share of the own document's.
        among: how many of the highest are drawn from.
        seed: of the draws.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)

    generator = torch.Generator().manual_seed(seed)
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    identities = torch.tensor([numbers[key] for key in keys])
    chosen = torch.full((len(groups),), -1)

    with tqdm(total=len(groups), desc="hard negatives", unit="pair") as bar:
        for group in members.values():
            candidates = torch.tensor(group)
            for rows in candidates.split(BLOCK):
                scores = queries[rows] @ documents[candidates].T
                limits = below * (queries[rows] * documents[rows]).sum(1, keepdim=True)
                is_same = identities[rows, None] == identities[candidates]
                scores[(scores >= limits) | is_same] = -torch.inf

                # Noise chooses one of the highest; excluded documents stay last.
                best, places = scores.topk(min(among, len(candidates)))
                noise = torch.rand(best.shape, generator=generator)
                noise[best.isinf()] = -1
                draw = noise.argmax(1, keepdim=True)
                is_there = noise.gather(1, draw) >= 0
                picked = candidates[places.gather(1, draw)]
                chosen[rows] = torch.where(is_there, picked, -1).squeeze(1)
                bar.update(len(rows))
    return chosen.tolist()


def attach_negatives(pairs: Dataset, vectors: Tensor, share: float, seed: int, **options: float) -> Dataset:
    """Add a column `negative`, with a document for a share of the pairs and "" for the others.

    `pairs` name rows of `vectors` as `mose.training.finetuning.teacher.attach_teacher` leaves them. `options` are
    those of `choose_negatives`.
    """
    sides = (vectors[pairs[f"teacher_{side}"][:]] for side in ("query", "document"))
    documents = pairs["document"][:]
    chosen = choose_negatives(*sides, pairs["document_language"][:], documents, seed=seed, **options)

    draws = torch.rand(len(chosen), generator=torch.Generator().manual_seed(seed + 1)).tolist()
    negatives = [
        documents[row] if row >= 0 and draw < share else "" for row, draw in zip(chosen, draws, strict=True)
    ]
    return pairs.add_column("negative", negatives)
