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
#: A download that takes longer has failed.
MAX_SECONDS = 900
#: Section of sources.yaml → command that downloads one of its packages, and the archive that it leaves.
FETCHERS = {
    "pip": ((sys.executable, "-m", "pip", "download", *PIP_OPTIONS), "*.whl"),
    "npm": (("npm", "pack", "--silent"), "*.tgz"),
    "debian": (("apt-get", "download"), "*.deb"),
    "debian_source": (("apt-get", "source", "--download-only"), "*.orig.tar.*"),
}


def download_package(kind: str, package: str, work: Path) -> None:
    """Download a package's archives to the folder `work`."""
    command, _ = FETCHERS[kind]
    subprocess.run([*command, package], cwd=work, check=True, capture_output=True, timeout=MAX_SECONDS)


def unpack_package(archive: Path, target: Path, tar_filter: str | Callable = "data") -> None:
    """Unpack an archive of any kind into the folder `target`; `tar_filter` is one of `tarfile`'s."""
    if archive.suffix == ".deb":
        subprocess.run(["dpkg-deb", "-x", archive, target], check=True, capture_output=True)
    elif archive.suffix == ".whl":
        shutil.unpack_archive(archive, target, "zip")
    else:
        shutil.unpack_archive(archive, target, filter=tar_filter)


def fetch(kind: str, package: str, work: Path, target: Path) -> None:
    """Download a package to `work` and unpack it into `target`."""
    download_package(kind, package, work)
    # Signatures of archives do not count.
    paths = sorted(work.glob(FETCHERS[kind][1]))
    unpack_package(next(path for path in paths if path.is_file() and path.suffix != ".asc"), target)

    for sources in target.rglob("src.zip") if kind == "debian" else ():  # of OpenJDK
        if not sources.is_symlink():
            shutil.unpack_archive(sources, target / "src")


def fetch_all(output_dir: Path) -> None:
    """Fetch all packages of sources.yaml that have no folder yet; a RuntimeError names those that failed."""
    sources = yaml.safe_load((HERE / "sources.yaml").read_text())
    packages = [
        (kind, package, (output_dir / language / package).resolve())
        for kind in FETCHERS
        for language, names in sources[kind].items()
        for package in names
    ]

    failures = []
    for kind, package, target in tqdm([item for item in packages if not item[2].exists()], unit="package"):
        with tempfile.TemporaryDirectory() as work:
            unpacked = Path(work) / "unpacked"
            unpacked.mkdir()
            try:
                fetch(kind, package, Path(work), unpacked)
            except (OSError, StopIteration, subprocess.SubprocessError, shutil.ReadError) as error:
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
