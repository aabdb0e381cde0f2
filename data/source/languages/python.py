"""Python."""

from mose.data.source.languages.base import ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".py .pyw .pyi",
    interpreters="python pypy",
    definitions="""
        (function_definition name: (_) @name) @definition.function
        (class_definition name: (_) @name) @definition.class
        (decorated_definition definition: (_) @wrapped) @wrapper
    """,
    imports=frozenset({"import_statement", "import_from_statement", "future_import_statement"}),
    constructors=frozenset({"__init__"}),
    hash_comments=True,
    fence_tags="python py python3",
)
