#!/usr/bin/env python
"""Fetch the packages of sources.yaml and keep their source files as JSON lines, one file for each package.

    python recipes/depth/fetch.py --output-dir runs/depth/corpus

`--sources` names another list of packages; what sources.yaml excludes is excluded from it, too.

pip, npm and apt are used as this machine has them configured; apt needs a Debian or Ubuntu with source packages
(`deb-src`) enabled. A row has `text`, `repository`, `language` and `path`. Packages that have a file are not
fetched again. A package that cannot be fetched is named and skipped.
"""

import argparse
import fnmatch
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import yaml
from tqdm import tqdm

from mose.utils.command_line import ArgumentError, exit_status, positive_int
from mose.utils.files import atomic_write_text

HERE = Path(__file__).parent
SOURCES = HERE / "sources.yaml"
sys.path.append(str(HERE.parent / "mose-nano"))
from fetch_sources import download_package, unpack_package  # noqa: E402

#: Section of sources.yaml -> kind of `download_package`, and the archives to unpack: those of the first pattern
#: that matches. A native Debian source package has no `.orig` archive.
SECTIONS = {
    "deb": ("debian", ("*.deb",)),
    "npm": ("npm", ("*.tgz",)),
    "pip": ("pip", ("*.whl",)),
    "src": ("debian_source", ("*.orig*.tar.*", "*.tar.*")),
}
FAILURES = (OSError, subprocess.SubprocessError, shutil.ReadError, tarfile.TarError, ValueError)
#: Bytes of a file that is kept, characters of its longest line, and of the head that may say "generated".
FILE_BYTES, MAX_LINE, HEAD = range(200, 150_001), 1000, 600
#: A package gives files until it has this many characters and this many files: no giant makes up the corpus.
ENOUGH_CHARACTERS, ENOUGH_FILES = 4_000_000, 100
#: Folders of others' code, of data and of build outputs, and names of generated files; `/` begins a path.
SKIPPED_PATH = re.compile(
    r"/(node_modules|vendor|third_party|thirdparty|test-?data|fixtures|\.git|locales?|po|dist|umd|cjs|esm|es5"
    r"|bundles)/|\.min\.|\.d\.ts$|_pb2|\.pb\.|generated|\.bundle\.",
    re.IGNORECASE,
)


def read_list(path: Path = SOURCES) -> dict:
    """Return `packages` of a list, and `excluded` and `languages` of sources.yaml.

    Raises:
        ArgumentError: the list has no packages, or a section that is unknown.
    """
    own, named = (yaml.safe_load(each.read_text(encoding="utf-8")) for each in (SOURCES, path))
    packages = named.get("packages") if isinstance(named, dict) else None
    if not isinstance(packages, dict) or not set(packages) <= set(SECTIONS):
        known, given = ", ".join(SECTIONS), list(packages) if isinstance(packages, dict) else packages
        raise ArgumentError(f"{path} must have `packages` with sections of {known}, got {given!r}.")
    return own | {"packages": packages}


def excluded_project(package: str, excluded: Mapping[str, str]) -> str | None:
    """Return the excluded project that a package belongs to by its name, or None.

    `excluded` maps projects to patterns as of a shell, separated by spaces.
    """
    for project, patterns in excluded.items():
        if any(fnmatch.fnmatchcase(package.lower(), pattern) for pattern in patterns.split()):
            return project
    return None


def source_rows(folder: Path, repository: str, languages: Mapping[str, str]) -> Iterator[dict]:
    """Yield the source files below a folder as rows, without generated, over-large and repeated ones.

    `languages` maps extensions to languages. Files that are not UTF-8 are left out.
    """
    seen: set[str] = set()
    for path in sorted(folder.rglob("*")):
        relative = path.relative_to(folder).as_posix()
        language = languages.get(path.suffix.lower().removeprefix("."))
        if language is None or SKIPPED_PATH.search(f"/{relative}") or path.is_symlink() or not path.is_file():
            continue
        if path.stat().st_size not in FILE_BYTES:
            continue

        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            continue
        if text not in seen and is_written_by_hand(text):
            seen.add(text)
            yield {"text": text, "repository": repository, "language": language, "path": relative}


def is_written_by_hand(text: str) -> bool:
    """Return whether a text is no binary, has no over-long line, and does not say that it is generated."""
    if "\0" in text or max(map(len, text.split("\n"))) > MAX_LINE:
        return False
    head = text[:HEAD].lower()
    return not ("generated" in head[:400] and "do not edit" in head)


def sampled_rows(rows: list[dict], package: str) -> list[dict]:
    """Return the rows in an order that depends on their paths alone, and enough of them."""
    rows = sorted(rows, key=lambda row: hashlib.sha1((package + row["path"]).encode()).digest())
    characters = 0
    for count, row in enumerate(rows):
        if characters > ENOUGH_CHARACTERS and count >= ENOUGH_FILES:
            return rows[:count]
        characters += len(row["text"])
    return rows


def without_links(member: tarfile.TarInfo, target: str) -> tarfile.TarInfo | None:
    """Return a member to unpack, or None for a link, which may lead out of the archive and is never read."""
    return None if member.issym() or member.islnk() else tarfile.data_filter(member, target)


def fetch_rows(section: str, package: str, languages: Mapping[str, str]) -> list[dict]:
    """Return the rows of a package, fetched now.

    Raises:
        FileNotFoundError: the download left no archive.
        OSError, SubprocessError, ReadError, TarError, ValueError: it failed, or its archive is damaged.
    """
    kind, patterns = SECTIONS[section]
    with tempfile.TemporaryDirectory() as name:
        work, target = Path(name), Path(name) / "unpacked"
        target.mkdir()
        download_package(kind, package, work)
        matches = ([path for path in sorted(work.glob(p)) if path.suffix != ".asc"] for p in patterns)
        archives = next(filter(None, matches), None)
        if archives is None:
            raise FileNotFoundError(f"the download left no {' or '.join(patterns)}")

        for archive in archives:
            unpack_package(archive, target, without_links)
        rows = list(source_rows(target, f"{section}/{package}", languages))
    return sampled_rows(rows, package)


def failure_reason(error: Exception) -> str:
    """Return one line on why a package could not be fetched: what its program printed last, if it printed."""
    printed = (getattr(error, "stderr", None) or b"").decode(errors="replace").split("\n")
    lines = [line.strip() for line in printed if line.strip()]
    return f"{type(error).__name__}: {lines[-1] if lines else error}"


def package_file(output_dir: Path, section: str, package: str) -> Path:
    """Return the file of a package."""
    return output_dir / f"{section}-{package.replace('/', '_')}.jsonl"


def chosen_packages(sources: Mapping, names: Collection[str]) -> list[tuple[str, str]]:
    """Return section and name of the packages of a list, of `names` alone if there are any.

    Raises:
        ArgumentError: a name is not in the list, or the list has a package of an excluded project.
    """
    packages = [(section, package) for section in SECTIONS for package in sources["packages"].get(section, ())]
    for _, package in packages:
        if project := excluded_project(package, sources["excluded"]):
            raise ArgumentError(f"the list has {package}, which belongs to the excluded {project}.")
    if unknown := sorted(set(names) - {package for _, package in packages}):
        raise ArgumentError(f"--packages must be in the list, got {', '.join(unknown)}.")
    return [item for item in packages if not names or item[1] in names]


def fetch_corpus(
    output_dir: Path, names: Collection[str] = (), workers: int = 3, sources_path: Path = SOURCES
) -> None:
    """Fetch all packages of a list that have no file yet; a RuntimeError names those that failed."""
    sources = read_list(sources_path)
    languages = {word: language for language, words in sources["languages"].items() for word in words.split()}
    packages = chosen_packages(sources, names)
    output_dir.mkdir(parents=True, exist_ok=True)
    missing = [item for item in packages if not package_file(output_dir, *item).exists()]

    failures = []
    with ThreadPoolExecutor(workers) as pool, tqdm(total=len(missing), unit="package") as bar:
        futures = {pool.submit(fetch_rows, *item, languages): item for item in missing}
        try:
            for future in as_completed(futures):
                # Popped, so that the rows of one package do not outlive the next.
                section, package = futures.pop(future)
                try:
                    rows = future.result()
                except FAILURES as error:
                    failures.append(f"{section}/{package}: {failure_reason(error)}")
                else:
                    lines = "".join(json.dumps(row) + "\n" for row in rows)
                    atomic_write_text(package_file(output_dir, section, package), lines)
                bar.update()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    if failures:
        raise RuntimeError("\n".join(["not fetched:", *sorted(failures)]))


def main() -> int:
    """Fetch the packages and return the exit code: 1 if one could not be fetched."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the packages' files")
    parser.add_argument("--packages", nargs="+", default=[], metavar="NAME", help="these packages alone")
    parser.add_argument("--sources", type=Path, default=SOURCES, metavar="FILE", help="list of packages")
    parser.add_argument("--workers", type=positive_int, default=3, help="packages fetched at once")
    options = parser.parse_args()
    choices = (options.packages, options.workers, options.sources)
    return exit_status(parser.prog, lambda: fetch_corpus(options.output_dir, *choices))


if __name__ == "__main__":
    sys.exit(main())
