"""Documented functions out of source trees, filtered as CodeSearchNet does it (arXiv 1909.09436, section 2).

Kept are functions of three lines or more whose documentation's first paragraph has three words or more. Left
out are tests, constructors, methods such as `__str__` and `toString`, duplicates, documentation that is not
English, and functions that contain their own documentation's first paragraph elsewhere.
"""

import hashlib
import itertools
import logging
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow
from datasets import Dataset
from tqdm import tqdm

from mose.data.source.definitions import DecodeError, Function, ParseError, extract_functions, language_of
from mose.data.source.documentation import summary
from mose.data.source.files import MAX_FILE_BYTES, candidate_files, iter_source_files, rejection, repository_of

__all__ = ["MiningFilter", "iter_source_files", "mine", "mine_rows"]

logger = logging.getLogger(__name__)

COLUMNS = ("text", "code", "source", "name", "language", "repository", "path", "start_line", "end_line")
_EXTENSION_METHODS = re.compile(
    r"__\w+|operator.*|~.*|toString|hashCode|equals|clone|finalize|compareTo|to_s|inspect|hash|eql\?|\W+"
)
_TOKENS = re.compile(
    r"(?s:'''.*?'''|\"\"\".*?\"\"\")|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`"
    r"|(?P<comment>%s)|(?P<space>\s+)"
)
_HASH_COMMENTS, _SLASH_COMMENTS = (
    re.compile(_TOKENS.pattern % comment) for comment in (r"#[^\n]*", r"//[^\n]*|(?s:/\*.*?\*/)")
)
#: Comments that stand above a function and say nothing of it.
_NOT_PROSE = re.compile(r"(?i)\W*(?:todo|fixme|xxx|hack|copyright|licen[cs]ed?|spdx|eslint|nolint|pylint)\b")
_LETTERS = re.compile(r"[^\W\d_]")


@dataclass(frozen=True)
class MiningFilter:
    """Which functions are kept. Lines are those of code that are not blank; words those of the text.

    Attributes:
        require_docstring: False keeps functions without usable documentation too, with the text "".
        min_code_lines: Fewest lines of a function.
        max_code_lines: Most lines of a function.
        min_text_words: Fewest words of the text.
        max_text_words: Most words of the text.
    """

    require_docstring: bool = True
    min_code_lines: int = 3
    max_code_lines: int = 1000
    min_text_words: int = 3
    max_text_words: int = 256

    def text_rejection(self, text: str, code: str) -> str | None:
        """Why a text cannot stand for its function, or None."""
        words, letters = len(text.split()), _LETTERS.findall(text)
        if not text or _NOT_PROSE.match(text):
            return "no text"
        if words < self.min_text_words:
            return "short text"
        if words > self.max_text_words:
            return "long text"
        if sum(letter.isascii() for letter in letters) < 0.8 * len(letters) or not letters:
            return "text not English"
        return "text in code" if text in " ".join(code.split()) else None

    def function_rejection(self, function: Function) -> str | None:
        """Why a function is left out whatever its text, or None."""
        lines = sum(1 for line in function.code.split("\n") if line.strip())
        if function.constructor or _EXTENSION_METHODS.fullmatch(function.name):
            return "constructor or extension method"
        if "test" in function.name.lower():
            return "test"
        if lines < self.min_code_lines:
            return "short code"
        return "long code" if lines > self.max_code_lines else None


def mine_rows(
    source_trees: Iterable[str | Path],
    languages: Collection[str] | None = None,
    *,
    filters: MiningFilter | None = None,
    max_text_repeats: int | None = None,
    counts: Counter[str] | None = None,
    num_proc: int = 1,
    progress: bool = True,
) -> Iterator[dict[str, str | int]]:
    """Functions of source trees as rows, one by one, in the order of trees, paths and lines.

    Args:
        source_trees: Folders, each a repository or a folder of packages (then each package is one), or files.
        languages: The languages wanted, all that can be read by default.
        filters: What to keep, `MiningFilter()` by default.
        max_text_repeats: How many rows may have the same text; None for any number.
        counts: Takes up how many `files` were read and `rows` given, and how many files and functions were
            skipped for which reason.
        num_proc: How many processes read files; the rows are the same for any number.
        progress: Whether to show a progress bar on stderr.

    Yields:
        `text` (first paragraph of the documentation), `code` (without documentation), `source` (verbatim,
        with it), `name`, `language`, `repository`, `path` (below its tree), `start_line`, `end_line`.

    Raises:
        ValueError: A tree does not exist, or a language is unknown.
    """
    counts = Counter() if counts is None else counts

    def unreadable(error: OSError) -> None:
        counts["unreadable"] += 1
        logger.warning("skipped: %s", error)

    tasks = [
        (root, path) for root in map(Path, source_trees) for path in candidate_files(root, languages, unreadable)
    ]
    work = partial(_mine_file, languages=languages, filters=filters or MiningFilter())
    seen: set[bytes] = set()
    repeats: Counter[str] = Counter()
    with tqdm(total=len(tasks), desc="mining", unit="file", disable=not progress) as bar:
        for rows, skipped in _map(work, tasks, num_proc):
            bar.update()
            counts.update(skipped)
            for digest, row in rows:
                text = str(row["text"])
                if digest in seen:
                    counts["duplicate"] += 1
                elif max_text_repeats is not None and text and repeats[text] >= max_text_repeats:
                    counts["repeated text"] += 1
                else:
                    seen.add(digest)
                    repeats[text] += 1
                    counts["rows"] += 1
                    yield row


def mine(
    source_trees: Iterable[str | Path], languages: Collection[str] | None = None, **options
) -> tuple[Dataset, Counter[str]]:
    """The rows of `mine_rows` as a dataset, with the counts of what was read and skipped.

    Takes the arguments of `mine_rows`, and raises what it raises.
    """
    counts: Counter[str] = options.pop("counts", None) or Counter()
    rows = mine_rows(source_trees, languages, counts=counts, **options)
    schema = pyarrow.schema(
        [(name, pyarrow.int32() if name.endswith("_line") else pyarrow.string()) for name in COLUMNS]
    )
    batches = []
    while chunk := list(itertools.islice(rows, 4096)):
        batches.append(pyarrow.RecordBatch.from_pylist(chunk, schema))
    skipped = {reason: n for reason, n in sorted(counts.items()) if reason not in ("files", "rows")}
    logger.info("mined %d rows from %d files; skipped: %s", counts["rows"], counts["files"], skipped)
    return Dataset(pyarrow.Table.from_batches(batches, schema)), counts


def _map(work: partial, tasks: list[tuple[Path, Path]], num_proc: int) -> Iterator:
    if num_proc <= 1:
        yield from map(work, tasks)
        return
    with ProcessPoolExecutor(num_proc) as pool:
        for start in range(0, len(tasks), 4096):  # in turns, so that results don't pile up
            yield from pool.map(work, tasks[start : start + 4096], chunksize=16)


def _mine_file(
    task: tuple[Path, Path], languages: Collection[str] | None, filters: MiningFilter
) -> tuple[list[tuple[bytes, dict[str, str | int]]], Counter[str]]:
    """The rows of one file, each with the digest that duplicates share, and what was counted."""
    root, path = task
    counts: Counter[str] = Counter()
    try:
        data = path.read_bytes() if path.stat().st_size <= MAX_FILE_BYTES else None
    except OSError as error:
        logger.warning("skipped: %s", error)
        return [], Counter({"unreadable": 1})
    if reason := rejection(path, data):
        logger.debug("%s: skipped: %s", path, reason)
        return [], Counter({reason: 1})
    assert data is not None
    language = language_of(path, data)
    if language is None or (languages is not None and language not in languages):
        return [], counts
    try:
        functions = extract_functions(data, language)
    except ParseError as error:
        logger.info("%s: skipped: %s", path, error)
        return [], Counter({"undecodable" if isinstance(error, DecodeError) else "unparsable": 1})
    counts["files"] = 1
    rows = []
    for function in functions:
        text = summary(function.docstring)
        reason = filters.function_rejection(function)
        if reason is None and (reason := filters.text_rejection(text, function.code)):
            text, reason = "", reason if filters.require_docstring else None
        if reason is not None:
            counts[reason] += 1
            continue
        row: dict[str, str | int] = {
            "text": text,
            "code": function.code,
            "source": function.source,
            "name": function.name,
            "language": language,
            "repository": repository_of(root, path),
            "path": (path.name if path == root else path.relative_to(root).as_posix()),
            "start_line": function.start_line,
            "end_line": function.end_line,
        }
        rows.append((_digest(function.code, language), row))
    return rows, counts


def _digest(code: str, language: str) -> bytes:
    """Equal for codes that differ in comments and white space alone."""
    pattern = _HASH_COMMENTS if language in ("python", "ruby") else _SLASH_COMMENTS
    tokens = pattern.sub(lambda match: "" if match["comment"] or match["space"] else match[0], code)
    return hashlib.blake2b(tokens.encode(), digest_size=16).digest()
