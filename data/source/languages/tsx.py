"""TypeScript with JSX: the same language in another grammar, which also reads Flow."""

from dataclasses import replace

from mose.data.source.languages.typescript import LANGUAGE as TYPESCRIPT

LANGUAGE = replace(
    TYPESCRIPT,
    extensions=".tsx",
    interpreters="tsx",
    foreign=None,
    dialects=(),
    dialect_of="typescript",
    grammar_module="tree_sitter_typescript",
    grammar_function="language_tsx",
)
