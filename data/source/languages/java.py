"""Java."""

import re

from mose.data.source.languages.base import JAVADOC, ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".java",
    interpreters="java jbang",
    # Methods with a body, classes and interfaces are in the grammar's own tags.
    definitions="""
        (method_declaration name: (_) @name !body) @definition.declaration
        (annotation_type_element_declaration name: (_) @name) @definition.declaration
        (constructor_declaration name: (_) @name) @definition.function
        (compact_constructor_declaration name: (_) @name) @definition.function
        (variable_declarator name: (_) @name value: (lambda_expression)) @definition.function
        (record_declaration name: (_) @name) @definition.class
        (annotation_type_declaration name: (_) @name) @definition.interface
        (enum_declaration name: (_) @name) @definition.enum
        (enum_constant name: (_) @name body: (_)) @definition.extension
        (variable_declarator name: (_) @name
            value: (object_creation_expression (class_body))) @definition.extension
        (field_declaration type: (_) . (variable_declarator) @wrapped .) @wrapper
        (local_variable_declaration type: (_) . (variable_declarator) @wrapped .) @wrapper
    """,
    uses_tags=True,
    comments="[(line_comment) (block_comment)] @comment",
    imports=frozenset({"package_declaration", "import_declaration"}),
    doc_comment=re.compile(JAVADOC.pattern + rb"|///"),
    constructor_nodes=frozenset({"constructor_declaration", "compact_constructor_declaration"}),
    methods_alone=True,
    fence_tags="java",
)
