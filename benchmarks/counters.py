"""Count the functions of source files without MoSE: by Python's `ast`, Universal Ctags, and patterns.

The counters share no code with `mose.data.source`, so that neither can hide a mistake of the other. Universal
Ctags is the Debian package `universal-ctags` (version 5.9 was used). It does not read Scala and Swift, and takes
parameters in Kotlin for methods: functions of these three are counted by patterns.
"""

import ast
import json
import re
import shutil
import subprocess
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

#: Kinds of tags that are functions without a body.
_DECLARATIONS = {"prototype", "methodSpec"}
#: Language -> the name of its parser in Universal Ctags, and the kinds of tags that are functions.
CTAGS = {
    "c": ("C", {"function", "prototype"}),
    "cpp": ("C++", {"function", "prototype"}),
    "csharp": ("C#", {"method"}),
    "go": ("Go", {"func", "methodSpec"}),
    "java": ("Java", {"method"}),
    "javascript": ("JavaScript", {"function", "generator", "method", "getter", "setter"}),
    "lua": ("Lua", {"function"}),
    "php": ("PHP", {"function"}),
    "ruby": ("Ruby", {"method", "singletonMethod"}),
    "rust": ("Rust", {"function", "method"}),
    "bash": ("Sh", {"function"}),
    "sql": ("SQL", {"function", "procedure"}),
    "typescript": ("TypeScript", {"function", "generator", "method"}),
}
#: What introduces a function in the languages that are counted by patterns.
PATTERNS = {
    "kotlin": re.compile(r"\bfun[ \t]+(?:<[^(){}=]*>[ \t]*)?(?:[\w.?*<>, ]+\.)?(?P<name>\w+|`[^`\n]+`)[ \t]*\("),
    "scala": re.compile(r"\bdef[ \t]+(?P<name>[A-Za-z]\w*|`[^`\n]+`|[^\s\w\[({:;=,.\"]+)"),
    "swift": re.compile(r"\bfunc[ \t]+(?P<name>\w+|`[^`\n]+`|[^\s\w(<]+)"),
}
#: Languages whose functions can lack a body: abstract methods, interfaces, overloads.
_BODILESS = {"csharp", "go", "java", "kotlin", "php", "rust", "scala", "swift", "typescript"}
#: Languages in which the end of a line ends a declaration, unless the next line goes on with it.
_LINE_ENDS = {"go", "kotlin", "scala", "swift", "typescript"}
_CONTINUES = re.compile(r"\s*(?:[{(=:|&.]|->|where\b|throws\b|async\b|rethrows\b)")
#: Strings and comments, which can hold anything.
_OPAQUE = re.compile(r'"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*[\s\S]*?\*/')
#: What follows the name of a function in JavaScript. A function that is called at once is no value.
_JAVASCRIPT_FUNCTION = (
    r"\s*(?:\(|[=:]\s*(?:async\b\s*)?(?:function\b|[\w$]+\s*=>|(?:(?!\(\s*(?:async\s+)?function)\()))"
)
_CTAGS_FLAGS = ("--output-format=json", "--fields=+neKS", "--quiet", "-f", "-", "-L", "-")


@dataclass(frozen=True)
class Count:
    """One function that a counter reports.

    Attributes:
        name: bare name.
        line: line of the name, counted from 1.
        defined: False for a declaration without a body.
        alias: another name of it: in JavaScript's `parse: function _parse() {}` the first counts as well.
    """

    name: str
    line: int
    defined: bool = True
    alias: str = ""


def count_functions(files: Iterable[tuple[Path, str]]) -> dict[Path, list[Count]]:
    """Return the functions of each (path, language of MoSE).

    A file that the counter cannot read (an `ast` syntax error, no UTF-8) is left out of the result.

    Raises:
        FileNotFoundError: Universal Ctags is needed, and not installed.
    """
    by_language: dict[str, list[Path]] = defaultdict(list)
    for path, language in files:
        by_language[language].append(path)

    counts: dict[Path, list[Count]] = {}
    for language, paths in by_language.items():
        if language in CTAGS:
            counts |= _by_ctags(language, paths)
        elif language == "python" or language in PATTERNS:
            count = _by_ast if language == "python" else _by_pattern
            for path in paths:
                try:
                    counts[path] = list(count(path.read_bytes(), language))
                except (SyntaxError, ValueError, RecursionError):  # not for the counter to judge
                    continue
    return counts


def _by_ast(source: bytes, language: str) -> Iterator[Count]:
    with warnings.catch_warnings(action="ignore"):  # of escapes such as "\d"
        tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield Count(node.name, node.lineno)


def _by_pattern(source: bytes, language: str) -> Iterator[Count]:
    text = _OPAQUE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), source.decode())
    for match in PATTERNS[language].finditer(text):
        line = text.count("\n", 0, match.start("name")) + 1
        yield Count(match["name"].strip("`"), line, has_body(text, match.end("name"), language))


def _by_ctags(language: str, paths: list[Path]) -> dict[Path, list[Count]]:
    if shutil.which("ctags") is None:
        raise FileNotFoundError("Universal Ctags is not installed. Install the package universal-ctags.")
    parser, kinds = CTAGS[language]
    flags = [f"--kinds-{parser}=+p"] if language in ("c", "cpp") else []
    command = ["ctags", f"--language-force={parser}", *flags, *_CTAGS_FLAGS]
    result = subprocess.run(
        command,
        input="\n".join(map(str, paths)).encode(errors="surrogateescape"),
        capture_output=True,
        check=True,
    )

    counts: dict[Path, set[Count]] = {path: set() for path in paths}
    texts: dict[Path, list[str]] = {}
    for line in result.stdout.splitlines():
        tag = json.loads(line.decode(errors="surrogateescape"))
        path = Path(tag["path"]) if "path" in tag else None
        if path is None or tag["kind"] not in kinds:
            continue

        if path not in texts:
            texts = {path: path.read_bytes().decode(errors="replace").split("\n")}
        if is_named_function(tag, texts[path], language):
            defined = tag["kind"] not in _DECLARATIONS and _is_defined(tag, texts[path], language)
            line = texts[path][tag["line"] - 1]
            alias = re.search(
                rf"([\w$]+)\s*[=:]\s*(?:async\s+)?function\s*\*?\s*{re.escape(tag['name'])}\b", line
            )
            counts[path].add(Count(tag["name"], tag["line"], defined, alias[1] if alias else ""))
    return {path: sorted(found, key=lambda count: count.line) for path, found in counts.items()}


def is_named_function(tag: dict[str, Any], lines: list[str], language: str) -> bool:
    """Return False for the tags that are no functions with a name, which are mistakes of Universal Ctags."""
    if language == "javascript":
        # Anonymous functions get made-up names; values that are no functions count if they belong to a prototype.
        line = lines[tag["line"] - 1] if tag["line"] <= len(lines) else ""
        return not tag["name"].startswith("AnonymousFunction") and bool(
            re.search(rf"(?<![\w$]){re.escape(tag['name'])}['\"\]]*{_JAVASCRIPT_FUNCTION}", line)
        )
    return True


def _is_defined(tag: dict[str, Any], lines: list[str], language: str) -> bool:
    number = tag["line"] - 1
    column = lines[number].find(tag["name"]) if number < len(lines) else -1
    if column < 0 or language not in _BODILESS:
        return True
    rest = "\n".join([lines[number][column + len(tag["name"]) :], *lines[number + 1 : number + 100]])
    return has_body(rest, 0, language)


def has_body(text: str, start: int, language: str) -> bool:
    """Return whether the function whose name ends at `start` has a body: a brace or "=" before it ends."""
    signature = _OPAQUE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text[start : start + 10_000])
    depth, before = 0, ""
    position = 0
    while position < len(signature):
        character = signature[position]
        pair = signature[position : position + 2]
        position += 1
        if character in "([" or (
            character == "{" and (depth or (language == "typescript" and before in ":|&<,>"))
        ):
            depth += 1
        elif character in ")]" or (character == "}" and depth):
            depth -= 1
        elif depth:
            pass
        elif language == "java" and signature.startswith("default", position - 1):  # an annotation's element
            return False
        elif pair == "=>" and language != "csharp":  # the type of a function
            position += 1
        elif character in "{=":
            return True
        elif character in ";}":
            return False
        elif character == "\n" and language in _LINE_ENDS and not _CONTINUES.match(signature, position):
            return before in ":,|&>"
        if not character.isspace():
            before = character
    return False
