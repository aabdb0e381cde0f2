"""Scala, 2 and 3."""

from mose.data.source.languages.base import JAVADOC, ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".scala .sc .sbt",
    interpreters="scala scala-cli amm",
    definitions="""
        (function_definition name: (_) @name) @definition.function
        (function_declaration name: (_) @name) @definition.declaration
        (val_definition pattern: (identifier) @name
            value: [(lambda_expression) (case_block) (block . (lambda_expression) .)]) @definition.function
        (class_definition name: (_) @name) @definition.class
        (object_definition name: (_) @name) @definition.class
        (trait_definition name: (_) @name) @definition.trait
        (enum_definition name: (_) @name) @definition.enum
        (package_object name: (_) @name) @definition.module
        (type_definition name: (_) @name) @definition.type
        (given_definition name: (_) @name) @definition.extension
        (extension_definition parameters: (parameters (parameter type: [
            (type_identifier) @name
            (generic_type type: (_) @name)
        ]))) @definition.extension
        (package_clause name: (_) @name body: (_)) @definition.scope
        (val_definition pattern: (identifier) @name
            value: (instance_expression (template_body))) @definition.extension
    """,
    comments="[(comment) (block_comment)] @comment",
    imports=frozenset({"package_clause", "import_declaration", "using_directive"}),
    doc_comment=JAVADOC,
    constructors=frozenset({"this"}),
    fence_tags="scala sbt",
)
