#!/usr/bin/env python
"""Fetches the source packages named in sources.yaml, with pip, npm and apt as they are set up on this machine.

    python recipes/mose-nano/fetch_sources.py --output-dir runs/sources

Leaves a folder for each language and in it one for each package, as `recipe.py --sources` wants them; what is
there already is not fetched again. A package that cannot be had is named and passed over. apt needs a Debian or
Ubuntu with source packages (`deb-src`) switched on.
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

HERE = Path(__file__).parent


def run(folder: Path, *command: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True)


def one(folder: Path, pattern: str) -> Path:
    return next(path for path in sorted(folder.glob(pattern)) if path.is_file())


def pip(package: str, work: Path, target: Path) -> None:
    run(work, sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", package)
    shutil.unpack_archive(one(work, "*.whl"), target, "zip")


def npm(package: str, work: Path, target: Path) -> None:
    run(work, "npm", "pack", "--silent", package)
    shutil.unpack_archive(one(work, "*.tgz"), target, filter="data")


def debian(package: str, work: Path, target: Path) -> None:
    run(work, "apt-get", "download", package)
    run(work, "dpkg-deb", "-x", one(work, "*.deb").name, str(target))
    for archive in target.rglob("src.zip"):  # OpenJDK's
        if not archive.is_symlink():
            shutil.unpack_archive(archive, target / "src")


def debian_source(package: str, work: Path, target: Path) -> None:
    run(work, "apt-get", "source", "--download-only", package)
    archive = next(path for path in sorted(work.glob("*.orig.tar.*")) if path.suffix != ".asc")
    shutil.unpack_archive(archive, target, filter="data")


FETCHERS: dict[str, Callable[[str, Path, Path], None]] = {
    "pip": pip,
    "npm": npm,
    "debian": debian,
    "debian_source": debian_source,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output-dir", type=Path, required=True, help="where the folders of the languages go")
    options = parser.parse_args()
    sources = yaml.safe_load((HERE / "sources.yaml").read_text())
    wanted = [
        (fetch, package, (options.output_dir / language / package).resolve())
        for kind, fetch in FETCHERS.items()
        for language, packages in sources[kind].items()
        for package in packages
    ]
    failed = []
    for fetch, package, target in tqdm([item for item in wanted if not item[2].exists()], unit="package"):
        with tempfile.TemporaryDirectory() as work:
            unpacked = Path(work) / "unpacked"
            unpacked.mkdir()
            try:
                fetch(package, Path(work), unpacked)
            except (OSError, StopIteration, subprocess.CalledProcessError, shutil.ReadError) as error:
                failed.append(f"{package}: {type(error).__name__}")
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(unpacked, target, symlinks=True)
    for line in failed:
        print(f"not fetched: {line}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
