"""transformers' own model tests, which only its source distribution holds: fetch them, and find them.

    python tests/support/transformers_suite.py

fetches those of the installed transformers into the virtual environment (`make .venv/.transformers-tests`).
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from mose.utils.files import atomic_folder

PACKAGE = "transformers_model_tests"
COMMAND = "make .venv/.transformers-tests"
#: Modules that `test_modeling_common.py` imports for tests of generation and export, which do not apply here.
STUBS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
}


def suite_folder() -> Path:
    """Return where the tests of the installed transformers are, or will be."""
    import transformers  # slow to import; pytest's collection of other tests does not need it

    return Path(sys.prefix) / "transformers-tests" / transformers.__version__


def fetch() -> None:
    """Download the source distribution of the installed transformers and keep its common model tests."""
    folder = suite_folder()
    if folder.exists():
        return

    with tempfile.TemporaryDirectory() as download:
        requirement = f"transformers=={folder.name}"
        options = [
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-binary",
            ":all:",
            "--dest",
            download,
        ]
        subprocess.run([sys.executable, "-m", "pip", "download", *options, requirement], check=True)

        (archive,) = Path(download).glob("transformers-*.tar.gz")
        with tarfile.open(archive) as tar:
            member = tar.extractfile(f"transformers-{folder.name}/tests/test_modeling_common.py")
            assert member is not None
            source = member.read()

    with atomic_folder(folder) as partial:
        files = {name: text.encode() for name, text in STUBS.items()} | {"test_modeling_common.py": source}
        for name, content in files.items():
            path = partial / PACKAGE / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


if __name__ == "__main__":
    fetch()
