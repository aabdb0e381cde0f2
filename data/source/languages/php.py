"""PHP."""

from mose.data.source.languages.base import JAVADOC, ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".php .phtml .inc",
    interpreters="php",
    definitions="""
        (function_definition name: (_) @name) @definition.function
        (method_declaration name: (_) @name body: (_)) @definition.function
        (method_declaration name: (_) @name !body) @definition.declaration
        (class_declaration name: (_) @name) @definition.class
        (interface_declaration name: (_) @name) @definition.interface
        (trait_declaration name: (_) @name) @definition.trait
        (enum_declaration name: (_) @name) @definition.enum
        (namespace_definition name: (_) @name body: (_)) @definition.scope
        (namespace_definition name: (_) @name !body) @definition.package
    """,
    imports=frozenset({"php_tag", "namespace_definition", "namespace_use_declaration"}),
    doc_comment=JAVADOC,
    constructors=frozenset({"__construct"}),
    file_prefix="<?php\n",
    methods_alone=True,
    fence_tags="php",
    grammar_function="language_php",
)
