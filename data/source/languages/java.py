"""Java."""

import re

from mose.data.source.languages.base import JAVADOC, ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".java",
    definitions="""
        (method_declaration name: (_) @name body: (_)) @definition.function
        (method_declaration name: (_) @name !body) @definition.declaration
        (constructor_declaration name: (_) @name) @definition.function
        (compact_constructor_declaration name: (_) @name) @definition.function
        (class_declaration name: (_) @name) @definition.class
        (record_declaration name: (_) @name) @definition.class
        (interface_declaration name: (_) @name) @definition.interface
        (annotation_type_declaration name: (_) @name) @definition.interface
        (enum_declaration name: (_) @name) @definition.enum
    """,
    comments="[(line_comment) (block_comment)] @comment",
    imports=frozenset({"package_declaration", "import_declaration"}),
    doc_comment=re.compile(JAVADOC.pattern + rb"|///"),
    constructor_nodes=frozenset({"constructor_declaration", "compact_constructor_declaration"}),
    methods_alone=True,
    fence_tags="java",
)
