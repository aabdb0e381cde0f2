"""The programming languages that definitions are read in, one module with one declarative entry for each.

Text such as Markdown is known too, as the language "text": `readable_languages()` lists it,
`supported_languages()` does not. It is read only if it is asked for, since sections of prose push code down in a
common ranking. What needs functions, such as mining, reads the supported languages alone.

To add a language:

1. Add a module to this package, named like the key that datasets use for the language, with a
   `LANGUAGE = ProgrammingLanguage(...)`.
2. Give the key a display name in `mose.tokenization.prompts.LANGUAGES`.
3. Add its grammar to the requirements: `setup.cfg`, `constraints.txt` and `EXTRAS` of `utils/command_line.py`.
4. Add a test of its definitions: `tests/data/source/languages/test_<key>.py`.
"""

import importlib
import json
import pkgutil
import re
from functools import cache
from pathlib import Path

from tree_sitter import Language, Query

from mose.data.source.languages.base import ProgrammingLanguage
from mose.data.source.languages.c import is_cpp_header
from mose.data.source.units import KINDS

PROGRAMMING_LANGUAGES: dict[str, ProgrammingLanguage] = {
    module.name: importlib.import_module(f"{__name__}.{module.name}").LANGUAGE
    for module in pkgutil.iter_modules(__path__)
    if module.name != "base"
}


def _keys_by(field: str) -> dict[str, str]:
    """Return each of the space-separated words of a field -> the language that has it."""
    entries = PROGRAMMING_LANGUAGES.items()
    return {word: entry.dialect_of or key for key, entry in entries for word in getattr(entry, field).split()}


_LANGUAGE_OF_EXTENSION = _keys_by("extensions")
_LANGUAGE_OF_FILE_NAME = _keys_by("file_names")
_LANGUAGE_OF_INTERPRETER = _keys_by("interpreters")
_LANGUAGE_OF_TAG = _keys_by("fence_tags")
_SHEBANG = re.compile(rb"#![ \t]*\S*?/?(?:env[ \t]+(?:-\S+[ \t]+)*)?([^\s/]*?)[\d.]*(?:[ \t\r\n]|$)")
#: The language of text by headings, whose prompt is that of natural language.
TEXT = "text"
_TEXT_EXTENSIONS = ".md .markdown .mdown .mdx .rmd .qmd .rst .txt .text .adoc .asciidoc"
_TEXT_FILES = "README CHANGELOG CONTRIBUTING NEWS HACKING"
#: Files with the extension of a text that programs read.
_NO_TEXT = re.compile(r"(?i)CMakeLists|robots|(?:.*[-_])?(?:requirements|constraints)(?:[-_].*)?")
_LANGUAGE_OF_EXTENSION.update(dict.fromkeys(_TEXT_EXTENSIONS.split(), TEXT))
_LANGUAGE_OF_FILE_NAME.update(dict.fromkeys(_TEXT_FILES.split(), TEXT))
NOTEBOOK_EXTENSION = ".ipynb"
_LANGUAGE_OF_EXTENSION[NOTEBOOK_EXTENSION] = "python"
#: Reserved words that grammars do not list: constants, primitive types, "this object".
_RESERVED = """
    true false True False TRUE FALSE null NULL nil None undefined NaN this self super cls void bool boolean
    char int float double byte short long signed unsigned string size_t ssize_t wchar_t int8_t int16_t int32_t
    int64_t uint8_t uint16_t uint32_t uint64_t
"""


def supported_languages() -> tuple[str, ...]:
    """Return the keys of the languages in which definitions can be read."""
    entries = PROGRAMMING_LANGUAGES.items()
    return tuple(key for key, entry in entries if entry.definitions and not entry.dialect_of)


def readable_languages() -> tuple[str, ...]:
    """Return the keys of all languages that units are read in: the supported ones, and text."""
    return (*supported_languages(), TEXT)


def language_of(path: str | Path, source: bytes | None = None) -> str | None:
    """Return the language of a file by its name, one of `readable_languages()`; None if it is not read.

    Args:
        path: the file's name or path. A notebook counts as Python.
        source: the file's content, if known. A `.h` file that looks like C++ is then taken for C++, a notebook
            has the language of its kernel, and a file without an extension is recognised by its `#!` line.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    language = _LANGUAGE_OF_FILE_NAME.get(path.name) or _LANGUAGE_OF_EXTENSION.get(suffix)
    if language == TEXT:
        return None if suffix and _NO_TEXT.fullmatch(path.stem) else TEXT
    return language if source is None else _language_of_content(source, suffix, language)


def _language_of_content(source: bytes, suffix: str, language: str | None) -> str | None:
    """Return the language of a file by its content; `language` is that of its name."""
    if suffix == NOTEBOOK_EXTENSION:
        try:
            return kernel_language(json.loads(source))
        except (ValueError, RecursionError):  # reading the notebook will name the error
            return language

    if suffix == ".h" and is_cpp_header(source):
        return "cpp"
    if not suffix and language is None and (shebang := _SHEBANG.match(source)):
        return _LANGUAGE_OF_INTERPRETER.get(shebang[1].decode(errors="replace"))
    foreign = PROGRAMMING_LANGUAGES[language].foreign if language else None
    return None if foreign and foreign.match(source) else language


def kernel_language(notebook: object) -> str | None:
    """Return the language of a parsed Jupyter notebook: Python if it names none, None if it is not read."""
    metadata = notebook.get("metadata") if isinstance(notebook, dict) else None
    for field, key in (("language_info", "name"), ("kernelspec", "language")):
        entry = metadata.get(field) if isinstance(metadata, dict) else None
        name = entry.get(key) if isinstance(entry, dict) else None
        if isinstance(name, str) and name:
            name = name.lower()
            return name if name in supported_languages() else _LANGUAGE_OF_TAG.get(name)
    return "python"


@cache
def grammar(language: str) -> Language:
    """Return the tree-sitter grammar of a language or dialect.

    Raises:
        ValueError: definitions cannot be read in `language`.
    """
    entry = PROGRAMMING_LANGUAGES.get(language)
    if entry is None or not entry.definitions:
        raise ValueError(f"language must be one of {', '.join(supported_languages())}, got {language!r}.")
    module = importlib.import_module(entry.grammar_module or f"tree_sitter_{language}")
    return Language(getattr(module, entry.grammar_function)())


@cache
def definition_query(language: str) -> Query:
    """Return the query for a language's definitions and comments, which are read in one pass.

    The definitions of its entry precede those of its grammar's tags.
    """
    entry = PROGRAMMING_LANGUAGES[language]
    text = entry.definitions
    if entry.uses_tags:
        module = importlib.import_module(entry.grammar_module or f"tree_sitter_{language}")
        tags = Query(grammar(language), module.TAGS_QUERY)
        source = module.TAGS_QUERY.encode()
        # References and constants are not read, and would cost time: leave their patterns out.
        for index in range(tags.pattern_count):
            pattern = source[tags.start_byte_for_pattern(index) : tags.end_byte_for_pattern(index)].decode()
            kinds = re.findall(r"@definition\.(\w+)", pattern)
            if kinds and set(kinds) <= set(KINDS):
                text += "\n" + pattern
    return Query(grammar(language), f"{text}\n{entry.comments}")


@cache
def keywords(language: str = "") -> frozenset[str]:
    """Return the words of a language that are not names: keywords, constants and primitive types.

    An unknown language has the keywords of all languages.
    """
    entry = PROGRAMMING_LANGUAGES.get(language)
    if entry is None:
        return frozenset().union(*map(keywords, PROGRAMMING_LANGUAGES))

    # The unnamed nodes of a grammar are its literal tokens: keywords and punctuation. If case is of no matter, as
    # in SQL, each keyword has a node with a name.
    kinds = grammar(language)
    visible = [kind for kind in range(kinds.node_kind_count) if kinds.node_kind_is_visible(kind)]
    names = [kinds.node_kind_for_id(kind) or "" for kind in visible]
    words = [name for kind, name in zip(visible, names, strict=True) if not kinds.node_kind_is_named(kind)]
    words += [name.removeprefix("keyword_") for name in names if name.startswith("keyword_")]
    words += [word.upper() for word in words if f"keyword_{word}" in names]

    words = [word for word in words if re.fullmatch(r"\w{2,}", word)]
    return frozenset([*_RESERVED.split(), *entry.extra_keywords.split(), *words])
