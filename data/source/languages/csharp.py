"""C#."""

from mose.data.source.languages.base import ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".cs .csx",
    grammar_module="tree_sitter_c_sharp",
)
