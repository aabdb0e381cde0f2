"""Changing snippets at random, so that a model does not find them by their words alone."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial

import torch

from mose.data.source.languages import keywords

_WORD = re.compile(r"[^\W\d]\w*")


def frequent_words(code: str, language: str = "") -> list[str]:
    """The words that a snippet has twice or more, keywords of its language aside; each once, in order."""
    counts = Counter(_WORD.findall(code))
    reserved = keywords(language)
    return [word for word, count in counts.items() if count > 1 and word not in reserved]


def replace_frequent_words(
    codes: Sequence[str], languages: Sequence[str], probability: float, generator: torch.Generator
) -> list[str]:
    """Replaces frequent words of snippets at random (paper, section 3: with probability 0.3).

    Each frequent word of a snippet is replaced with that probability: everywhere in the snippet, by one frequent
    word of the other snippets that the snippet itself does not hold. So names stay consistent, and what takes
    their place is what a name looks like. Keywords are neither replaced nor put in.

    Args:
        codes: Snippets of a batch.
        languages: Of each; one that is not known counts as all languages together.
        probability: For each frequent word.
        generator: Makes the choices; the same state makes the same ones.

    Returns:
        The snippets, in order; one in which nothing is frequent, or for which no other has words, as it was.
    """
    found = [frequent_words(code, language) for code, language in zip(codes, languages, strict=True)]
    pool = sorted({word for words in found for word in words})
    changed = []
    for code, language, words in zip(codes, languages, found, strict=True):
        draws = torch.rand(len(words), generator=generator).tolist()
        chosen = [word for word, draw in zip(words, draws, strict=True) if draw < probability]
        if chosen:
            taken = {*_WORD.findall(code), *keywords(language)}
            new = [word for word in pool if word not in taken]
            order = torch.randperm(len(new), generator=generator)[: len(chosen)].tolist()
            names = dict(zip(chosen, (new[at] for at in order), strict=False))
            code = _WORD.sub(partial(_renamed, names), code)
        changed.append(code)
    return changed


def _renamed(names: Mapping[str, str], match: re.Match[str]) -> str:
    return names.get(match[0], match[0])
