"""C#."""

from mose.data.source.languages.base import ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".cs .csx",
    definitions="(method_declaration name: (_) @name body: (_)) @definition.function",
    grammar_module="tree_sitter_c_sharp",
)
