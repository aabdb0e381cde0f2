"""Source packages of many languages that benchmarks read, fetched by the ordinary clients of three registries."""

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

#: Client -> the packages that it fetches. The versions are those of the figures in `docs/reading.md`.
PACKAGES = {
    "pip": (
        "django==5.2.19 networkx==3.6.1 psutil==7.2.2 jpype1==1.7.1 pythonnet==3.2.1 yyjson==4.0.6 lz4==4.4.5"
        " pybind11==3.1.0 pysimdjson==7.0.2 cryptography==50.0.2 pydantic-core==2.50.5 orjson==3.13.0"
    ),
    "npm": (
        "better-sqlite3@12.11.1 zod@4.6.7 rxjs@7.8.2 @wordpress/block-library@11.1.0 lodash@4.18.1 express@5.3.0"
        " expo-modules-core@58.0.7 @capacitor/ios@8.5.2 @capacitor/android@8.5.2"
    ),
    "apt-get": (
        "golang-golang-x-tools-dev golang-github-spf13-cobra-dev ruby-rack ruby-activesupport php-symfony-console"
        " php-twig lua-penlight luarocks bash-completion devscripts"
    ),
}
#: The npm package whose parser counts the functions of JavaScript and TypeScript.
TYPESCRIPT = "typescript@5.9.3"


def fetch_typescript(folder: Path) -> Path:
    """Fetch the TypeScript compiler into a folder unless it is there, and return the folder of its package."""
    target = folder / folder_name(TYPESCRIPT)
    if not target.exists():
        _fetch(TYPESCRIPT, _by_npm, target)
    return target / "package"


def fetch_packages(folder: Path) -> list[Path]:
    """Fetch and unpack `PACKAGES` into a folder and return the folder of each. Those already there are kept.

    Raises:
        ValueError: a client is not installed.
        RuntimeError: a package was not fetched.
    """
    if missing := [client for client in PACKAGES if shutil.which(client) is None]:
        raise ValueError(f"--fetch needs pip, npm and apt-get, not found: {', '.join(missing)}. Pass folders.")

    fetchers: dict[str, Callable[[str, Path], Path]] = {"pip": _by_pip, "npm": _by_npm, "apt-get": _by_apt}
    folders = []
    for client, packages in PACKAGES.items():
        for package in packages.split():
            target = folder / folder_name(package)
            if not target.exists():
                _fetch(package, fetchers[client], target)
            folders.append(target)
    return folders


def folder_name(package: str) -> str:
    """Return a package's name without its version: "@capacitor/ios@8.5.2" -> "capacitor-ios"."""
    return re.split(r"==|(?<=.)@", package)[0].lstrip("@").replace("/", "-")


def _fetch(package: str, fetcher: Callable[[str, Path], Path], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    # The scratch folder is beside the target, so that the last step is a rename: a package is whole or absent.
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".fetch-") as scratch:
        try:
            unpacked = fetcher(package, Path(scratch))
        except (OSError, ValueError, subprocess.CalledProcessError, StopIteration) as error:
            raise RuntimeError(f"{package} was not fetched: {error}") from error
        unpacked.rename(target)


def _by_pip(package: str, scratch: Path) -> Path:
    """Fetch a source distribution. pip asks its build for metadata; if that fails, the source is left."""
    options = ["--no-deps", "--no-binary", ":all:", "--no-build-isolation", "--no-clean"]
    archives = scratch / "archives"
    command = ["pip", "download", "-q", *options, "-d", str(archives), package]
    _run(command, scratch, environment={"TMPDIR": str(scratch)}, check=False)

    if archive := next(archives.glob("*"), None):
        return _unpacked(archive, scratch)
    return next(scratch.glob("pip-download-*/*/"))


def _by_npm(package: str, scratch: Path) -> Path:
    _run(["npm", "pack", "--silent", package], scratch)
    return _unpacked(next(scratch.glob("*.tgz")), scratch)


def _by_apt(package: str, scratch: Path) -> Path:
    _run(["apt-get", "download", "-qq", package], scratch)
    _run(["dpkg-deb", "-x", str(next(scratch.glob("*.deb"))), "unpacked"], scratch)
    return scratch / "unpacked"


def _unpacked(archive: Path, scratch: Path) -> Path:
    shutil.unpack_archive(archive, scratch / "unpacked", filter="data")
    return scratch / "unpacked"


def _run(
    command: Sequence[str], folder: Path, environment: dict[str, str] | None = None, check: bool = True
) -> None:
    subprocess.run(
        command, cwd=folder, env=os.environ | (environment or {}), check=check, capture_output=True, text=True
    )
