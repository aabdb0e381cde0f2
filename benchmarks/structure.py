"""Measure how the code reads: size, air, names, duplicate definitions, and the dependency rules.

    python benchmarks/structure.py [ROOT]

Prints one table and one line for every place that breaks a rule. `tests/test_structure.py` holds the limits.
Tests are not measured.
"""

import argparse
import ast
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: Variable names that the field does not use.
UNUSUAL_NAMES = frozenset({"at", "of", "found", "asked", "told"})
#: Modules at the root that belong to no package of the layout.
ROOT_PACKAGE = "(root)"
MAX_FUNCTION_LINES, MAX_COMPLEXITY = 60, 15

#: First words of a docstring that is no plain sentence about what the thing does or is.
INDIRECT_OPENINGS = frozenset({"What", "How", "Whether", "Where", "Those", "That", "Of"})
_BRANCHES = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.ExceptHandler, ast.IfExp, ast.Assert)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass
class Structure:
    """What `measure` returns; places are `file:line name`."""

    lines: int = 0
    body_lines: int = 0
    blank_lines: int = 0
    comment_lines: int = 0
    unusual_names: list[str] = field(default_factory=list)
    duplicates: dict[str, list[str]] = field(default_factory=dict)
    long_functions: list[str] = field(default_factory=list)
    complex_functions: list[str] = field(default_factory=list)
    indirect_docstrings: list[str] = field(default_factory=list)
    import_cycles: list[tuple[str, ...]] = field(default_factory=list)
    deepest_trainer: tuple[str, ...] = ()

    @property
    def blank_share(self) -> float:
        """Share of blank lines among the lines of function bodies, in [0, 1]."""
        return self.blank_lines / max(self.body_lines, 1)

    @property
    def comment_share(self) -> float:
        """Share of comment lines among the lines of function bodies, in [0, 1]."""
        return self.comment_lines / max(self.body_lines, 1)


def source_files(root: Path) -> list[Path]:
    """Return the Python files under version control, without the tests."""
    command = ["git", "-C", str(root), "ls-files", "*.py"]
    names = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    return [root / name for name in names if name and not name.startswith("tests/") and (root / name).is_file()]


def measure(root: Path) -> Structure:
    """Measure the Python files of the checkout at `root`."""
    result = Structure()
    definitions: dict[str, set[str]] = defaultdict(set)
    bases: dict[str, list[str]] = {}
    imports: dict[str, set[str]] = defaultdict(set)

    for path in source_files(root):
        text = path.read_text(encoding="utf-8")
        name = path.relative_to(root).as_posix()
        rows, tree = text.splitlines(), ast.parse(text)
        result.lines += len(rows)

        for node in tree.body:
            if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
                definitions[node.name].add(name)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
            _measure_node(node, name, result)
        imports[_package(name)] |= {target for target in _imported_packages(tree) if target != _package(name)}

    _count_air(root, result)
    result.duplicates = {
        name: sorted(files) for name, files in sorted(definitions.items()) if len(files) > 1 and name != "main"
    }
    result.import_cycles = sorted(_cycles(imports))
    trainers = [_ancestors(name, bases) for name in bases]
    result.deepest_trainer = max((chain for chain in trainers if "Trainer" in chain), key=len, default=())
    return result


def _measure_node(node: ast.AST, file: str, result: Structure) -> None:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in UNUSUAL_NAMES:
        result.unusual_names.append(f"{file}:{node.lineno} {node.id}")
    if isinstance(node, ast.arg) and node.arg in UNUSUAL_NAMES:
        result.unusual_names.append(f"{file}:{node.lineno} {node.arg}")

    if isinstance(node, (*_FUNCTIONS, ast.ClassDef)):
        docstring = ast.get_docstring(node)
        if docstring and docstring.split()[0] in INDIRECT_OPENINGS:
            result.indirect_docstrings.append(f"{file}:{node.lineno} {node.name}")

    if isinstance(node, _FUNCTIONS):
        first, last = _body(node)
        if last - first + 1 > MAX_FUNCTION_LINES:
            result.long_functions.append(f"{file}:{node.lineno} {node.name} ({last - first + 1} lines)")
        if (complexity := _complexity(node)) > MAX_COMPLEXITY:
            result.complex_functions.append(f"{file}:{node.lineno} {node.name} (complexity {complexity})")


def _count_air(root: Path, result: Structure) -> None:
    """Count blank and comment lines in the bodies of functions; a nested function's lines count once."""
    for path in source_files(root):
        text = path.read_text(encoding="utf-8")
        inside: set[int] = set()
        docstrings: set[int] = set()
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, _FUNCTIONS):
                first, last = _body(node)
                inside |= set(range(first, last + 1))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.end_lineno:
                docstrings |= set(range(node.lineno, node.end_lineno + 1))

        rows = text.splitlines()
        result.body_lines += len(inside)
        result.blank_lines += sum(not rows[line - 1].strip() for line in inside)
        result.comment_lines += sum(
            rows[line - 1].lstrip().startswith("#") for line in inside if line not in docstrings
        )


def _body(function: ast.AST) -> tuple[int, int]:
    """First and last line of a function's body, without its docstring."""
    assert isinstance(function, _FUNCTIONS)
    skip = 1 if ast.get_docstring(function) is not None and len(function.body) > 1 else 0
    return function.body[skip].lineno, function.end_lineno or function.lineno


def _complexity(function: ast.AST) -> int:
    """Cyclomatic complexity (McCabe, 1976); nested functions count to their own."""
    total = 1
    pending = list(ast.iter_child_nodes(function))
    while pending:
        node = pending.pop()
        if isinstance(node, (*_FUNCTIONS, ast.Lambda)):
            continue
        total += isinstance(node, (*_BRANCHES, ast.comprehension))
        total += len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0
        pending += ast.iter_child_nodes(node)
    return total


def _package(file: str) -> str:
    """The package of the layout that a file belongs to: its first folder."""
    return file.split("/")[0] if "/" in file else ROOT_PACKAGE


def _imported_packages(tree: ast.AST) -> Iterator[str]:
    """Packages of ours that a file imports, inside functions too, but not for type checking alone."""
    ignored: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            ignored |= {child for statement in node.body for child in ast.walk(statement)}

    for node in ast.walk(tree):
        if node in ignored:
            continue
        modules: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules = [node.module] if node.module != "mose" else [f"mose.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        for module in modules:
            parts = module.split(".")
            if parts[0] == "mose" and len(parts) > 1:
                yield parts[1] if parts[1] not in _ROOT_MODULES else ROOT_PACKAGE


_ROOT_MODULES = frozenset({"configuration_mose", "modeling_mose", "handler", "train_hf", "__main__"})


def _cycles(imports: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """Cycles among the packages, each as the names on it. The root's entry points import from everywhere."""
    cycles = set()

    def follow(path: tuple[str, ...]) -> None:
        for target in imports.get(path[-1], ()):
            if target == ROOT_PACKAGE:
                continue
            if target in path:
                cycle = path[path.index(target) :]
                start = cycle.index(min(cycle))
                cycles.add(cycle[start:] + cycle[:start])
            else:
                follow((*path, target))

    for package in imports:
        if package not in (ROOT_PACKAGE, "benchmarks", "recipes"):
            follow((package,))
    return cycles


def _ancestors(name: str, bases: dict[str, list[str]]) -> tuple[str, ...]:
    """A class and its ancestors by name, along the first base."""
    chain = (name,)
    while bases.get(chain[-1]) and bases[chain[-1]][0] not in chain:
        chain = (*chain, bases[chain[-1]][0])
    return chain


def table(result: Structure) -> str:
    """Return the figures as lines of text."""
    rows = [
        ("lines", f"{result.lines:,}"),
        ("blank lines inside functions", f"{100 * result.blank_share:.1f} %"),
        ("comment lines inside functions", f"{100 * result.comment_share:.1f} %"),
        (f"variables named {', '.join(sorted(UNUSUAL_NAMES))}", str(len(result.unusual_names))),
        ("functions and classes defined in more than one file", str(len(result.duplicates))),
        ("levels of Trainer inheritance", str(len(result.deepest_trainer))),
        (f"functions of over {MAX_FUNCTION_LINES} lines", str(len(result.long_functions))),
        (f"functions of a complexity over {MAX_COMPLEXITY}", str(len(result.complex_functions))),
        ("docstrings that do not begin with a plain sentence", str(len(result.indirect_docstrings))),
        ("import cycles between packages", str(len(result.import_cycles))),
    ]
    return "\n".join(f"{name:<54}{value:>8}" for name, value in rows)


def main() -> None:
    """Print the table, and the places that break a rule."""
    parser = argparse.ArgumentParser(description="Measure how the code reads.")
    parser.add_argument("root", nargs="?", type=Path, default=Path(__file__).parents[1])
    result = measure(parser.parse_args().root.resolve())
    print(table(result), end="\n\n")

    places = {name: ", ".join(files) for name, files in result.duplicates.items()}
    for title, lines in (
        ("unusual name", result.unusual_names),
        ("too long", result.long_functions),
        ("too complex", result.complex_functions),
        ("indirect docstring", result.indirect_docstrings),
        ("import cycle", [" -> ".join(cycle) for cycle in result.import_cycles]),
        ("defined twice", [f"{name}: {files}" for name, files in places.items()]),
        ("Trainer chain", [" < ".join(result.deepest_trainer)]),
    ):
        for line in lines:
            print(f"{title}: {line}")


if __name__ == "__main__":
    main()
