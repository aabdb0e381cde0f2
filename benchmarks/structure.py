"""Measure how the code reads: size, air, names, duplicates, docstrings, and who imports whom.

    python benchmarks/structure.py [ROOT]

Prints one table, and one line for every place that breaks a rule. `tests/test_structure.py` holds the limits.
Tests are not measured.
"""

import argparse
import ast
import graphlib
import subprocess
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

MAX_FUNCTION_LINES, MAX_COMPLEXITY = 60, 15
#: Variable names that the field does not use.
UNUSUAL_NAMES = frozenset({"at", "of", "found", "asked", "told"})
#: First words of a docstring that is no plain sentence about what the thing does or is.
INDIRECT_OPENINGS = frozenset({"What", "How", "Whether", "Where", "Those", "That", "Of"})
#: Names that several files may define: the entry points, and the protocol of commands and benchmark tasks.
SHARED_NAMES = frozenset({"main", "add_arguments", "run", "load", "__getattr__"})

MODEL_FILES = ("configuration_mose", "modeling_mose", "handler")
#: Package -> the packages that it may import. Entry points, benchmarks and recipes may import all.
MAY_IMPORT = {
    "model": set(),
    "utils": set(),
    "tokenization": {"utils"},
    "data": {"tokenization", "utils"},
    "inference": {"model", "tokenization", "utils"},
    "search": {"inference", "data", "tokenization", "utils"},
    "scale": {"inference", "data", "tokenization", "utils"},
    "eval": {"inference", "data", "tokenization", "utils"},
    "hub": {"eval", "inference", "model", "tokenization", "utils"},
    "training": {"model", "data", "tokenization", "hub", "inference", "utils"},
}
RULES = (
    *("unusual name", "defined twice", "long function", "complex function", "indirect docstring"),
    *("own main wrapper", "forbidden import", "import cycle"),
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
_LOOPS = (ast.For, ast.AsyncFor, ast.While, ast.comprehension)
_BRANCHES = (*_LOOPS, ast.If, ast.IfExp, ast.ExceptHandler, ast.Assert)


@dataclass
class Structure:
    """Figures of a checkout."""

    #: Numbers of lines: "all" of the files, and "body", "blank" and "comment" inside functions.
    lines: Counter[str] = field(default_factory=Counter)
    #: Rule -> the places that break it, as `file:line detail`.
    findings: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    trainer_chain: tuple[str, ...] = ()

    def share(self, kind: str) -> float:
        """Return the share of blank or comment lines among the lines of function bodies, in [0, 1]."""
        return self.lines[kind] / max(self.lines["body"], 1)


def source_trees(root: Path) -> dict[str, tuple[list[str], ast.Module]]:
    """Return the lines and the syntax tree of each Python file under version control, without the tests."""
    command = ["git", "-C", str(root), "ls-files", "*.py"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    names = [name for name in names if not name.startswith("tests/")]
    texts = {name: (root / name).read_text(encoding="utf-8") for name in names if (root / name).is_file()}
    return {name: (text.splitlines(), ast.parse(text)) for name, text in texts.items()}


def measure_structure(root: Path) -> Structure:
    """Measure the Python files of the checkout at `root`."""
    result, trees = Structure(), source_trees(root)
    for name, (lines, tree) in trees.items():
        _count_lines(lines, tree, result.lines)
        for node in ast.walk(tree):
            for rule, detail in _broken_rules(node):
                result.findings[rule].append(f"{name}:{getattr(node, 'lineno', 1)} {detail}")

    _check_definitions({name: tree for name, (_, tree) in trees.items()}, result)
    _check_imports({name: tree for name, (_, tree) in trees.items()}, result)
    return result


def _broken_rules(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield each rule that a node breaks, with a detail for the reader."""
    name = node.arg if isinstance(node, ast.arg) else node.id if isinstance(node, ast.Name) else ""
    if name in UNUSUAL_NAMES and not (isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)):
        yield "unusual name", name

    if isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Module)):
        words = (ast.get_docstring(node) or "").split()
        if words and words[0] in INDIRECT_OPENINGS:
            yield "indirect docstring", getattr(node, "name", "module")

    if isinstance(node, _FUNCTIONS):
        first, last = _body(node)
        if last - first + 1 > MAX_FUNCTION_LINES:
            yield "long function", f"{node.name} ({last - first + 1} lines)"
        if (complexity := _complexity(node)) > MAX_COMPLEXITY:
            yield "complex function", f"{node.name} (complexity {complexity})"


def _count_lines(lines: list[str], tree: ast.Module, counts: Counter[str]) -> None:
    """Count blank and comment lines in the bodies of functions; a nested function's lines count once."""
    inside: set[int] = set()
    strings: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, _FUNCTIONS):
            first, last = _body(node)
            inside |= set(range(first, last + 1))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.end_lineno:
            strings |= set(range(node.lineno, node.end_lineno + 1))

    counts["all"] += len(lines)
    counts["body"] += len(inside)
    counts["blank"] += sum(not lines[line - 1].strip() for line in inside)
    counts["comment"] += sum(lines[line - 1].lstrip().startswith("#") for line in inside - strings)


def _body(function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[int, int]:
    """Return the first and last line of a function's body, without its docstring."""
    skip = 1 if ast.get_docstring(function) is not None and len(function.body) > 1 else 0
    return function.body[skip].lineno, function.end_lineno or function.lineno


def _complexity(function: ast.AST) -> int:
    """Return the cyclomatic complexity (McCabe, 1976). Nested functions are counted on their own."""
    # Not ast.walk, which would descend into nested functions.
    total, pending = 1, list(ast.iter_child_nodes(function))
    while pending:
        node = pending.pop()
        if not isinstance(node, (*_FUNCTIONS, ast.Lambda)):
            total += isinstance(node, _BRANCHES) + (len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0)
            pending += ast.iter_child_nodes(node)
    return total


def _check_definitions(trees: dict[str, ast.Module], result: Structure) -> None:
    """Check that top-level names have one home and that every `main` shares the wrapper."""
    files: dict[str, list[str]] = defaultdict(list)
    bases: dict[str, list[str]] = {}

    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
                files[node.name].append(name)
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]

            if isinstance(node, _FUNCTIONS) and node.name == "main" and not _uses_command_line(tree, node):
                result.findings["own main wrapper"].append(f"{name}:{node.lineno}")

    duplicates = {name: homes for name, homes in files.items() if len(homes) > 1 and name not in SHARED_NAMES}
    result.findings["defined twice"] = [f"{name}: {', '.join(duplicates[name])}" for name in sorted(duplicates)]
    result.trainer_chain = max((_trainer_chain(name, bases) for name in bases), key=len, default=())


def _uses_command_line(tree: ast.Module, main: ast.AST) -> bool:
    """Return whether a `main` leaves the exit codes to `mose.utils.command_line`."""
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    shared = {alias.name for node in imports if node.module == "mose.utils.command_line" for alias in node.names}
    return any(isinstance(node, ast.Name) and node.id in shared for node in ast.walk(main))


def _trainer_chain(name: str, bases: dict[str, list[str]]) -> tuple[str, ...]:
    """Return a class and its ancestors up to transformers' `Trainer`; empty if it is no Trainer."""
    if name == "Trainer":
        return (name,)
    longest = max((_trainer_chain(base, bases) for base in bases.get(name, [])), key=len, default=())
    return (name, *longest) if longest else ()


def _package(module: str) -> str:
    """Return the package of the layout that a module of ours belongs to: "mose.eval.costs" -> "eval"."""
    first = module.split(".")[1] if "." in module else ""
    return "model" if first in MODEL_FILES else first


def _check_imports(trees: dict[str, ast.Module], result: Structure) -> None:
    """Check the imports of every module, inside functions too, against the table and for cycles."""
    modules = {name: f"mose.{name[:-3]}".replace("/", ".").removesuffix(".__init__") for name in trees}
    graph: dict[str, set[str]] = {module: set() for module in modules.values()}

    for name, tree in trees.items():
        source = modules[name]
        for line, imported in _imported_modules(tree):
            # `from mose.x import y` names the module mose.x.y, or y of the module mose.x.
            target = imported if imported in graph else imported.rpartition(".")[0]
            if target not in graph or target == source:
                continue

            graph[source].add(target)
            allowed = MAY_IMPORT.get(_package(source))
            if allowed is not None and _package(target) not in {*allowed, _package(source)}:
                result.findings["forbidden import"].append(f"{name}:{line} {imported}")

    # Imports inside functions count too: they would only hide a cycle.
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        result.findings["import cycle"].append(" -> ".join(error.args[1]))


def _imported_modules(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and dotted name of everything that is imported from `mose`, but not for type checking alone."""
    pending: list[ast.AST] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "mose":
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)

        # Names imported for type checking alone are no dependency when the program runs.
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            pending += ast.iter_child_nodes(node)


def print_structure() -> None:
    """Print the table, and the places that break a rule."""
    parser = argparse.ArgumentParser(description="Measure how the code reads.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1])
    result = measure_structure(parser.parse_args().root.resolve())

    print(f"lines: {result.lines['all']:,}")
    print(f"blank lines inside functions: {100 * result.share('blank'):.1f} %")
    print(f"comment lines inside functions: {100 * result.share('comment'):.1f} %")
    print(f"longest Trainer chain: {' < '.join(result.trainer_chain)}")
    for rule in RULES:
        print(f"{rule}: {len(result.findings[rule])}")
    for rule in RULES:
        print("".join(f"{rule}: {place}\n" for place in result.findings[rule]), end="")


if __name__ == "__main__":
    print_structure()
