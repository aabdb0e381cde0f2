"""Augmentation of code snippets, so that a model cannot match them by their words alone."""

import re
from collections import Counter
from collections.abc import Sequence

import torch

from mose.data.source.languages import keywords

_WORD = re.compile(r"[^\W\d]\w*")


def frequent_words(code: str, language: str = "") -> list[str]:
    """Return the words that occur twice or more in a snippet, each once, in order, without keywords."""
    counts = Counter(_WORD.findall(code))
    reserved = keywords(language)
    return [word for word, count in counts.items() if count > 1 and word not in reserved]


def replace_frequent_words(
    codes: Sequence[str], languages: Sequence[str], probability: float, generator: torch.Generator
) -> list[str]:
    """Replace frequent words of snippets at random (paper, section 3: with probability 0.3).

    Each frequent word of a snippet is replaced with `probability`, everywhere in the snippet, by a frequent word
    of the other snippets that the snippet itself does not contain. Names stay consistent, and are replaced by
    what looks like a name. Keywords are neither replaced nor inserted.

    Args:
        codes: the snippets of a batch.
        languages: the language of each; an unknown one has the keywords of all languages.
        probability: of replacing a frequent word, in [0, 1].
        generator: source of the random choices.

    Returns:
        The snippets, in order. A snippet without frequent words, or without replacements for them, is unchanged.
    """
    frequent = [frequent_words(code, language) for code, language in zip(codes, languages, strict=True)]
    # Sorted, because the order of a set differs between processes.
    pool = sorted({word for words in frequent for word in words})

    augmented = []
    for code, language, words in zip(codes, languages, frequent, strict=True):
        draws = torch.rand(len(words), generator=generator).tolist()
        chosen = [word for word, draw in zip(words, draws, strict=True) if draw < probability]
        if chosen:
            excluded = {*_WORD.findall(code), *keywords(language)}
            candidates = [word for word in pool if word not in excluded]
            order = torch.randperm(len(candidates), generator=generator)[: len(chosen)].tolist()
            new_names = dict(zip(chosen, (candidates[index] for index in order), strict=False))
            code = _WORD.sub(lambda match, new_names=new_names: new_names.get(match[0], match[0]), code)
        augmented.append(code)

    return augmented
