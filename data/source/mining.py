"""Mine documented functions from source trees, filtered as in CodeSearchNet (arXiv 1909.09436, section 2).

A function is included if it has three lines or more, and the first paragraph of its documentation has three words
or more. Excluded are tests, constructors, extension methods such as `__str__` and `toString`, duplicates,
documentation that is not English, and functions that repeat their documentation's first paragraph in their code.
"""

import hashlib
import itertools
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pyarrow
from datasets import Dataset
from tqdm import tqdm

from mose.data.source.definitions import extract_functions, extract_units
from mose.data.source.documentation import first_paragraph
from mose.data.source.files import candidate_files, path_below, read_source, repository_of
from mose.data.source.languages import PROGRAMMING_LANGUAGES, supported_languages
from mose.data.source.report import ReadingReport
from mose.data.source.rules import DEFAULT_RULES, ReadingRules
from mose.data.source.units import Unit

logger = logging.getLogger(__name__)

COLUMNS = ("text", "code", "source", "name", "language", "repository", "path", "start_line", "end_line")
#: Lines of code, without documentation and blank lines.
MIN_CODE_LINES, MAX_CODE_LINES = 3, 1000
#: Words of the documentation's first paragraph.
MIN_TEXT_WORDS, MAX_TEXT_WORDS = 3, 256
#: Files that are in flight in a process pool, so that results don't pile up.
_FILES_AHEAD = 4096
_EXTENSION_METHODS = re.compile(
    r"__\w+|operator.*|~.*|toString|hashCode|equals|clone|finalize|compareTo|to_s|inspect|hash|eql\?|\W+"
)
_TOKENS = (
    r"(?s:'''.*?'''|\"\"\".*?\"\"\")|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|`(?:\\.|[^`\\])*`"
    r"|(?P<comment>%s)|(?P<space>\s+)"
)
#: What begins a line comment -> tokens that are told apart from comments and white space.
_COMMENTS = {
    "#": re.compile(_TOKENS % r"#[^\n]*"),
    "//": re.compile(_TOKENS % r"//[^\n]*|(?s:/\*.*?\*/)"),
    "--": re.compile(_TOKENS % r"--\[\[(?s:.*?)\]\]|--[^\n]*|(?s:/\*.*?\*/)"),
}
#: Kinds of units that are mined: those that documentation describes as a whole.
_MINED_KINDS = frozenset({"function", "method", "class", "struct", "interface", "trait", "enum"})
#: Comments above a function that do not describe it.
_NOT_PROSE = re.compile(r"(?i)\W*(?:todo|fixme|xxx|hack|copyright|licen[cs]ed?|spdx|eslint|nolint|pylint)\b")
_LETTERS = re.compile(r"[^\W\d_]")
_TEST_FOLDER = re.compile(r"/(?:tests?|testdata|testing|specs?|__tests__)/|/(?:test_[^/]*|[^/]*[_.]test\.\w+)$")
#: A row and the digest of its code.
Digested = tuple[bytes, dict[str, str | int]]


def mine_rows(
    source_trees: Iterable[str | Path],
    languages: Collection[str] | None = None,
    *,
    max_text_repeats: int | None = None,
    counts: Counter[str] | None = None,
    classes: bool = False,
    rules: ReadingRules = DEFAULT_RULES,
    report: ReadingReport | None = None,
    num_proc: int = 1,
    progress: bool = True,
) -> Iterator[dict[str, str | int]]:
    """Yield the functions of source trees one by one, in the order of trees, paths and lines.

    Args:
        source_trees: folders, each a repository or a folder of packages (then each package is one), or files.
        languages: the languages to include; None for all that can be read.
        max_text_repeats: most rows with the same text; None for any number.
        counts: updated with the number of `files` read and `rows` yielded, and of functions skipped for each
            reason.
        classes: yield documented classes, interfaces and the like too, with their members' signatures as code.
        rules: which files to read.
        report: updated with the files that were read and left out.
        num_proc: number of processes that read files. The rows do not depend on it.
        progress: show a progress bar on stderr.

    Yields:
        `text` (first paragraph of the documentation), `code` (without documentation), `source` (verbatim, with
        documentation), `name`, `language`, `repository`, `path` (below its tree), `start_line` and `end_line`.

    Raises:
        ValueError: a tree does not exist, or a language is unknown.
    """
    if unknown := set(languages or ()) - set(supported_languages()):
        raise ValueError(f"languages must be among {', '.join(supported_languages())}, got {sorted(unknown)}.")
    counts = Counter() if counts is None else counts
    report = ReadingReport() if report is None else report
    tasks = [
        (root, path)
        for root in map(Path, source_trees)
        for path in candidate_files(root, languages, rules, report)
    ]
    mine_file = partial(_mine_file, languages=languages, rules=rules, classes=classes)

    with tqdm(total=len(tasks), desc="mining", unit="file", disable=not progress) as bar:

        def rows_of_files() -> Iterator[Digested]:
            for rows, skipped, read in _ordered_map(mine_file, tasks, num_proc):
                bar.update()
                counts.update(skipped)
                report.update(read)
                yield from rows

        yield from _without_repeats(rows_of_files(), max_text_repeats, counts)


def mine_records(
    records: Iterable[Mapping[str, str]],
    *,
    max_text_repeats: int | None = None,
    counts: Counter[str] | None = None,
    num_proc: int = 1,
) -> Iterator[dict[str, str | int]]:
    """Yield the functions of files at hand, as `mine_rows` does of source trees.

    Args:
        records: a file each: `text`, `language`, `repository` and `path`. Languages that cannot be read, and
            files of tests by their path, are counted and passed over.
        max_text_repeats: as in `mine_rows`, as is `counts`.
        counts: updated with the numbers of files, rows, and what was skipped for each reason.
        num_proc: number of processes that parse files. The rows do not depend on it.

    Yields:
        The columns of `mine_rows`.
    """
    counts = Counter() if counts is None else counts

    def rows_of_records() -> Iterator[Digested]:
        for rows, skipped in _ordered_map(_mine_record, records, num_proc):
            counts.update(skipped)
            yield from rows

    yield from _without_repeats(rows_of_records(), max_text_repeats, counts)


def _without_repeats(
    digested: Iterable[Digested], max_text_repeats: int | None, counts: Counter[str]
) -> Iterator[dict[str, str | int]]:
    """Yield the rows whose digest is new, and whose text has not been repeated too often."""
    # Duplicates are found here and not in the workers, which see one file each.
    seen: set[bytes] = set()
    repeats: Counter[str] = Counter()

    for digest, row in digested:
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
    """Return the rows of `mine_rows` as a dataset, and the counts of what was read and skipped.

    Arguments and errors are those of `mine_rows`. Without a `report`, what was left out is logged, a line for
    each reason.
    """
    counts, given_report = options.pop("counts", None), options.pop("report", None)
    counts = Counter() if counts is None else counts
    report = ReadingReport() if given_report is None else given_report
    rows = mine_rows(source_trees, languages, counts=counts, report=report, **options)
    schema = pyarrow.schema(
        [(name, pyarrow.int32() if name.endswith("_line") else pyarrow.string()) for name in COLUMNS]
    )

    # Arrow batches take a fraction of the memory of Python dictionaries.
    batches = []
    while chunk := list(itertools.islice(rows, 4096)):
        batches.append(pyarrow.RecordBatch.from_pylist(chunk, schema))

    skipped = {reason: n for reason, n in sorted(counts.items()) if reason not in ("files", "rows")}
    logger.info("mined %d rows from %d files; skipped: %s", counts["rows"], counts["files"], skipped)
    for line in report.lines() if given_report is None else ():
        logger.info("%s", line)
    return Dataset(pyarrow.Table.from_batches(batches, schema)), counts


def _ordered_map(work: Callable, tasks: Iterable, num_proc: int) -> Iterator:
    if num_proc <= 1:
        yield from map(work, tasks)
        return
    remaining = iter(tasks)
    with ProcessPoolExecutor(num_proc) as pool:
        while chunk := list(itertools.islice(remaining, _FILES_AHEAD)):
            yield from pool.map(work, chunk, chunksize=16)


def _mine_file(
    task: tuple[Path, Path], languages: Collection[str] | None, rules: ReadingRules, classes: bool
) -> tuple[list[Digested], Counter[str], ReadingReport]:
    """Return the rows of one file, each with a digest that duplicates share, and what was skipped and read."""
    root, path = task
    report, counts = ReadingReport(), Counter[str]()

    with report.guard(path):
        file = read_source(path, rules, languages)
        location = {"repository": repository_of(root, path), "path": path_below(root, path)}
        extract = extract_units if classes else extract_functions
        units = extract(file.source, file.language, on_errors=report.error_counter(path))
        rows = _documented(units, location, counts)

        counts["files"] += 1
        report.read[file.language] += 1
        return rows, counts, report
    return [], Counter(), report


def _mine_record(record: Mapping[str, str]) -> tuple[list[Digested], Counter[str]]:
    """Return the rows of one file at hand, and what was skipped."""
    language = record["language"]
    if language not in supported_languages():
        return [], Counter({f"language {language}": 1})
    if _TEST_FOLDER.search(f"/{record['path'].lower()}"):
        return [], Counter({"file of tests": 1})

    counts = Counter({"files": 1})
    units = extract_functions(record["text"].encode(errors="replace"), language)
    return _documented(units, {name: record[name] for name in ("repository", "path")}, counts), counts


def _documented(units: Iterable[Unit], location: Mapping[str, str], counts: Counter[str]) -> list[Digested]:
    """Return the rows of the units that are mined; `counts` is updated with the others."""
    rows = []
    for unit in units:
        if unit.kind not in _MINED_KINDS:
            continue
        text = first_paragraph(unit.docstring)
        if reason := _unit_rejection(unit) or _text_rejection(text, unit.code):
            counts[reason] += 1
            continue

        columns = {"text": text, **vars(unit), **location}
        rows.append((_digest_of_code(unit), {name: columns[name] for name in COLUMNS}))
    return rows


def _unit_rejection(unit: Unit) -> str | None:
    """Return why a unit is excluded whatever its text, or None if it is not."""
    lines = sum(1 for line in unit.code.split("\n") if line.strip())
    if unit.constructor or _EXTENSION_METHODS.fullmatch(unit.name):
        return "constructor or extension method"
    if "test" in unit.name.lower():
        return "test"
    if lines < MIN_CODE_LINES:
        return "short code"
    return "long code" if lines > MAX_CODE_LINES else None


def _text_rejection(text: str, code: str) -> str | None:
    """Return why a text cannot describe its function, or None if it can."""
    words, letters = len(text.split()), _LETTERS.findall(text)
    if not text or _NOT_PROSE.match(text):
        return "no text"
    if words < MIN_TEXT_WORDS:
        return "short text"
    if words > MAX_TEXT_WORDS:
        return "long text"
    if sum(letter.isascii() for letter in letters) < 0.8 * len(letters) or not letters:
        return "text not English"
    return "text in code" if text in " ".join(code.split()) else None


def _digest_of_code(unit: Unit) -> bytes:
    """Return a digest that is equal for units that differ only in comments and white space."""
    pattern = _COMMENTS[PROGRAMMING_LANGUAGES[unit.language].line_comment]
    tokens = pattern.sub(lambda match: "" if match["comment"] or match["space"] else match[0], unit.code)
    return hashlib.blake2b(tokens.encode(), digest_size=16).digest()
