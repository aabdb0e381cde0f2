"""Python."""

from mose.data.source.languages.base import ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".py .pyw .pyi",
    interpreters="python pypy",
    definitions="""
        (function_definition name: (_) @name) @definition.function
        (class_definition name: (_) @name) @definition.class
    """,
    imports=frozenset({"import_statement", "import_from_statement", "future_import_statement"}),
    wrappers=frozenset({"decorated_definition"}),
    constructors=frozenset({"__init__"}),
    hash_comments=True,
    fence_tags="python py python3",
)
