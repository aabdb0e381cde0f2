"""PHP."""

import re

from mose.data.source.languages.base import JAVADOC, ProgrammingLanguage

_CLOSURE = "[(anonymous_function) (arrow_function)]"

LANGUAGE = ProgrammingLanguage(
    extensions=".php .phtml .inc .php3 .php4 .php5 .phps",
    interpreters="php",
    # The grammar's own tags are among these, but for properties; and they count a trait as an interface.
    definitions=f"""
        (function_definition name: (_) @name) @definition.function
        (method_declaration name: (_) @name body: (_)) @definition.function
        (method_declaration name: (_) @name !body) @definition.declaration
        (assignment_expression left: (variable_name (name) @name) right: {_CLOSURE}) @definition.function
        (assignment_expression left: (member_access_expression name: (_) @name)
            right: {_CLOSURE}) @definition.function
        (array_element_initializer . (string (string_content) @name) {_CLOSURE}) @definition.function
        (property_declaration (property_element (variable_name (name) @name))
            (property_hook_list)) @definition.function
        (class_declaration name: (_) @name) @definition.class
        (interface_declaration name: (_) @name) @definition.interface
        (trait_declaration name: (_) @name) @definition.trait
        (enum_declaration name: (_) @name) @definition.enum
        (assignment_expression left: (variable_name (name) @name)
            right: (object_creation_expression (anonymous_class))) @definition.extension
        (namespace_definition name: (_) @name body: (_)) @definition.scope
        (namespace_definition name: (_) @name !body) @definition.package
        (expression_statement (assignment_expression right: {_CLOSURE}) @wrapped) @wrapper
    """,
    imports=frozenset({"php_tag", "namespace_definition", "namespace_use_declaration"}),
    doc_comment=JAVADOC,
    constructors=frozenset({"__construct", "__destruct"}),
    file_prefix="<?php\n",
    methods_alone=True,
    fence_tags="php",
    # Other languages include files of this extension too.
    foreign=re.compile(rb"(?s)(?!.*<\?)"),
    grammar_function="language_php",
)
