"""Check that the documents name existing modules, files, commands and flags, and the shipped report's figures."""

import ast
import importlib.util
import json
import re
from functools import cache
from pathlib import Path

import pytest

# Together they take seconds.
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "recipes/*/*.md")
    for path in ROOT.glob(pattern)
)
REPORT = json.loads((ROOT / "docs/report/report.json").read_text(encoding="utf-8"))
SETS = ("cosqa-dev", "docstring-python-dev", "mbxp-dev", "java-csharp-dev")

FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
CODE = re.compile(r"`([^`]+)`")
MODULE_NAME = re.compile(r"\bmose(?:\.(?!__path__)[A-Za-z_]\w*)+")
FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")
NAME_IN_FILE = re.compile(r"`(\w+)` (?:in|of) `([\w./]+\.py)`")
TORCHRUN_FLAGS = {"--nnodes", "--nproc-per-node", "--rdzv-backend", "--rdzv-endpoint", "--rdzv-id"}
COMMAND = re.compile(
    r"(?:python -m (?P<module>mose[\w.]*)|python (?P<script>[\w./-]+\.py)|(?<![\w./-])mose (?P<console>[a-z]+))"
    r"(?: (?P<subcommand>[a-z][a-z-]*))?(?P<rest>.*)"
)


def text_of(document):
    return (ROOT / document).read_text(encoding="utf-8")


def commands(document):
    """Yield a match of COMMAND for every command in a fence or in backticks; continued lines are joined."""
    text = text_of(document)
    fences = [body for _, body in FENCE.findall(text)]
    inline = CODE.findall(FENCE.sub("", text).replace("\n", " "))
    for snippet in fences + inline:
        for line in re.sub(r"\\\n\s*", " ", snippet).splitlines():
            if match := COMMAND.search(line.split("  #")[0]):
                yield match


def source_files(match):
    """Return the files that may define the subcommands and flags of a command."""
    if match["console"]:
        homes = {"train": "train_hf", "synthconl": "data/synthconl", "encode": "scale", "deduplicate": "scale"}
        module = homes.get(match["console"], match["console"])
    elif match["module"]:
        module = match["module"].removeprefix("mose").lstrip(".").replace(".", "/")
    else:
        module = match["script"].removesuffix(".py")
    if module == "train_hf":
        return (ROOT / "train_hf.py", *sorted((ROOT / "training").rglob("*.py")))
    if (ROOT / module).is_dir():
        return tuple(sorted((ROOT / module).rglob("*.py")))
    shared = (ROOT / "benchmarks/command.py",) if module.startswith("benchmarks/") else ()
    return (ROOT / f"{module}.py", *shared)


@cache
def words(files):
    """Return every string constant, class field and parameter of files, as command-line words."""
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names.add("--" + node.target.id.replace("_", "-"))
        names.add(file.stem.replace("_", "-"))
    return names


@cache
def training_arguments():
    """Return the flags of transformers' TrainingArguments, without importing torch."""
    (location,) = importlib.util.find_spec("transformers").submodule_search_locations
    return words((Path(location) / "training_args.py",))


def exists(module):
    """Return if a dotted name is a module of the package, or a name that its module's source contains."""
    path, parts = ROOT, module.split(".")[1:]
    while parts and (path / parts[0]).is_dir():
        path /= parts.pop(0)
    if parts and (path / f"{parts[0]}.py").is_file():
        path /= f"{parts.pop(0)}.py"
    source = path / "__init__.py" if path.is_dir() else path
    if not source.is_file():
        return not parts
    return all(re.search(rf"\b{part}\b", source.read_text(encoding="utf-8")) for part in parts)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_modules_exist(document):
    assert [name for name in set(MODULE_NAME.findall(text_of(document))) if not exists(name)] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_exist(document):
    text = text_of(document)
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in ("runs", "build")}
    plain = [
        code.strip("/") for code in CODE.findall(FENCE.sub("", text)) if re.fullmatch(r"[\w.-]+(/[\w.-]*)*", code)
    ]
    named = [path for path in plain if path.split("/")[0] in folders or path.endswith(".py")]
    scripts = [match["script"] for match in commands(document) if match["script"]]
    near = (ROOT, (ROOT / document).parent)
    assert [path for path in named + scripts if not any((base / path).exists() for base in near)] == []
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []
    assert [pair for pair in NAME_IN_FILE.findall(text) if pair[0] not in (ROOT / pair[1]).read_text()] == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_have_their_subcommands_and_flags(document):
    unknown = []
    for match in commands(document):
        known = words(source_files(match)) | {"--help"}
        if match["script"] == "train_hf.py" or match["console"] == "train":
            known |= training_arguments()
        if match["subcommand"] and (match["module"] or match["console"] or match["script"] == "train_hf.py"):
            unknown += [match[0]] * (match["subcommand"] not in known)
        unknown += [(match[0], flag) for flag in FLAG.findall(match["rest"]) if flag not in known]
    assert unknown == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_flags_exist_anywhere(document):
    sources = tuple(path for path in ROOT.rglob("*.py") if not {".venv", "tests", "runs"} & set(path.parts))
    known = words(sources) | training_arguments() | TORCHRUN_FLAGS | {"--help"}
    assert sorted(set(FLAG.findall(text_of(document))) - known) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_python_blocks_parse(document):
    for language, body in FENCE.findall(text_of(document)):
        if language == "python":
            ast.parse(body)


def test_the_blocks_of_the_readme_run_from_any_folder(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    names = {}
    for language, body in FENCE.findall(text_of("README.md")):
        if language == "python":
            exec(body, names)
    assert [embedding.shape for embedding in names["out"].exit_embeddings] == [(2, 384)] * 3
    assert names["st"].similarity(names["queries"], names["documents"])[0].argmax() == 0
    assert capsys.readouterr().out.startswith("tensor")


@pytest.mark.parametrize("document", ["README.md", "docs/evaluation.md"])
def test_tables_hold_the_figures_of_the_shipped_report(document):
    rows = [[cell.strip(" *") for cell in line.strip("|").split("|")] for line in text_of(document).splitlines()]
    for key in REPORT["sets"][SETS[0]]["exits"]:
        cells = next(row for row in rows if row[0] == f"exit {key}")
        quality = [f"{REPORT['sets'][name]['exits'][key]['mrr']:.3f}" for name in SETS]
        assert [cell[:5] for cell in cells if cell[:2] == "0."][:4] == quality
        speed = REPORT["speed"][key]
        expected = [f"{speed['snippets_per_second']:,.0f}", f"{speed['query_ms_p50']:.1f}"]
        assert any(row[0] == f"exit {key}" and "".join(expected) in "".join(row) for row in rows)
