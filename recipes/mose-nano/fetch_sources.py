#!/usr/bin/env python
"""Fetch the source packages of sources.yaml, with pip, npm and apt as this machine has them configured.

    python recipes/mose-nano/fetch_sources.py --output-dir runs/sources

Leaves a folder for each language with a folder for each package, as `recipe.py --sources` reads them. Existing
folders are not fetched again. A package that cannot be fetched is named and skipped. apt needs a Debian or Ubuntu
with source packages (`deb-src`) enabled.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml
from tqdm import tqdm

from mose.utils.command_line import exit_status

HERE = Path(__file__).parent
PIP_OPTIONS = ("--quiet", "--no-deps", "--only-binary=:all:")


def _call(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def _file(folder: Path, pattern: str) -> Path:
    """Return the first file that matches; signatures of archives do not count."""
    return next(path for path in sorted(folder.glob(pattern)) if path.is_file() and path.suffix != ".asc")


def _pip(package: str, work: Path, target: Path) -> None:
    _call(work, sys.executable, "-m", "pip", "download", *PIP_OPTIONS, package)
    shutil.unpack_archive(_file(work, "*.whl"), target, "zip")


def _npm(package: str, work: Path, target: Path) -> None:
    _call(work, "npm", "pack", "--silent", package)
    shutil.unpack_archive(_file(work, "*.tgz"), target, filter="data")


def _debian(package: str, work: Path, target: Path) -> None:
    _call(work, "apt-get", "download", package)
    _call(work, "dpkg-deb", "-x", _file(work, "*.deb").name, str(target))
    for archive in target.rglob("src.zip"):  # of OpenJDK
        if not archive.is_symlink():
            shutil.unpack_archive(archive, target / "src")


def _debian_source(package: str, work: Path, target: Path) -> None:
    _call(work, "apt-get", "source", "--download-only", package)
    shutil.unpack_archive(_file(work, "*.orig.tar.*"), target, filter="data")


#: Section of sources.yaml → what unpacks one of its packages into a folder.
FETCHERS: dict[str, Callable[[str, Path, Path], None]] = {"pip": _pip, "npm": _npm}
FETCHERS |= {"debian": _debian, "debian_source": _debian_source}


def fetch_all(output_dir: Path) -> None:
    """Fetch all packages of sources.yaml that have no folder yet; a RuntimeError names those that failed."""
    sources = yaml.safe_load((HERE / "sources.yaml").read_text())
    packages = [
        (fetch, package, (output_dir / language / package).resolve())
        for kind, fetch in FETCHERS.items()
        for language, names in sources[kind].items()
        for package in names
    ]

    failures = []
    for fetch, package, target in tqdm([item for item in packages if not item[2].exists()], unit="package"):
        with tempfile.TemporaryDirectory() as work:
            unpacked = Path(work) / "unpacked"
            unpacked.mkdir()
            try:
                fetch(package, Path(work), unpacked)
            except (OSError, StopIteration, subprocess.CalledProcessError, shutil.ReadError) as error:
                failures.append(f"{package}: {type(error).__name__}")
                continue

            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(unpacked, target, symlinks=True)

    if failures:
        raise RuntimeError("\n".join(["not fetched:", *failures]))


def main() -> int:
    """Fetch all packages and return the exit code: 1 if one could not be fetched."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True, help="folder for the languages")
    options = parser.parse_args()
    return exit_status(parser.prog, lambda: fetch_all(options.output_dir))


if __name__ == "__main__":
    sys.exit(main())
