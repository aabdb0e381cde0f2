"""JavaScript with JSX, and with Flow's types, which the grammar of TypeScript covers."""

from mose.data.source.languages.base import JAVADOC, ProgrammingLanguage

#: What functions and classes look like in JavaScript; TypeScript adds to it.
DEFINITIONS = """
    (function_declaration name: (_) @name) @definition.function
    (generator_function_declaration name: (_) @name) @definition.function
    (method_definition name: (_) @name) @definition.function
    (variable_declarator name: (identifier) @name
        value: [(function_expression) (arrow_function) (generator_function)]) @definition.function
    (assignment_expression left: [(identifier) @name (member_expression property: (_) @name)]
        right: [(function_expression) (arrow_function) (generator_function)]) @definition.function
    (pair key: (property_identifier) @name
        value: [(function_expression) (arrow_function) (generator_function)]) @definition.function
    (class_declaration name: (_) @name) @definition.class
    (variable_declarator name: (identifier) @name value: (class)) @definition.class
    (assignment_expression left: [(identifier) @name (member_expression property: (_) @name)]
        right: (class)) @definition.class
    (export_statement declaration: (_) @wrapped) @wrapper
    (lexical_declaration . (variable_declarator) @wrapped .) @wrapper
    (variable_declaration . (variable_declarator) @wrapped .) @wrapper
    (expression_statement (assignment_expression right: [(function_expression) (arrow_function)
        (generator_function) (class)]) @wrapped) @wrapper
"""
LANGUAGE = ProgrammingLanguage(
    extensions=".js .mjs .cjs .jsx",
    interpreters="node nodejs",
    definitions=DEFINITIONS
    + """
    (field_definition property: (_) @name
        value: [(function_expression) (arrow_function)]) @definition.function
    """,
    imports=frozenset({"import_statement"}),
    doc_comment=JAVADOC,
    constructors=frozenset({"constructor"}),
    unwraps_closures=True,
    methods_alone=True,
    fence_tags="javascript js jsx node nodejs ecmascript mjs",
)
