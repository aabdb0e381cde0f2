"""Mined functions and pair files → the training pairs of mose-nano (`pairs.parquet`).

Each mined function gives one or two rows. (1) Its documentation's first paragraph, or in a share of the rows all
of its documentation, for its code; in a share of the rows the function's own name is taken out of the code, so
that it must be found by what it does. (2) For Python, what somebody might have typed into a search box instead
(the words of its name, or the beginning of its documentation, with and without "python"), for its source with
the documentation left in. Pair files (code_a, code_b, optionally text) are added as they are, names taken out of
both sides of a share of the rows. Whatever also stands in an evaluation set is left out.

`teacher_query` and `teacher_document` are what a teacher reads in their place: the code with its names.
"""

import ast
import json
import random
import re
import textwrap
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

from datasets import Dataset

from mose.data.source.definitions import ParseError, anonymize, extract_functions
from mose.data.source.mining import mine_rows

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
SEARCH_FORMS = ("{0}", "python {0}", "{0} python", "{0} in python", "how to {0} in python", "python how to {0}")


def fingerprint(text: str) -> str:
    """What is left of a text when case, white space and punctuation are dropped."""
    return re.sub(r"\W+|_", "", text).lower()


def evaluation_fingerprints(folders: Iterable[Path]) -> set[str]:
    """Fingerprints of all queries and documents of evaluation sets (BEIR layout), to be kept out of training."""
    found: set[str] = set()
    for folder in folders:
        for name in ("queries.jsonl", "corpus.jsonl"):
            with (folder / name).open(encoding="utf-8") as lines:
                found.update(fingerprint(json.loads(line)["text"]) for line in lines)
    return found - {""}


def search_box_query(name: str, text: str, rng: random.Random) -> str:
    """A query as somebody would type it: lower case, few words, no punctuation."""
    words = [word.lower() for word in WORD.findall(name)]
    if len(words) < 2 or rng.random() < 0.5:
        words = [word.lower() for word in re.findall(r"[\w']+", text)][: rng.randint(4, 9)]
    return rng.choice(SEARCH_FORMS).format(" ".join(words))


def whole_documentation(source: str, text: str) -> str:
    """All of a Python function's documentation on one line, at most 80 words; `text` where there is none."""
    try:
        tree = ast.parse(textwrap.dedent(source)).body[0]
    except (SyntaxError, ValueError, IndexError):
        return text
    documented = (ast.FunctionDef, ast.AsyncFunctionDef)
    docstring = ast.get_docstring(tree) if isinstance(tree, documented) else None
    return " ".join((docstring or text).split()[:80])


def sample_functions(
    trees: dict[str, list[Path]],
    wanted: dict[str, int],
    excluded: set[str],
    seed: int,
    most_per_repository: int = 3000,
    num_proc: int = 2,
) -> Iterator[dict]:
    """For each language a seeded sample of its mined functions, no repository with more than its share."""
    for language, paths in trees.items():
        counts: Counter[str] = Counter()
        by_repository: dict[str, list[dict]] = defaultdict(list)
        rows = mine_rows(paths, [language], max_text_repeats=2, counts=counts, num_proc=num_proc)
        for row in rows:
            by_repository[str(row["repository"])].append(row)
        rng = random.Random(f"{seed} {language}")
        kept, contaminated = [], 0
        # A language with few repositories may take more of each.
        most = max(most_per_repository, 2 * wanted[language] // max(1, len(by_repository)))
        for repository in sorted(by_repository):
            group = by_repository[repository]
            rng.shuffle(group)
            for row in group[:most]:
                # An evaluation set may hold the code with its documentation or without.
                if any(fingerprint(str(row[name])) in excluded for name in ("text", "code", "source")):
                    contaminated += 1
                else:
                    kept.append(row)
        rng.shuffle(kept)
        print(
            f"{language}: {counts['rows']} functions in {len(by_repository)} repositories, "
            f"{contaminated} also in the evaluation sets, {min(wanted[language], len(kept))} taken"
        )
        yield from kept[: wanted[language]]


def without_name(code: str, language: str, name: str) -> str:
    try:
        return anonymize(code, language, name)
    except ParseError:
        return code


def pair_rows(functions: Iterable[dict], seed: int, nameless: float = 0.4) -> Iterator[dict]:
    """The rows that mined functions give, as the module says; `nameless` is the share without names."""
    rng = random.Random(f"{seed} pairs")
    for function in functions:
        language, text, code = function["language"], function["text"], function["code"]
        if language == "python" and rng.random() < 0.35:
            text = whole_documentation(function["source"], text)
        document = without_name(code, language, function["name"]) if rng.random() < nameless else code
        row = {"query_language": "", "document_language": language, "repository": function["repository"]}
        yield {**row, "query": text, "teacher_query": text, "document": document, "teacher_document": code}
        if language == "python":
            query = search_box_query(function["name"], function["text"], rng)
            source = function["source"]
            yield {
                **row,
                "query": query,
                "teacher_query": query,
                "document": source,
                "teacher_document": source,
            }


def cross_language_rows(
    files: Iterable[Path], excluded: set[str], seed: int, nameless: float = 0.5
) -> Iterator[dict]:
    """The rows of pair files: code_a → code_b (at times the other way round), and where there is a text,
    text → that same code."""
    rng = random.Random(f"{seed} cross-language")
    for path in files:
        with path.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                if any(fingerprint(row.get(name) or "") in excluded for name in ("text", "code_a", "code_b")):
                    continue
                a, b = row["code_a"], row["code_b"]
                language_a, language_b = row["language_a"], row["language_b"]
                code_a, code_b = a, b
                if rng.random() < nameless:
                    code_a, code_b = nameless_code(a, language_a), nameless_code(b, language_b)
                if rng.random() < 0.3:  # the other way round, too
                    code_a, code_b, language_a, language_b, a, b = code_b, code_a, language_b, language_a, b, a
                base = {"repository": path.stem, "document_language": language_b}
                yield {
                    **base,
                    "query": code_a,
                    "teacher_query": a,
                    "query_language": language_a,
                    "document": code_b,
                    "teacher_document": b,
                }
                if row.get("text"):
                    yield {
                        **base,
                        "query": row["text"],
                        "teacher_query": row["text"],
                        "query_language": "",
                        "document": code_b,
                        "teacher_document": b,
                    }


def nameless_code(code: str, language: str) -> str:
    """Code without the names of the functions that it defines (and of the class around a single method)."""
    try:
        names = [function.name for function in extract_functions(code.encode(), language)]
    except (ParseError, ValueError):
        names = re.findall(r"(?:def|function|class|static \w+(?:<[^>]*>)?(?:\[\])*) (\w+)", code)[:2]
    wrappers = re.findall(r"\bclass (\w+)", code)[:1]
    for name in {*names, *wrappers}:
        code = re.sub(rf"\b{re.escape(name)}\b", "f", code)
    return code


def build_pairs(
    trees: dict[str, list[Path]],
    wanted: dict[str, int],
    pair_files: list[Path],
    evaluation_sets: list[Path],
    seed: int,
    pair_repeats: int = 1,
) -> Dataset:
    """All rows as a dataset; `pair_repeats` draws the pair files so often, names anew each time."""
    excluded = evaluation_fingerprints(evaluation_sets)
    rows = list(pair_rows(sample_functions(trees, wanted, excluded, seed), seed))
    for repeat in range(pair_repeats):
        rows += cross_language_rows(pair_files, excluded, seed + repeat)
    return Dataset.from_list(rows)
