"""Python."""

from mose.data.source.languages.base import ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".py .pyw .pyi",
    file_names="SConstruct SConscript wscript",
    interpreters="python pypy ipython",
    # Functions and classes are in the grammar's own tags.
    definitions="""
        (type_alias_statement left: (type [
            (identifier) @name
            (generic_type . (identifier) @name)
        ])) @definition.type
        (decorated_definition definition: (_) @wrapped) @wrapper
    """,
    uses_tags=True,
    imports=frozenset({"import_statement", "import_from_statement", "future_import_statement"}),
    constructors=frozenset({"__init__", "__new__", "__del__"}),
    line_comment="#",
    fence_tags="python py python3",
)
