"""The languages that are read: their file extensions, and what their tree-sitter grammars call things."""

import importlib
import re
from functools import cache
from pathlib import Path

from tree_sitter import Language, Query

_EXTENSIONS = {
    "python": ".py .pyw",
    "java": ".java",
    "javascript": ".js .mjs .cjs .jsx",
    "go": ".go",
    "ruby": ".rb .rake",
    "php": ".php",
    "c": ".c .h",
    "cpp": ".cc .cpp .cxx .c++ .hh .hpp .hxx .h++ .ipp",
}
_LANGUAGE_OF = {extension: language for language, row in _EXTENSIONS.items() for extension in row.split()}
_CPP_HEADER = re.compile(
    rb"(?m)^\s*(?:(?:class|namespace|using|extern template)\s+\w|template\s*<|(?:public|private|protected):)"
)

#: What is a function, by language; `@name` is missing where the name lies deeper (C, C++).
_FUNCTIONS = {
    "python": "(function_definition name: (_) @name) @function",
    "java": """[(method_declaration name: (_) @name body: (_)) (constructor_declaration name: (_) @name)
        (compact_constructor_declaration name: (_) @name)] @function""",
    "javascript": """[(function_declaration name: (_) @name) (generator_function_declaration name: (_) @name)
        (method_definition name: (_) @name)
        (variable_declarator name: (identifier) @name value: [(function_expression) (arrow_function)
            (generator_function)])
        (assignment_expression left: [(identifier) @name (member_expression property: (_) @name)]
            right: [(function_expression) (arrow_function) (generator_function)])
        (pair key: (property_identifier) @name value: [(function_expression) (arrow_function)
            (generator_function)])
        (field_definition property: (_) @name value: [(function_expression) (arrow_function)])] @function""",
    "go": """[(function_declaration name: (_) @name body: (_)) (method_declaration name: (_) @name
        body: (_))] @function""",
    "ruby": "[(method name: (_) @name) (singleton_method name: (_) @name)] @function",
    "php": """[(function_definition name: (_) @name) (method_declaration name: (_) @name
        body: (_))] @function""",
    "c": "(function_definition body: (_)) @function",
    "cpp": "(function_definition body: (_)) @function",
}
#: Nodes that hold one function and begin where its source begins.
WRAPPERS = {
    "python": {"decorated_definition"},
    "javascript": {"export_statement", "lexical_declaration", "variable_declaration", "expression_statement"},
    "ruby": {"argument_list", "call"},
    "cpp": {"template_declaration", "linkage_specification"},
}
_COMMENTS = {"java": "[(line_comment) (block_comment)] @comment"}
#: How a doc comment begins. C and C++ have no one convention, so that any comment directly above counts.
DOC_COMMENT = {
    "java": re.compile(rb"/\*\*(?![*/])|///"),
    "javascript": re.compile(rb"/\*\*(?![*/])"),
    "php": re.compile(rb"/\*\*(?![*/])"),
    "go": re.compile(rb"//(?!go:)|/\*"),
    "ruby": re.compile(rb"#(?!!)|=begin"),
    "c": re.compile(rb"/[/*]"),
    "cpp": re.compile(rb"/[/*]"),
}

#: Reserved words that grammars keep out of their token lists: constants, primitive types, "this object".
_RESERVED = """
    true false True False TRUE FALSE null NULL nil None undefined NaN this self super cls void bool boolean
    char int float double byte short long signed unsigned string size_t ssize_t wchar_t int8_t int16_t int32_t
    int64_t uint8_t uint16_t uint32_t uint64_t
"""
#: Of languages without a grammar here.
_KEYWORDS = {
    "csharp": """
    abstract as async await base break case catch checked class const continue decimal default delegate do
    dynamic else enum event explicit extern finally fixed for foreach get global goto if implicit in init
    interface internal is lock namespace new nameof object operator out override params partial private
    protected public readonly record ref return sbyte sealed set sizeof stackalloc static struct switch throw
    try typeof uint ulong unchecked unsafe ushort using value var virtual volatile when where while with yield
    """
}


def language_of(path: str | Path, source: bytes | None = None) -> str | None:
    """The language of a file by its extension, None for one that is not read here.

    Args:
        path: The file's name or path.
        source: Its contents, where at hand: a `.h` file that looks like C++ is then taken as such.
    """
    language = _LANGUAGE_OF.get(Path(path).suffix.lower())
    if language == "c" and source is not None and Path(path).suffix == ".h" and _CPP_HEADER.search(source):
        return "cpp"
    return language


def languages() -> tuple[str, ...]:
    """The languages that `extract_functions` reads."""
    return tuple(_EXTENSIONS)


@cache
def grammar(language: str) -> Language:
    """The tree-sitter grammar of a language; ValueError for one that is not read here."""
    if language not in _EXTENSIONS:
        raise ValueError(f"language={language!r}: functions can be read in {', '.join(_EXTENSIONS)}")
    module = importlib.import_module(f"tree_sitter_{language}")
    return Language(module.language_php() if language == "php" else module.language())


@cache
def queries(language: str) -> tuple[Query, Query]:
    """The queries that find a language's functions (`@function`, `@name`) and comments (`@comment`)."""
    comments = _COMMENTS.get(language, "(comment) @comment")
    return Query(grammar(language), _FUNCTIONS[language]), Query(grammar(language), comments)


@cache
def keywords(language: str = "") -> frozenset[str]:
    """The words of a language that are not names: what its grammar spells out, constants and primitive types.

    For a language that is not known here, those of all languages together.
    """
    if language not in _EXTENSIONS and language not in _KEYWORDS:
        return frozenset().union(*map(keywords, (*_EXTENSIONS, *_KEYWORDS)))
    words = [*_RESERVED.split(), *_KEYWORDS.get(language, "").split()]
    if language in _EXTENSIONS:
        kinds = grammar(language)
        unnamed = (kind for kind in range(kinds.node_kind_count) if not kinds.node_kind_is_named(kind))
        words += [word for word in map(kinds.node_kind_for_id, unnamed) if word and re.fullmatch(r"\w{2,}", word)]
    return frozenset(words)
