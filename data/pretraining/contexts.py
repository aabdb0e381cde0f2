"""Blocks of source files to pre-training examples: In-Context Classification, next-sentence prediction, neither.

The paper's ICC (section 3) joins snippets by `<sep>`, closes them by `<cls>`, takes intruders from other
repositories with probability 0.5, and asks whether all are from one. Here an intruder takes the place of a
snippet of exactly its length, and everything that shows from outside (number of snippets, lengths, order,
places) is drawn before the coin is tossed, by another generator: it is independent of the label, so that only
content tells.
"""

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

OBJECTIVES = ("icc", "nsp", "none")
SPECIAL_TOKENS = ("pad", "sep", "cls", "mask")
#: Fewest tokens of a snippet, where the context has room for several of such.
MIN_SNIPPET_TOKENS = 32
#: A file longer than this share of the longest snippet is cut into snippets of one size, drawn between both.
SMALLEST_CUT = 0.25
_TEXTS_AT_ONCE = 64
#: More characters than a token has in any run of source code, on average.
_MANY_CHARACTERS = 8
_OPEN_CONTEXTS = 8

#: A snippet: number of the file in its block, first token, number of tokens.
Snippet = tuple[int, int, int]


@dataclass
class Layout:
    """What an example is made of before labels are drawn.

    Attributes:
        group: The file whose example it is; of a repository (icc), the first in its block.
        snippets: In their order.
        candidates: The places among them that an intruder could take.
    """

    group: int
    snippets: list[Snippet]
    candidates: list[int]


@dataclass
class ContextBuilder:
    """Turns a block of files into examples, by a seed alone.

    - "icc": `<sep> a <sep> b … <cls>`, two or more snippets of one repository, filled towards `max_length`. With
      probability 0.5 between one and half of them are replaced by snippets of other repositories in the block.
    - "nsp": `<sep> a <sep> b <cls>`, where b continues a; with probability 0.5 it is replaced by the continuation
      of another file (Devlin et al., arXiv 1810.04805, section 3.1).
    - "none": `<sep> a <cls>`, one snippet.

    Files longer than a snippet give several, until they are used up; ends of less than `min_snippet` tokens are
    left out. A file of more than `file_tokens` gives a run of so many, from a place drawn anew in each pass: else
    few long files would fill a short run.

    Attributes:
        tokenizer: A fast tokenizer with the special tokens pad, sep, cls and mask.
        max_length: Most tokens of an example, special tokens included.
        objective: "icc", "nsp" or "none".
        min_snippet: Fewest tokens of a snippet; by default 32, or less where `max_length` is short.
        file_tokens: Most tokens of one file in one pass, by default 4 × `max_length`.
        counts: How many `examples` were planned and how many `tokens` read, and what was left out: `snippets
            alone` in their repository, `layouts without intruder` (no other repository could have given one).

    Raises:
        ValueError: An argument is none of those allowed, the tokenizer lacks a token, or `max_length` is too
            short.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    objective: str = "icc"
    min_snippet: int | None = None
    file_tokens: int | None = None
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"context objective {self.objective!r}: there are {', '.join(OBJECTIVES)}")
        if not self.tokenizer.is_fast:
            raise ValueError(f"{type(self.tokenizer).__name__} is not a fast tokenizer")
        if missing := [name for name in SPECIAL_TOKENS if getattr(self.tokenizer, f"{name}_token_id") is None]:
            raise ValueError(f"the tokenizer has no {' and no '.join(missing)} token")
        snippets = 1 if self.objective == "none" else 2
        shortest = 2 * snippets + 1  # of one token each, with a <sep> before it and <cls> at the end
        if self.max_length < shortest:
            raise ValueError(
                f"max_length={self.max_length}: {snippets} snippets of one token take {shortest} with their "
                f"special tokens (context objective {self.objective!r})"
            )
        #: Longest snippet: two of them fill the context, or one where there is no context objective.
        self.longest = (self.max_length - 1) // snippets - 1
        if self.min_snippet is None:
            self.min_snippet = min(MIN_SNIPPET_TOKENS, max(1, self.longest // 2))
        elif not 1 <= self.min_snippet <= self.longest:
            raise ValueError(
                f"min_snippet={self.min_snippet}: must be from 1 to {self.longest}, the longest snippet"
            )
        if self.file_tokens is None:
            self.file_tokens = 4 * self.max_length
        elif self.file_tokens < self.max_length:
            raise ValueError(f"file_tokens={self.file_tokens}: must be at least max_length={self.max_length}")
        #: The lengths that a snippet can have where it may be replaced: few, so that there are others as long.
        self.sizes = sorted(
            size
            for size in {size for i in range(32) for size in (self.longest >> i, 3 * self.longest >> i + 2)}
            if size >= self.min_snippet
        )
        #: Fewest tokens of a snippet, in effect.
        self.shortest = self.min_snippet if self.objective == "none" else self.sizes[0]

    def __call__(self, rows: Sequence[Mapping[str, str]], seed: Sequence[int]) -> "BlockExamples":
        """Plans the examples of a block.

        Args:
            rows: Files, `text`, `repository` and `language`, those of a repository together.
            seed: Of the layouts and labels.
        """
        layout_rng, label_rng = (np.random.default_rng([*seed, purpose]) for purpose in range(2))
        # Of a very long text most would be tokenized in vain.
        texts = [_run(row["text"], _MANY_CHARACTERS * int(self.file_tokens or 0), layout_rng) for row in rows]
        tokens = [_run(ids, int(self.file_tokens or 0), layout_rng) for ids in tokenize(self.tokenizer, texts)]
        self.counts["tokens"] += sum(map(len, tokens))
        if self.objective == "icc":
            layouts = self._contexts([row["repository"] for row in rows], tokens, layout_rng)
        elif self.objective == "nsp":
            layouts = self._continuations(tokens, layout_rng)
        else:
            layouts = [
                Layout(file, [snippet], [])
                for file, ids in enumerate(tokens)
                for snippet in self._cut(file, len(ids), self.longest)
            ]
        layout_rng.shuffle(layouts)
        labels: list[int | None] = [None] * len(layouts)
        if self.objective != "none":
            layouts, labels = self._labelled(layouts, label_rng)
        self.counts["examples"] += len(layouts)
        return BlockExamples(self.tokenizer, rows, tokens, layouts, labels)

    def _cut(self, file: int, tokens: int, size: int) -> Iterator[Snippet]:
        """Snippets of `size` tokens and what remains: whole without a context objective, else of a size."""
        at = 0
        while (left := tokens - at) >= self.shortest:
            if left >= size:
                length = size
            else:
                length = left if self.objective == "none" else self.sizes[bisect_right(self.sizes, left) - 1]
            yield file, at, length
            at += length

    def _drawn_size(self, rng: np.random.Generator, longest: int) -> int:
        """How long the snippets of a long file are."""
        sizes = self.sizes[: bisect_right(self.sizes, longest)]
        large = [size for size in sizes if size >= SMALLEST_CUT * sizes[-1]]
        return large[rng.integers(len(large))]

    def _contexts(
        self, repositories: Sequence[str], tokens: Sequence[np.ndarray], rng: np.random.Generator
    ) -> list[Layout]:
        files: dict[str, list[int]] = defaultdict(list)
        for file, repository in enumerate(repositories):
            if len(tokens[file]) >= self.shortest:
                files[repository].append(file)
        # A snippet can only be replaced where another repository has one as long: cut to that.
        longest = {repository: max(len(tokens[file]) for file in own) for repository, own in files.items()}
        ranked = sorted(longest, key=lambda repository: -longest[repository])
        layouts = []
        for repository, own in files.items():
            others = [longest[other] for other in ranked[:2] if other != repository]
            if not others:
                self.counts["layouts without intruder"] += 1
                continue
            limit = min(self.longest, others[0])
            snippets = [
                snippet
                for file in own
                for snippet in self._cut(file, len(tokens[file]), self._drawn_size(rng, limit))
            ]
            for packed in self._packed(snippets, rng):
                layouts.append(Layout(own[0], packed, list(range(len(packed)))))
        return layouts

    def _packed(self, snippets: list[Snippet], rng: np.random.Generator) -> list[list[Snippet]]:
        """Snippets of one repository in contexts of two or more: first fit, among the last few contexts."""
        rng.shuffle(snippets)
        contexts: list[list[Snippet]] = []
        room: list[int] = []
        for snippet in snippets:
            cost = snippet[2] + 1
            for at in range(max(0, len(contexts) - _OPEN_CONTEXTS), len(contexts)):
                if cost <= room[at]:
                    contexts[at].append(snippet)
                    room[at] -= cost
                    break
            else:
                contexts.append([snippet])
                room.append(self.max_length - 1 - cost)
        for context in [context for context in contexts if len(context) == 1]:
            file, start, length = context[0]
            donor = next((other for other in contexts if len(other) > 2), None)
            if length // 2 >= self.shortest:  # half of a size is a size
                context[:] = [(file, start, length // 2), (file, start + length // 2, length // 2)]
            elif donor is not None:
                context.append(donor.pop())  # two snippets always fit
            else:
                contexts.remove(context)
                self.counts["snippets alone"] += 1
        for context in contexts:
            rng.shuffle(context)
        return contexts

    def _continuations(self, tokens: Sequence[np.ndarray], rng: np.random.Generator) -> list[Layout]:
        layouts = []
        for file, ids in enumerate(tokens):
            if len(ids) < 2 * self.shortest:
                continue
            size = self._drawn_size(rng, min(self.longest, len(ids) // 2))
            snippets = list(self._cut(file, len(ids), size))
            for first, second in zip(snippets[::2], snippets[1::2], strict=False):
                layouts.append(Layout(file, [first, second], [1]))
        return layouts

    def _labelled(self, layouts: list[Layout], rng: np.random.Generator) -> tuple[list[Layout], list[int | None]]:
        """Tosses the coin for every layout that could have an intruder in any candidate place."""
        pool = _Pool(layouts)
        kept: list[Layout] = []
        labels: list[int | None] = []
        for layout in layouts:
            lengths = [layout.snippets[place][2] for place in layout.candidates]
            if not all(pool.has(length, layout.group) for length in lengths):
                self.counts["layouts without intruder"] += 1
                continue
            # What follows depends on the layout alone up to the coin, which depends on nothing.
            number = 1 + rng.integers(max(1, len(layout.candidates) // 2))
            places = rng.permutation(layout.candidates)[:number]
            same = rng.random() < 0.5
            if not same:
                snippets = list(layout.snippets)
                for place in places:
                    snippets[place] = pool.draw(snippets[place][2], layout.group, rng)
                layout = Layout(layout.group, snippets, layout.candidates)
            kept.append(layout)
            labels.append(int(same))
        return kept, labels


class _Pool:
    """The snippets that can take another's place: all those in candidate places."""

    def __init__(self, layouts: Sequence[Layout]):
        self._of_length: dict[int, list[tuple[int, Snippet]]] = defaultdict(list)
        for layout in layouts:
            for place in layout.candidates:
                snippet = layout.snippets[place]
                self._of_length[snippet[2]].append((layout.group, snippet))
        self._lengths = sorted(self._of_length)
        #: For each length, groups that have snippets of it, as many as two.
        self._groups = {
            length: list(dict.fromkeys(group for group, _ in snippets))
            for length, snippets in self._of_length.items()
        }

    def _long_enough(self, length: int, group: int) -> int | None:
        """The least length from `length` on of which another group has a snippet."""
        for other in self._lengths[bisect_right(self._lengths, length - 1) :]:
            if any(found != group for found in self._groups[other][:2]):
                return other
        return None

    def has(self, length: int, group: int) -> bool:
        """Whether another group can give a snippet of a length."""
        return self._long_enough(length, group) is not None

    def draw(self, length: int, group: int, rng: np.random.Generator) -> Snippet:
        """One of those, cut to the length where there is none that has it."""
        source = self._long_enough(length, group)
        assert source is not None
        snippets = self._of_length[source]
        for _ in range(32):
            found, snippet = snippets[rng.integers(len(snippets))]
            if found != group:
                break
        else:  # nearly all are of this group
            others = [snippet for found, snippet in snippets if found != group]
            snippet = others[rng.integers(len(others))]
        return snippet[0], snippet[1], length


class BlockExamples(Sequence[dict]):
    """The examples of a block, each put together when it is asked for.

    An example holds `input_ids` (a list), `context_label` (1: all of one repository, or a true continuation;
    0: not; absent without a context objective), `language` and `repository` (intruders aside).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        rows: Sequence[Mapping[str, str]],
        tokens: Sequence[np.ndarray],
        layouts: Sequence[Layout],
        labels: Sequence[int | None],
    ):
        self._sep, self._cls = tokenizer.sep_token_id, tokenizer.cls_token_id
        self._of_file = [(row["language"], row["repository"]) for row in rows]
        self._tokens, self._layouts, self._labels = tokens, layouts, labels

    def __len__(self) -> int:
        return len(self._layouts)

    def __getitem__(self, at):
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        layout, label = self._layouts[at], self._labels[at]
        ids: list[int] = []
        for file, start, length in layout.snippets:
            ids.append(self._sep)
            ids += self._tokens[file][start : start + length].tolist()
        ids.append(self._cls)
        language, repository = self._of_file[layout.group]
        example = {"input_ids": ids, "language": language, "repository": repository}
        return example if label is None else {**example, "context_label": label}


def _run(sequence: Any, longest: int, rng: np.random.Generator) -> Any:
    """The whole, or so much of it from somewhere."""
    if len(sequence) <= longest:
        return sequence
    start = int(rng.integers(len(sequence) - longest + 1))
    return sequence[start : start + longest]


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[np.ndarray]:
    """Token ids of texts, without special tokens: "<mask>" in a source file is text like any other."""
    tokens = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        encoded = tokenizer(
            list(texts[start : start + _TEXTS_AT_ONCE]),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            verbose=False,
        )
        tokens += [np.array(ids, dtype=np.uint32) for ids in encoded["input_ids"]]
    return tokens
