"""Swift."""

import re

from mose.data.source.languages.base import JAVADOC, ProgrammingLanguage

_CONTAINERS = "\n".join(
    f"""
        (class_declaration declaration_kind: "{keyword}" name: (_) @name) @definition.{kind}"""
    for keyword, kind in {
        "class": "class",
        "actor": "class",
        "struct": "struct",
        "enum": "enum",
        "extension": "extension",
    }.items()
)

LANGUAGE = ProgrammingLanguage(
    extensions=".swift",
    interpreters="swift",
    # Operators are tokens without a name in the grammar, so the name is whatever follows `func`.
    definitions=f"""
        (function_declaration "func" . _ @name body: (_)) @definition.function
        (function_declaration "func" . _ @name) @definition.declaration
        (protocol_function_declaration "func" . _ @name) @definition.declaration
        (init_declaration "init" @name body: (_)) @definition.function
        (init_declaration "init" @name) @definition.declaration
        (deinit_declaration "deinit" @name) @definition.function
        (subscript_declaration "subscript" @name) @definition.function
        (property_declaration name: (pattern bound_identifier: (_) @name)
            computed_value: (_)) @definition.function
        (property_declaration name: (pattern bound_identifier: (_) @name)
            value: (lambda_literal)) @definition.function
        (protocol_declaration name: (_) @name) @definition.interface
        (typealias_declaration name: (type_identifier) @name) @definition.type
        {_CONTAINERS}
    """,
    comments="[(comment) (multiline_comment)] @comment",
    imports=frozenset({"import_declaration", "shebang_line"}),
    doc_comment=re.compile(JAVADOC.pattern + rb"|///(?!/)"),
    constructors=frozenset({"init", "deinit"}),
    fence_tags="swift",
)
