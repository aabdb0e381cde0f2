"""Training pairs of mose-nano (`pairs.parquet`), from mined functions and pair files.

Each mined function gives one or two rows:

1. The first paragraph of its documentation (in a share of the rows all of it) → its code. In a share of the rows
   the function's name is removed from the code, so that it must be found by what it does. Another share has a
   line of path and name above the code, as search embeds it.
2. All of Python's and a share of the others: a query as typed into a search box (words of its name, or the
   beginning of its documentation) → its source with the documentation.

Pair files (code_a, code_b, optionally text) are added as they are, with names removed from both sides of a share
of the rows. Texts of evaluation sets are left out.

Teachers read `teacher_query` and `teacher_document`, which is the code with its names. `kind` says what a row is,
so that pilots can leave an ingredient out, and a recipe can repeat it (`KINDS`).
"""

import ast
import json
import random
import re
import sys
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from datasets import Dataset
from tqdm import tqdm

from mose.data.source.anonymization import anonymize
from mose.data.source.definitions import extract_functions
from mose.data.source.languages import supported_languages
from mose.data.source.mining import mine_records
from mose.tokenization.prompts import LANGUAGES

sys.path.append(str(Path(__file__).parents[1]))
from recipe_steps import evaluation_fingerprints, text_fingerprint  # noqa: E402

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")
SEARCH_FORMS = ("{0}", "{1} {0}", "{0} {1}", "{0} in {1}", "how to {0} in {1}", "{1} how to {0}")
#: What a row may be. `code` and `task` are code → code and text → code of a pair file; `question`: questions.py.
KINDS = ("documentation", "path", "typed", "code", "task", "question")
#: Functions of one repository, unless its language has few repositories.
MAX_PER_REPOSITORY = 3000
#: Shares of the rows: all of the documentation, a line of path and name, a typed query for other languages.
WHOLE_SHARE, PATH_SHARE, TYPED_SHARE = 0.35, 0.3, 0.3


def search_box_query(name: str, text: str, language: str, rng: random.Random) -> str:
    """Return a query as a person would type it: lower case, few words, no punctuation."""
    words = [word.lower() for word in WORD.findall(name)]
    if len(words) < 2 or rng.random() < 0.5:
        words = [word.lower() for word in re.findall(r"[\w']+", text)][: rng.randint(4, 9)]
    return rng.choice(SEARCH_FORMS).format(" ".join(words), LANGUAGES.get(language, language).lower())


def whole_documentation(source: str, text: str) -> str:
    """Return a Python function's documentation on one line, at most 80 words; `text` if it has none."""
    try:
        tree = ast.parse(textwrap.dedent(source)).body[0]
    except (SyntaxError, ValueError, IndexError):
        return text

    is_function = isinstance(tree, ast.FunctionDef | ast.AsyncFunctionDef)
    return " ".join(((ast.get_docstring(tree) if is_function else None) or text).split()[:80])


def read_shards(shards: Sequence[Path], excluded_paths: Sequence[str] = ()) -> Iterator[dict[str, str]]:
    """Yield the files of the shards of recipes/depth, without those whose path has one of these words."""
    for shard in tqdm(shards, "mining", unit="shard"):
        with shard.open(encoding="utf-8") as lines:
            for record in map(json.loads, lines):
                path = f"{record['repository']}/{record['path']}".lower()
                if not any(word in path for word in excluded_paths):
                    yield record


def sample_functions(
    records: Iterable[Mapping[str, str]], counts: Mapping[str, int], excluded: set[str], seed: int
) -> Iterator[dict]:
    """Yield a seeded sample of the documented functions of each language, with a limit per repository.

    Functions with a text whose fingerprint is in `excluded` are left out.
    """
    mined: dict[str, dict[str, list[dict]]] = defaultdict(lambda: defaultdict(list))
    for row in mine_records(records, max_text_repeats=2, num_proc=2):
        mined[str(row["language"])][str(row["repository"])].append(row)

    for language, count in counts.items():
        by_repository = mined.pop(language, {})
        rng = random.Random(f"{seed} {language}")
        # A language with few repositories may take more of each.
        limit = max(MAX_PER_REPOSITORY, 2 * count // max(1, len(by_repository)))
        rows: list[dict] = []
        for repository in sorted(by_repository):
            rng.shuffle(by_repository[repository])
            rows += by_repository[repository][:limit]

        # An evaluation set may have the code with its documentation or without.
        fields = ("text", "code", "source")
        clean = [row for row in rows if not any(text_fingerprint(str(row[f])) in excluded for f in fields)]
        rng.shuffle(clean)
        sample = clean[:count]
        print(
            f"{language}: {len(rows)} functions in {len(by_repository)} repositories, "
            f"{len(rows) - len(clean)} also in the evaluation sets, {len(sample)} sampled"
        )
        yield from sample


def pair_rows(functions: Iterable[dict], seed: int, nameless: float = 0.4) -> Iterator[dict]:
    """Yield the rows of mined functions; `nameless` is the share without names."""
    rng = random.Random(f"{seed} pairs")
    for function in functions:
        language, text, code = function["language"], function["text"], function["code"]
        if language == "python" and rng.random() < WHOLE_SHARE:
            text = whole_documentation(function["source"], text)

        document, kind, draw = code, "documentation", rng.random()
        if draw < nameless:
            document = anonymize(code, language, function["name"])
        elif draw < nameless + PATH_SHARE:
            document, kind = f"{function['path']} {function['name']}\n{code}", "path"

        row = {"query_language": "", "document_language": language, "repository": function["repository"]}
        row["kind"] = kind
        yield {**row, "query": text, "teacher_query": text, "document": document, "teacher_document": code}
        if language == "python" or rng.random() < TYPED_SHARE:
            query = search_box_query(function["name"], function["text"], language, rng)
            source = function["source"]
            row |= {"kind": "typed", "document": source, "teacher_document": source}
            yield {**row, "query": query, "teacher_query": query}


def cross_language_rows(
    files: Iterable[Path], excluded: set[str], seed: int, nameless: float = 0.5
) -> Iterator[dict]:
    """Yield the rows of pair files: code_a → code_b, sometimes reversed, and text → the same code."""
    rng = random.Random(f"{seed} cross-language")
    for path in files:
        with path.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                fields = ("text", "code_a", "code_b")
                if any(text_fingerprint(row.get(name) or "") in excluded for name in fields):
                    continue

                sides = [(row["code_a"], row["language_a"]), (row["code_b"], row["language_b"])]
                # Half of the rows hide the names, so that models match code by what it does.
                is_nameless = rng.random() < nameless
                if rng.random() < 0.3:
                    sides.reverse()
                (query, query_language), (document, document_language) = sides
                texts = [nameless_code(*side) if is_nameless else side[0] for side in sides]

                base = {"repository": path.stem, "document_language": document_language}
                base |= {"document": texts[1], "teacher_document": document, "kind": "code"}
                yield {**base, "query": texts[0], "teacher_query": query, "query_language": query_language}
                if row.get("text"):
                    base |= {"kind": "task", "query_language": ""}
                    yield {**base, "query": row["text"], "teacher_query": row["text"]}


def nameless_code(code: str, language: str) -> str:
    """Return code without the names of its functions, and of the class around a single method."""
    names: list[str] = []
    if language in supported_languages():
        names = [function.name for function in extract_functions(code.encode(), language)]
    if not names:
        names = re.findall(r"(?:def|function|class|static \w+(?:<[^>]*>)?(?:\[\])*) (\w+)", code)[:2]
    wrappers = re.findall(r"\bclass (\w+)", code)[:1]

    for name in {*names, *wrappers}:
        code = re.sub(rf"\b{re.escape(name)}\b", "f", code)
    return code


def build_pairs(
    shards: Sequence[Path],
    counts: Mapping[str, int],
    pair_files: Sequence[Path],
    evaluation_sets: Sequence[Path],
    seed: int,
    pair_repeats: int = 1,
    excluded_paths: Sequence[str] = (),
) -> Dataset:
    """Return all rows as a dataset; pair files are repeated `pair_repeats` times, with names drawn anew."""
    excluded = evaluation_fingerprints(evaluation_sets)
    functions = sample_functions(read_shards(shards, excluded_paths), counts, excluded, seed)
    rows = list(pair_rows(functions, seed))
    for repeat in range(pair_repeats):
        rows += cross_language_rows(pair_files, excluded, seed + repeat)
    return Dataset.from_list(rows)
