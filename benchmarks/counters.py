"""Count the functions of source files without MoSE, by parsers of other people.

Python's are counted by `ast`, those of JavaScript and TypeScript by the TypeScript compiler (npm package
`typescript`) if it is given, others by Universal Ctags (Debian package `universal-ctags`, version 5.9 was used).
Ctags does not read Scala and Swift, and takes parameters in Kotlin for methods: these three are counted by
patterns. No code of `mose.data.source` is used, so that a mistake of it cannot hide itself.
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
    "scala": re.compile(r"\bdef[ \t]+(?P<name>[A-Za-z]\w*(?:(?<=_)[-+!~]+)?|`[^`\n]+`|[-!#%&*+/:<=>?@\\^|~]+)"),
    "swift": re.compile(r"\bfunc[ \t]+(?P<name>\w+|`[^`\n]+`|[^\s\w(<]+)"),
}
#: Languages whose functions can lack a body: abstract methods, interfaces, overloads.
_BODILESS = {"csharp", "go", "java", "kotlin", "php", "rust", "scala", "swift", "typescript"}
#: Languages in which the end of a line ends a declaration, unless the next line goes on with it.
_LINE_ENDS = {"go", "kotlin", "scala", "swift", "typescript"}
#: What an expression that is the body can follow -> the languages.
_BODY_AFTER = {"=": {"kotlin", "scala"}, "=>": {"csharp"}}
_TOKEN = re.compile(r"default\b|=>|\w+|[^\w ]")
_CONTINUES = re.compile(r"\s*(?:[{(=:|&.]|->|where\b|throws\b|async\b|rethrows\b)")
#: Strings and comments, which can hold anything.
_OPAQUE = re.compile(r'"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|//[^\n]*|/\*[\s\S]*?\*/')
#: What follows the name of a function in JavaScript. A function that is called at once is no value.
_JAVASCRIPT_FUNCTION = (
    r"\s*(?:\(|[=:]\s*(?:async\b\s*)?(?:function\b|[\w$]+\s*=>|(?:(?!\(\s*(?:async\s+)?function)\()))"
)
_TWO_NAMES = re.compile(r"([\w$]+)['\"]?\s*[=:]\s*(?:async\s+)?function\s*\*?\s*([\w$]+)")
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


def count_functions(files: Iterable[tuple[Path, str]], typescript: Path | None = None) -> dict[Path, list[Count]]:
    """Return the functions of each file.

    Args:
        files: paths, with their languages. A file that the counter cannot read (an `ast` syntax error, no UTF-8)
            is left out of the result.
        typescript: folder of the npm package `typescript`; None leaves JavaScript and TypeScript to ctags.

    Raises:
        FileNotFoundError: Universal Ctags is needed, and not installed.
    """
    by_language: dict[str, list[Path]] = defaultdict(list)
    for path, language in files:
        by_language[language].append(path)

    counts: dict[Path, list[Count]] = {}
    for language, paths in by_language.items():
        if typescript is not None and language in ("javascript", "typescript"):
            counts |= _by_typescript(paths, typescript)
        elif language in CTAGS:
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
    text = _blanked(source.decode())
    for match in PATTERNS[language].finditer(text):
        line = text.count("\n", 0, match.start("name")) + 1
        yield Count(match["name"].strip("`"), line, has_body(text, match.end("name"), language))


def _by_typescript(paths: list[Path], package: Path) -> dict[Path, list[Count]]:
    script = Path(__file__).with_name("functions.cjs")
    result = subprocess.run(
        ["node", script, package.resolve()],
        input="\n".join(map(str, paths)),
        capture_output=True,
        check=True,
        text=True,
    )
    counts: dict[Path, list[Count]] = {path: [] for path in paths}
    for line in result.stdout.splitlines():
        path, name, number, defined, alias = json.loads(line)
        counts[Path(path)].append(Count(name, number, defined, alias))
    return counts


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
    for output in result.stdout.splitlines():
        tag = json.loads(output.decode(errors="surrogateescape"))
        path = Path(tag["path"]) if "path" in tag else None
        if path is None or tag["kind"] not in kinds:
            continue

        if path not in texts:
            texts = {path: path.read_bytes().decode(errors="replace").split("\n")}
        lines, number = texts[path], tag["line"] - 1
        line = lines[number] if number < len(lines) else ""
        if is_named_function(tag["name"], line, language):
            defined = tag["kind"] not in _DECLARATIONS and _is_defined(tag["name"], lines, number, language)
            name, alias = names_of(tag["name"], line, language)
            counts[path].add(Count(name, tag["line"], defined, alias))
    return {path: sorted(rows, key=lambda count: count.line) for path, rows in counts.items()}


def is_named_function(name: str, line: str, language: str) -> bool:
    """Return False for the tags that are no functions with a name, which are mistakes of Universal Ctags.

    In JavaScript, anonymous functions get made-up names, and any value of a prototype is a method. In Lua, a name
    before "=" counts if "function" is anywhere after it. In a shell script, awk's functions count, which have
    parameters. In C and C++, a macro that stands alone in its line counts, and so do lambdas.
    """
    if name.startswith(("AnonymousFunction", "__anon")):
        return False
    if language in ("c", "cpp") and name.isupper() and re.fullmatch(rf"\s*{name}\s*\([^{{]*", line):
        return False
    after = {
        "javascript": _JAVASCRIPT_FUNCTION,
        "lua": r"(?:\s*\(|\s*=\s*function\b)",
        "bash": r"\s*(?:\(\s*\)|[^\s(]|$)",
    }
    pattern = after.get(language)
    return pattern is None or re.search(rf"(?<![\w$]){re.escape(name)}['\"\]]*{pattern}", line) is not None


def names_of(name: str, line: str, language: str) -> tuple[str, str]:
    """Return a function's name and its other name, if it has two.

    JavaScript's `parse: function _parse() {}` has. C#'s `operator ==` is `==` too, and `~A` is `A`.
    """
    if language in ("javascript", "typescript"):
        for match in _TWO_NAMES.finditer(line):
            if name in match.groups():
                return match[2], match[1]
    if language == "csharp" and name.startswith(("operator ", "~")):
        return name, name.removeprefix("operator ").removeprefix("~")
    return name, ""


def _is_defined(name: str, lines: list[str], number: int, language: str) -> bool:
    column = lines[number].find(name) if number < len(lines) else -1
    if column < 0 or language not in _BODILESS:
        return True
    rest = "\n".join([lines[number][column + len(name) :], *lines[number + 1 : number + 100]])
    return has_body(rest, 0, language)


def has_body(text: str, start: int, language: str) -> bool:
    """Return whether the function whose name ends at `start` has a body: a brace or "=" before it ends."""
    signature = _blanked(text[start : start + 10_000])
    depth, before = 0, ""

    for match in _TOKEN.finditer(signature):
        token = match[0]
        # In TypeScript, a brace after one of these opens a type.
        opens_type = token == "{" and language == "typescript" and before in tuple(":|&<,>=")
        if token in "([" or opens_type or (token == "{" and depth):
            depth += 1
        elif token in ")]" or (token == "}" and depth):
            depth -= 1
        elif depth == 0:
            goes_on = before in tuple(":,|&=.") or _CONTINUES.match(signature, match.end()) is not None
            decision = _decision(token, language, goes_on)
            if decision is not None:
                return decision

        if not token.isspace():
            before = token[-1]
    return False


def _decision(token: str, language: str, goes_on: bool) -> bool | None:
    """Return whether a token after the parameters says that there is a body; None if it says nothing."""
    if token == "{":
        return True
    if token in ("=", "=>"):  # elsewhere a default value, or the type of a function
        return True if language in _BODY_AFTER.get(token, ()) else None
    if token == "default":  # the element of an annotation
        return False if language == "java" else None
    if token == "\n" and (goes_on or language not in _LINE_ENDS):
        return None
    return False if token in ";}\n" else None


def _blanked(text: str) -> str:
    """Return text with strings and comments blanked, in as many lines."""
    return _OPAQUE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
