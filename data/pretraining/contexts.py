"""Build pre-training examples from blocks of files.

In-Context Classification (ICC; paper, section 3) joins snippets of one repository by `<sep>` and ends them with
`<cls>`. With probability 0.5, intruders from other repositories replace some of the snippets. The model predicts
whether all snippets are from one repository.

Only content can reveal the label. An intruder has exactly the length of the snippet that it replaces. Layouts
(the number, lengths, order and places of snippets) are drawn before the coin is tossed, by another generator, so
that they are independent of the label. Whether intruders are in the context's language is drawn before it, too.
"""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from mose.tokenization.inputs import text_ids
from mose.tokenization.special_tokens import check_special_tokens

OBJECTIVES = ("icc", "nsp", "none")
#: Fewest tokens of a snippet, if the context has space for several of that length.
MIN_SNIPPET_TOKENS = 32
#: A longer file gives a run of this many contexts, at a new place in each pass. Otherwise a few long files would
#: fill a short training run.
MAX_CONTEXTS_PER_FILE = 4
#: A long file is cut into snippets of one size, drawn between this share of the longest snippet and the whole.
SMALLEST_CUT = 0.25
_TEXTS_PER_CALL = 64
#: More characters than a token of source code has on average, in any long run.
_MANY_CHARACTERS = 8
#: Contexts that first-fit packing considers; earlier ones are closed.
_OPEN_CONTEXTS = 8

#: A snippet: index of the file in its block, first token, number of tokens.
Snippet = tuple[int, int, int]


@dataclass
class Layout:
    """The plan of an example before labels are drawn.

    Attributes:
        group: index of the file that the example belongs to; for "icc", the first file of its repository.
        snippets: the snippets in order.
        candidates: indices of the snippets that an intruder can replace.
    """

    group: int
    snippets: list[Snippet]
    candidates: list[int]


@dataclass
class ContextBuilder:
    """A builder of examples from a block of files, which depend only on the block and a seed.

    - "icc": `<sep> a <sep> b … <cls>`, two or more snippets of one repository, packed towards `max_length`. With
      probability 0.5, between one and half of them are replaced by snippets of other repositories in the block.
    - "nsp": `<sep> a <sep> b <cls>`, where b continues a. With probability 0.5, b is replaced by the
      continuation of another file (BERT, arXiv 1810.04805, section 3.1).
    - "none": `<sep> a <cls>`, one snippet.

    A file that is longer than a snippet gives several, and a short rest is dropped.

    Attributes:
        tokenizer: a fast tokenizer with the special tokens pad, sep, cls and mask.
        max_length: most tokens of an example, including special tokens.
        objective: "icc", "nsp" or "none".
        same_language_intruders: share of the contexts, in [0, 1], whose intruders are each in the language of the
            snippet that they replace, so that languages tell nothing of the label. If no other repository has
            files in the context's languages, intruders are in any language.
        counts: number of `examples` planned and `tokens` read, and of what was dropped: `snippets alone` in their
            repository, and `layouts without intruder`, which no other repository could provide. Of those that
            should have intruders of the same language: `layouts with intruders of any language`.

    Raises:
        ValueError: an argument is out of its range, or the tokenizer is not fast or lacks a special token.
    """

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    objective: str = "icc"
    same_language_intruders: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, got {self.objective!r}.")
        if not self.tokenizer.is_fast:
            raise ValueError(f"tokenizer must be a fast tokenizer, got {type(self.tokenizer).__name__}.")

        share = self.same_language_intruders
        if not 0.0 <= share <= 1.0:
            raise ValueError(
                f"same_language_intruders must be in [0, 1], got {share}. Pass a share of the contexts."
            )
        if share and self.objective == "none":
            raise ValueError(
                f"same_language_intruders must be 0 for 'none' examples, which have no intruders; got {share}."
            )

        check_special_tokens(self.tokenizer)
        snippets = 1 if self.objective == "none" else 2
        shortest = 2 * snippets + 1  # snippets of one token, each behind a <sep>, and <cls>
        if self.max_length < shortest:
            raise ValueError(
                f"max_length must be at least {shortest} for {self.objective!r} examples, got {self.max_length}."
            )

        #: Longest snippet: two of them fill the context, or one without a context objective.
        self.longest = (self.max_length - 1) // snippets - 1
        self.file_tokens = MAX_CONTEXTS_PER_FILE * self.max_length
        self.min_snippet = min(MIN_SNIPPET_TOKENS, max(1, self.longest // 2))
        #: Lengths of snippets that can be replaced. There are few, so that other snippets have the same length.
        lengths = {length for i in range(32) for length in (self.longest >> i, 3 * self.longest >> i + 2)}
        self.sizes = sorted(length for length in lengths if length >= self.min_snippet)
        #: Fewest tokens of a snippet, in effect.
        self.shortest = self.min_snippet if self.objective == "none" else self.sizes[0]

    def __call__(self, rows: Sequence[Mapping[str, str]], seed: Sequence[int]) -> "BlockExamples":
        """Plan the examples of a block.

        Args:
            rows: files with `text`, `repository` and `language`, grouped by repository.
            seed: seed of the layouts and labels.
        """
        layout_rng, label_rng = (np.random.default_rng([*seed, purpose]) for purpose in range(2))
        # Cut very long texts first: most of their tokens would not be used.
        texts = [_random_run(row["text"], _MANY_CHARACTERS * self.file_tokens, layout_rng) for row in rows]
        tokens = tokenize_texts(self.tokenizer, texts)
        tokens = [_random_run(ids, self.file_tokens, layout_rng) for ids in tokens]
        self.counts["tokens"] += sum(map(len, tokens))

        if self.objective == "icc":
            layouts = self._repository_layouts([row["repository"] for row in rows], tokens, layout_rng)
        elif self.objective == "nsp":
            layouts = self._continuation_layouts(tokens, layout_rng)
        else:
            layouts = [
                Layout(file, [snippet], [])
                for file, ids in enumerate(tokens)
                for snippet in self._cut_file(file, len(ids), self.longest)
            ]

        layout_rng.shuffle(layouts)

        labels: list[int | None] = [None] * len(layouts)
        if self.objective != "none":
            layouts, labels = self._draw_labels(layouts, [row["language"] for row in rows], label_rng)

        self.counts["examples"] += len(layouts)
        origins = [(row["language"], row["repository"]) for row in rows]
        ends = self.tokenizer.sep_token_id, self.tokenizer.cls_token_id
        return BlockExamples(*ends, origins, tokens, layouts, labels)

    def _cut_file(self, file: int, tokens: int, size: int) -> Iterator[Snippet]:
        """Yield snippets of `size` tokens, and the rest, cut to one of `sizes` unless the objective is "none"."""
        start = 0
        while (left := tokens - start) >= self.shortest:
            if left >= size:
                length = size
            else:
                length = left if self.objective == "none" else self.sizes[bisect_right(self.sizes, left) - 1]
            yield file, start, length
            start += length

    def _draw_size(self, rng: np.random.Generator, longest: int) -> int:
        """Draw the length of a file's snippets, at most `longest`."""
        sizes = self.sizes[: bisect_right(self.sizes, longest)]
        large = [size for size in sizes if size >= SMALLEST_CUT * sizes[-1]]
        return large[rng.integers(len(large))]

    def _repository_layouts(
        self, repositories: Sequence[str], tokens: Sequence[np.ndarray], rng: np.random.Generator
    ) -> list[Layout]:
        """Plan the "icc" examples of a block."""
        files: dict[str, list[int]] = defaultdict(list)
        for file, repository in enumerate(repositories):
            if len(tokens[file]) >= self.shortest:
                files[repository].append(file)

        # A snippet can only be replaced if another repository has one of its length: limit the length to that.
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
                for snippet in self._cut_file(file, len(tokens[file]), self._draw_size(rng, limit))
            ]
            layouts += [Layout(own[0], packed, list(range(len(packed)))) for packed in self._pack(snippets, rng)]

        return layouts

    def _pack(self, snippets: list[Snippet], rng: np.random.Generator) -> list[list[Snippet]]:
        """Pack the snippets of a repository into contexts of two or more: first fit among the open contexts."""
        rng.shuffle(snippets)
        contexts: list[list[Snippet]] = []
        space: list[int] = []

        for snippet in snippets:
            cost = snippet[2] + 1  # with its <sep>
            first_open = max(0, len(contexts) - _OPEN_CONTEXTS)
            index = next((i for i in range(first_open, len(contexts)) if cost <= space[i]), None)
            if index is None:
                contexts.append([snippet])
                space.append(self.max_length - 1 - cost)
            else:
                contexts[index].append(snippet)
                space[index] -= cost

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

    def _continuation_layouts(self, tokens: Sequence[np.ndarray], rng: np.random.Generator) -> list[Layout]:
        """Plan the "nsp" examples of a block."""
        layouts = []
        for file, ids in enumerate(tokens):
            if len(ids) < 2 * self.shortest:
                continue
            size = self._draw_size(rng, min(self.longest, len(ids) // 2))
            snippets = list(self._cut_file(file, len(ids), size))
            for first, second in zip(snippets[::2], snippets[1::2], strict=False):
                layouts.append(Layout(file, [first, second], [1]))
        return layouts

    def _draw_labels(
        self, layouts: list[Layout], languages: Sequence[str], rng: np.random.Generator
    ) -> tuple[list[Layout], list[int | None]]:
        """Toss the coin for every layout that could have an intruder in any candidate place.

        `languages` are those of the files of the block.
        """
        pool = _IntruderPool(layouts)
        pools: dict[str, _IntruderPool] = {}
        if self.same_language_intruders:
            pools = {name: _IntruderPool(layouts, languages, name) for name in set(languages) if name}
        labelled: list[Layout] = []
        labels: list[int | None] = []

        for layout in layouts:
            lengths = [layout.snippets[place][2] for place in layout.candidates]
            if not all(pool.has(length, layout.group) for length in lengths):
                self.counts["layouts without intruder"] += 1
                continue

            # Draw pool and places before the coin: they must not depend on the label. No number is drawn for a
            # share of 0, so that its examples are those of earlier releases.
            sources = dict.fromkeys(layout.candidates, pool)
            if self.same_language_intruders and rng.random() < self.same_language_intruders:
                alike = self._same_language(layout, languages, pools)
                if alike is not None and not alike:
                    self.counts["layouts without intruder"] += 1
                    continue
                sources = alike or sources
            number = 1 + rng.integers(max(1, len(layout.candidates) // 2))
            places = rng.permutation(list(sources))[:number]

            same = rng.random() < 0.5
            if not same:
                snippets = list(layout.snippets)
                for place in places:
                    snippets[place] = sources[place].draw(snippets[place][2], layout.group, rng)
                layout = Layout(layout.group, snippets, layout.candidates)

            labelled.append(layout)
            labels.append(int(same))

        return labelled, labels

    def _same_language(
        self, layout: Layout, languages: Sequence[str], pools: Mapping[str, "_IntruderPool"]
    ) -> dict[int, "_IntruderPool"] | None:
        """Return the places of a layout that an intruder of the same language can fill, and where to draw it.

        None means that no other repository has files in these languages.
        """
        sources, elsewhere = {}, False
        for place in layout.candidates:
            file, _, length = layout.snippets[place]
            pool = pools.get(languages[file])
            if pool is not None and pool.has(0, layout.group):
                elsewhere = True
                if pool.has(length, layout.group):
                    sources[place] = pool

        if not elsewhere:
            self.counts["layouts with intruders of any language"] += 1
        return sources if elsewhere else None


class _IntruderPool:
    """The snippets that can replace another one: all those in candidate places, or those of one language."""

    def __init__(self, layouts: Sequence[Layout], languages: Sequence[str] = (), language: str | None = None):
        self._by_length: dict[int, list[tuple[int, Snippet]]] = defaultdict(list)
        for layout in layouts:
            for place in layout.candidates:
                snippet = layout.snippets[place]
                if language is None or languages[snippet[0]] == language:
                    self._by_length[snippet[2]].append((layout.group, snippet))

        self._lengths = sorted(self._by_length)
        #: Length -> two groups that have snippets of it, or fewer.
        self._groups = {
            length: list(dict.fromkeys(group for group, _ in snippets))[:2]
            for length, snippets in self._by_length.items()
        }

    def _long_enough(self, length: int, group: int) -> int | None:
        """Return the smallest length, at least `length`, of which another group has a snippet."""
        for candidate in self._lengths[bisect_left(self._lengths, length) :]:
            if any(other != group for other in self._groups[candidate]):
                return candidate
        return None

    def has(self, length: int, group: int) -> bool:
        """Return True if another group can give a snippet of a length."""
        return self._long_enough(length, group) is not None

    def draw(self, length: int, group: int, rng: np.random.Generator) -> Snippet:
        """Draw a snippet of another group, cut to `length` if none has exactly that."""
        source = self._long_enough(length, group)
        assert source is not None
        snippets = self._by_length[source]

        for _ in range(32):
            other, snippet = snippets[rng.integers(len(snippets))]
            if other != group:
                break
        else:  # nearly all are of this group
            others = [snippet for other, snippet in snippets if other != group]
            snippet = others[rng.integers(len(others))]

        return snippet[0], snippet[1], length


@dataclass(eq=False)
class BlockExamples(Sequence[dict]):
    """The examples of a block, each built on access.

    An example has `input_ids` (a list), `context_label` (1: all of one repository, or a true continuation; 0:
    not; absent without a context objective), `language` and `repository` (not those of intruders).
    """

    sep: int  # ids, not the tokenizer: another thread uses that for the next block
    cls: int
    origins: Sequence[tuple[str, str]]  # language and repository of each file
    tokens: Sequence[np.ndarray]
    layouts: Sequence[Layout]
    labels: Sequence[int | None]

    def __len__(self) -> int:
        return len(self.layouts)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]

        layout, label = self.layouts[index], self.labels[index]
        ids: list[int] = []
        for file, start, length in layout.snippets:
            ids.append(self.sep)
            ids += self.tokens[file][start : start + length].tolist()

        ids.append(self.cls)
        language, repository = self.origins[layout.group]
        example = {"input_ids": ids, "language": language, "repository": repository}
        return example if label is None else {**example, "context_label": label}


def _random_run(sequence: Any, longest: int, rng: np.random.Generator) -> Any:
    """Return a random run of `longest` items, or all if there are no more."""
    if len(sequence) <= longest:
        return sequence
    start = int(rng.integers(len(sequence) - longest + 1))
    return sequence[start : start + longest]


def tokenize_texts(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[np.ndarray]:
    """Return the token ids of texts, each (tokens,) uint32, without special tokens.

    A "<mask>" in a source file is text like any other.
    """
    tokens = []
    for start in range(0, len(texts), _TEXTS_PER_CALL):
        ids = text_ids(tokenizer, texts[start : start + _TEXTS_PER_CALL])
        tokens += [np.array(row, dtype=np.uint32) for row in ids]

    return tokens
