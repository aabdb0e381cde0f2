"""The programming languages that functions are read in, one declarative entry for each.

To add a language:

1. Add a `ProgrammingLanguage` to `PROGRAMMING_LANGUAGES` below, under the key that datasets use for it.
2. Give the key a display name in `mose.tokenization.prompts.LANGUAGES`.
3. Add its grammar, `tree-sitter-<key>`, to the requirements: `setup.cfg` and `constraints.txt`.
4. Add a source file with its functions to `tests/data/source/test_definitions.py`.

`mose.data.source.definitions` has no rules for single languages, apart from
Python docstrings, C++ constructors and Ruby setters.
"""

import importlib
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tree_sitter import Language, Query


@dataclass(frozen=True)
class ProgrammingLanguage:
    """The file extensions, grammar and conventions of one language.

    Attributes:
        extensions: lower-case file extensions.
        functions: tree-sitter query that captures functions as `@function` and their names as `@name`. Leave out
            `@name` if it is nested in declarators, as in C. "" if functions are not read.
        comments: tree-sitter query that captures comments as `@comment`.
        doc_comment: pattern that opens a documentation comment; None if the documentation is a docstring.
        wrappers: types of nodes that hold one function and begin where its source begins, such as decorators.
        constructors: names of the methods that construct or destroy an instance.
        constructor_nodes: node types of such methods, in languages that name them after the class.
        unwraps_closures: skip a function if more than half of it is named functions: a module in a closure.
        hash_comments: line comments begin with `#`, not with `//`.
        file_prefix: text that a file must begin with before any code is parsed.
        methods_alone: methods need a class around them, but snippets often show them without it.
        fence_tags: names in the info string of a Markdown code fence.
        extra_keywords: reserved words that the grammar does not list.
        grammar_function: function of the module `tree_sitter_<key>` that returns the grammar.

    Several extensions, tags or keywords are separated by spaces.
    """

    extensions: str = ""
    functions: str = ""
    comments: str = "(comment) @comment"
    doc_comment: re.Pattern[bytes] | None = None
    wrappers: frozenset[str] = frozenset()
    constructors: frozenset[str] = frozenset()
    constructor_nodes: frozenset[str] = frozenset()
    unwraps_closures: bool = False
    hash_comments: bool = False
    file_prefix: str = ""
    methods_alone: bool = False
    fence_tags: str = ""
    extra_keywords: str = ""
    grammar_function: str = "language"


_JAVADOC = re.compile(rb"/\*\*(?![*/])")
#: C and C++ have no single convention, so any comment directly above a function documents it.
_ANY_C_COMMENT = re.compile(rb"/[/*]")

PROGRAMMING_LANGUAGES = {
    "python": ProgrammingLanguage(
        extensions=".py .pyw",
        functions="(function_definition name: (_) @name) @function",
        wrappers=frozenset({"decorated_definition"}),
        constructors=frozenset({"__init__"}),
        hash_comments=True,
        fence_tags="python py python3",
    ),
    "java": ProgrammingLanguage(
        extensions=".java",
        functions="""[(method_declaration name: (_) @name body: (_)) (constructor_declaration name: (_) @name)
            (compact_constructor_declaration name: (_) @name)] @function""",
        comments="[(line_comment) (block_comment)] @comment",
        doc_comment=re.compile(_JAVADOC.pattern + rb"|///"),
        constructor_nodes=frozenset({"constructor_declaration", "compact_constructor_declaration"}),
        methods_alone=True,
        fence_tags="java",
    ),
    "javascript": ProgrammingLanguage(
        extensions=".js .mjs .cjs .jsx",
        functions="""[(function_declaration name: (_) @name) (generator_function_declaration name: (_) @name)
            (method_definition name: (_) @name)
            (variable_declarator name: (identifier) @name value: [(function_expression) (arrow_function)
                (generator_function)])
            (assignment_expression left: [(identifier) @name (member_expression property: (_) @name)]
                right: [(function_expression) (arrow_function) (generator_function)])
            (pair key: (property_identifier) @name value: [(function_expression) (arrow_function)
                (generator_function)])
            (field_definition property: (_) @name value: [(function_expression) (arrow_function)])] @function""",
        doc_comment=_JAVADOC,
        wrappers=frozenset(
            {"export_statement", "lexical_declaration", "variable_declaration", "expression_statement"}
        ),
        constructors=frozenset({"constructor"}),
        unwraps_closures=True,
        methods_alone=True,
        fence_tags="javascript js jsx node nodejs ecmascript mjs",
    ),
    "go": ProgrammingLanguage(
        extensions=".go",
        functions="""[(function_declaration name: (_) @name body: (_)) (method_declaration name: (_) @name
            body: (_))] @function""",
        doc_comment=re.compile(rb"//(?!go:)|/\*"),
        fence_tags="go golang",
    ),
    "ruby": ProgrammingLanguage(
        extensions=".rb .rake",
        functions="[(method name: (_) @name) (singleton_method name: (_) @name)] @function",
        doc_comment=re.compile(rb"#(?!!)|=begin"),
        wrappers=frozenset({"argument_list", "call"}),
        constructors=frozenset({"initialize"}),
        hash_comments=True,
        fence_tags="ruby rb",
    ),
    "php": ProgrammingLanguage(
        extensions=".php",
        functions="""[(function_definition name: (_) @name) (method_declaration name: (_) @name
            body: (_))] @function""",
        doc_comment=_JAVADOC,
        constructors=frozenset({"__construct"}),
        file_prefix="<?php\n",
        methods_alone=True,
        fence_tags="php",
        grammar_function="language_php",
    ),
    # Models mistake C and C++ for each other in fence tags; the parser decides.
    "c": ProgrammingLanguage(
        extensions=".c .h",
        functions="(function_definition body: (_)) @function",
        doc_comment=_ANY_C_COMMENT,
        fence_tags="c h cpp c++",
    ),
    "cpp": ProgrammingLanguage(
        extensions=".cc .cpp .cxx .c++ .hh .hpp .hxx .h++ .ipp",
        functions="(function_definition body: (_)) @function",
        doc_comment=_ANY_C_COMMENT,
        wrappers=frozenset({"template_declaration", "linkage_specification"}),
        fence_tags="cpp c++ cc cxx hpp c h",
    ),
    # Embedded and augmented, but not mined: there is no grammar for it among the requirements.
    "csharp": ProgrammingLanguage(
        extra_keywords="""
            abstract as async await base break case catch checked class const continue decimal default delegate
            do dynamic else enum event explicit extern finally fixed for foreach get global goto if implicit in
            init interface internal is lock namespace new nameof object operator out override params partial
            private protected public readonly record ref return sbyte sealed set sizeof stackalloc static struct
            switch throw try typeof uint ulong unchecked unsafe ushort using value var virtual volatile when
            where while with yield"""
    ),
}
_LANGUAGE_OF_EXTENSION = {
    extension: key for key, entry in PROGRAMMING_LANGUAGES.items() for extension in entry.extensions.split()
}
_CPP_HEADER = re.compile(
    rb"(?m)^\s*(?:(?:class|namespace|using|extern template)\s+\w|template\s*<|(?:public|private|protected):)"
)
#: Reserved words that grammars do not list: constants, primitive types, "this object".
_RESERVED = """
    true false True False TRUE FALSE null NULL nil None undefined NaN this self super cls void bool boolean
    char int float double byte short long signed unsigned string size_t ssize_t wchar_t int8_t int16_t int32_t
    int64_t uint8_t uint16_t uint32_t uint64_t
"""


def supported_languages() -> tuple[str, ...]:
    """Return the keys of the languages in which functions can be read."""
    return tuple(key for key, entry in PROGRAMMING_LANGUAGES.items() if entry.functions)


def language_of(path: str | Path, source: bytes | None = None) -> str | None:
    """Return the language of a file by its extension, or None if functions cannot be read in it.

    Args:
        path: the file's name or path.
        source: the file's content, if known. A `.h` file that looks like C++ is then taken for C++.
    """
    language = _LANGUAGE_OF_EXTENSION.get(Path(path).suffix.lower())
    if language == "c" and source is not None and Path(path).suffix == ".h" and _CPP_HEADER.search(source):
        return "cpp"
    return language


@cache
def grammar(language: str) -> Language:
    """Return the tree-sitter grammar of a language.

    Raises:
        ValueError: functions cannot be read in `language`.
    """
    if language not in supported_languages():
        raise ValueError(f"language must be one of {', '.join(supported_languages())}, got {language!r}.")
    module = importlib.import_module(f"tree_sitter_{language}")
    return Language(getattr(module, PROGRAMMING_LANGUAGES[language].grammar_function)())


@cache
def queries(language: str) -> tuple[Query, Query]:
    """Return the queries for a language's functions (`@function`, `@name`) and comments (`@comment`)."""
    entry = PROGRAMMING_LANGUAGES[language]
    return Query(grammar(language), entry.functions), Query(grammar(language), entry.comments)


@cache
def keywords(language: str = "") -> frozenset[str]:
    """Return the words of a language that are not names: keywords, constants and primitive types.

    An unknown language has the keywords of all languages.
    """
    entry = PROGRAMMING_LANGUAGES.get(language)
    if entry is None:
        return frozenset().union(*map(keywords, PROGRAMMING_LANGUAGES))

    words = [*_RESERVED.split(), *entry.extra_keywords.split()]
    if entry.functions:
        # The unnamed nodes of a grammar are its literal tokens: keywords and punctuation.
        kinds = grammar(language)
        unnamed = (kind for kind in range(kinds.node_kind_count) if not kinds.node_kind_is_named(kind))
        words += [word for word in map(kinds.node_kind_for_id, unnamed) if word and re.fullmatch(r"\w{2,}", word)]

    return frozenset(words)
