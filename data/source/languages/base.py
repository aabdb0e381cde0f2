"""The declarative description of a programming language, and patterns that several languages share."""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class ProgrammingLanguage:
    """The file names, grammar and conventions of one language.

    Several extensions, names, tags or keywords are separated by spaces.

    Attributes:
        extensions: lower-case file extensions.
        file_names: names of files that are in this language whatever their extension, such as "Rakefile".
        interpreters: program names in a `#!` line, without version numbers.
        definitions: tree-sitter query. It captures each definition as `@definition.<kind>`, with a kind of
            `mose.data.source.units.KINDS`, and its name as `@name`. Leave out `@name` if it is nested in
            declarators, as in C. `@scope` captures what qualifies the name outside the tree's nesting, such as
            a Go receiver's type. Further kinds: `declaration` is a function without a body, listed if it is
            documented; `scope` only qualifies the names inside it (a namespace with braces);
            `extension` is a scope in which functions are methods (a Rust `impl`); `package` qualifies the names
            after it (a namespace without braces). Functions in a class are methods without further ado. If two
            patterns capture one node, the first counts. A pattern of its own captures what belongs to a
            definition around its node, such as decorators or `export`, as `@wrapper`, and the node in it as
            `@wrapped`.
            "" if definitions are not read.
        uses_tags: definitions of the grammar's own `TAGS_QUERY` are listed too.
        comments: tree-sitter query that captures comments as `@comment`, and annotations that stand before a
            definition without being a part of its node as `@attribute`.
        imports: types of nodes at the top of a file that are no code of their own, such as imports.
        doc_comment: pattern that opens a documentation comment; None if the documentation is a docstring.
        constructors: names of the methods that construct or destroy an instance.
        constructor_nodes: node types of such methods, in languages that name them after the class.
        unwraps_closures: skip a function if more than half of it is named functions: a module in a closure.
        line_comment: what begins a line comment.
        file_prefix: text that a file must begin with before any code is parsed.
        methods_alone: methods need a class around them, but snippets often show them without it.
        fence_tags: names in the info string of a Markdown code fence.
        extra_keywords: reserved words that the grammar does not list.
        foreign: pattern at the start of files that share an extension with the language, and are something else.
        repairs: patterns of valid code that the grammar takes for an error, each with a template of what takes
            its place, which is no longer and is filled up with blanks. They are applied for a second look at a
            file that has errors. The fewest errors win.
        dialects: languages to parse a file in if it has syntax errors in this one. The fewest errors win.
        dialect_of: the language that a dialect belongs to. A dialect is not listed as a language itself.
        grammar_module: module that holds the grammar; "" for `tree_sitter_<key>`.
        grammar_function: function of that module that returns the grammar.
    """

    extensions: str = ""
    file_names: str = ""
    interpreters: str = ""
    definitions: str = ""
    uses_tags: bool = False
    comments: str = "(comment) @comment"
    imports: frozenset[str] = frozenset()
    doc_comment: re.Pattern[bytes] | None = None
    constructors: frozenset[str] = frozenset()
    constructor_nodes: frozenset[str] = frozenset()
    unwraps_closures: bool = False
    line_comment: str = "//"
    file_prefix: str = ""
    methods_alone: bool = False
    fence_tags: str = ""
    extra_keywords: str = ""
    foreign: re.Pattern[bytes] | None = None
    repairs: tuple[tuple[re.Pattern[bytes], bytes], ...] = ()
    dialects: tuple[str, ...] = ()
    dialect_of: str = ""
    grammar_module: str = ""
    grammar_function: str = "language"


JAVADOC = re.compile(rb"/\*\*(?![*/])")
#: C and C++ have no single convention, so any comment directly above a definition documents it.
ANY_C_COMMENT = re.compile(rb"/[/*]")
