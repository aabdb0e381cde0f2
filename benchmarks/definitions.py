"""Measure how many functions of real source trees are read, against counts made without MoSE.

Each file of each folder is read as for an index, whatever its size. Its functions and methods are compared with
those of `benchmarks/counters.py`: the same name, and the counter's line within the unit. "listed" functions are
units of their own. A function "nested" in a listed one belongs to it: it is inside its lines and indented deeper.
What is neither is "lost". `recall` is listed / (listed + lost). "ours only" are units that the counter does not
report, not even as a declaration without a body.

    python benchmarks/definitions.py --fetch ~/packages
    python benchmarks/definitions.py FOLDER … --missing
"""

import argparse
import os
import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mose.benchmarks import command
from mose.benchmarks.command import Benchmark, Report
from mose.benchmarks.counters import CTAGS, PATTERNS, Count, count_functions
from mose.benchmarks.packages import fetch_packages, fetch_typescript
from mose.data.source.definitions import extract_units
from mose.data.source.languages import language_of, supported_languages
from mose.data.source.units import Unit

#: Kinds of units that are functions.
FUNCTIONS = {"function", "method"}


@dataclass
class Comparison:
    """Agreements and disagreements of two ways to read the same files; each disagreement as "file:line name"."""

    files: int = 0
    listed: int = 0
    nested: int = 0
    lost: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)

    def add(self, other: "Comparison") -> None:
        """Count another comparison in."""
        self.files += other.files
        self.listed += other.listed
        self.nested += other.nested
        self.lost += other.lost
        self.extra += other.extra

    @property
    def recall(self) -> float:
        """Share of the functions that had to be listed which are."""
        return self.listed / max(1, self.listed + len(self.lost))


class Definitions(Benchmark):
    """Functions read from real source trees, against independent counts."""

    description = "How many functions of source trees are read, against Python's ast and Universal Ctags."

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the flags for what is read and shown."""
        parser.add_argument("folders", nargs="*", type=Path, metavar="FOLDER", help="source trees, one a package")
        help_text = "fetch the packages of benchmarks/packages.py into this folder, and read them"
        parser.add_argument("--fetch", type=Path, metavar="FOLDER", help=help_text)
        help_text = (
            "the npm package typescript, which then counts JavaScript and TypeScript (default: ctags does)"
        )
        parser.add_argument("--typescript", type=Path, metavar="FOLDER", help=help_text)
        parser.add_argument("--languages", nargs="+", metavar="KEY", help="languages to compare (default: all)")
        parser.add_argument("--missing", action="store_true", help="name what is lost and what only we list")

    def measure(self, options: argparse.Namespace) -> Report:
        """Compare all files and return the figures by language and package."""
        folders, typescript = list(options.folders), options.typescript
        if options.fetch:
            folders += fetch_packages(options.fetch)
            typescript = typescript or fetch_typescript(options.fetch)
        if not folders:
            raise ValueError("no folder given. Pass source trees, or --fetch FOLDER.")
        languages = set(options.languages or (*CTAGS, *PATTERNS, "python")) & set(supported_languages())

        rows: dict[str, dict[str, Comparison]] = defaultdict(dict)
        for folder in folders:
            for language, comparison in compare_folder(folder, languages, typescript).items():
                rows[language][folder.resolve().name] = comparison
        for packages in rows.values():
            if len(packages) > 1:
                total = Comparison()
                for comparison in packages.values():
                    total.add(comparison)
                packages["all"] = total

        return {
            "languages": {
                language: {
                    name: vars(comparison) | {"recall": comparison.recall}
                    for name, comparison in packages.items()
                }
                for language, packages in sorted(rows.items())
            }
        }

    def render(self, report: Report) -> str:
        """Return a table with a row for each language of each package."""
        header = ["language", "package", "files", "listed", "nested", "lost", "recall", "ours only"]
        table, names = [], []
        for language, packages in report["languages"].items():
            for package, row in packages.items():
                figures = [row["files"], row["listed"], row["nested"], len(row["lost"])]
                recall = f"{100 * row['recall']:.2f} %" if row["listed"] or row["lost"] else ""
                table.append([language, package, *map(str, figures), recall, str(len(row["extra"]))])
                if package != "all":
                    names += [f"{language} lost {name}" for name in row["lost"]]
                    names += [f"{language} ours {name}" for name in row["extra"]]

        text = command.text_table(header, table)
        return "\n".join([text, "", *names]) if report["settings"]["missing"] else text


def compare_folder(
    folder: Path, languages: Collection[str], typescript: Path | None = None
) -> dict[str, Comparison]:
    """Return what the counters and MoSE list in a folder's files, by language.

    Raises:
        FileNotFoundError: the folder does not exist.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    files = [(path, language) for path, language in _source_files(folder) if language in languages]
    counts = count_functions(files, typescript)

    comparisons: dict[str, Comparison] = defaultdict(Comparison)
    for path, language in files:
        if path in counts:
            comparisons[language].add(compare_file(path, language, counts[path]))
    return comparisons


def _source_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield every file in a language that is read; minified ones have no lines to compare."""
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for path in (Path(parent, name) for name in sorted(names)):
            if path.is_file() and not path.is_symlink() and ".min." not in path.name and language_of(path):
                language = language_of(path, path.read_bytes())
                if language is not None:
                    yield path, language


def compare_file(path: Path, language: str, counts: Sequence[Count]) -> Comparison:
    """Compare the functions of one file."""
    text = path.read_bytes().decode(errors="replace").replace("\r\n", "\n")
    units = [
        unit for unit in extract_units(text.encode(), language, file_name=path.name) if unit.kind in FUNCTIONS
    ]
    return compare(units, counts, text.split("\n"), str(path))


def compare(units: Sequence[Unit], counts: Sequence[Count], lines: Sequence[str], file: str = "") -> Comparison:
    """Compare the units that are functions with a counter's functions in the same lines of text."""
    by_name: dict[str, list[Unit]] = defaultdict(list)
    for unit in units:
        by_name[_bare(unit.name)].append(unit)

    comparison, unlisted = Comparison(files=1), []
    for count in sorted(counts, key=lambda count: count.line):
        # Of several around the line, such as a decorator and the wrapper in it, the one that starts last.
        names = {_bare(count.name), count.alias}
        around = [
            unit for name in names for unit in by_name[name] if unit.start_line <= count.line <= unit.end_line
        ]
        if around:
            unit = max(around, key=lambda unit: unit.start_line)
            by_name[_bare(unit.name)].remove(unit)
            comparison.listed += count.defined
        elif count.defined:
            unlisted.append(count)

    for count in unlisted:
        around = [unit for unit in units if unit.start_line < count.line <= unit.end_line]
        if any(_indentation(lines, unit.start_line) < _indentation(lines, count.line) for unit in around):
            comparison.nested += 1
        else:
            comparison.lost.append(f"{file}:{count.line} {count.name}")
    extra = [unit for rest in by_name.values() for unit in rest]
    comparison.extra = [f"{file}:{unit.start_line} {unit.name}" for unit in extra]
    return comparison


def _bare(name: str) -> str:
    """Return a name without what qualifies it and without spaces: "M.f" -> "f", "operator ==" -> "operator=="."""
    if re.match(r"operator(?![\w.:])|operator\s", name):
        return "".join(name.split())
    return re.split(r"[.:]+(?=\w)", name)[-1]


def _indentation(lines: Sequence[str], number: int) -> int:
    line = lines[number - 1] if number <= len(lines) else ""
    return len(line.expandtabs()) - len(line.expandtabs().lstrip())


if __name__ == "__main__":
    sys.exit(Definitions().main())
