"""TypeScript."""

import re

from mose.data.source.languages.base import JAVADOC, ProgrammingLanguage
from mose.data.source.languages.javascript import DEFINITIONS as JAVASCRIPT

#: The grammar's own tags are among these, and count signatures of overloaded functions as functions.
DEFINITIONS = (
    JAVASCRIPT
    + """
    (public_field_definition name: (_) @name
        value: [(function_expression) (arrow_function)]) @definition.function
    (function_signature name: (_) @name) @definition.declaration
    (method_signature name: (_) @name) @definition.declaration
    (abstract_method_signature name: (_) @name) @definition.declaration
    (construct_signature "new" @name) @definition.declaration
    (abstract_class_declaration name: (_) @name) @definition.class
    (interface_declaration name: (_) @name) @definition.interface
    (enum_declaration name: (_) @name) @definition.enum
    (type_alias_declaration name: (_) @name) @definition.type
    (internal_module name: (_) @name body: (_)) @definition.module
    (module name: (_) @name body: (_)) @definition.module
    (ambient_declaration . [(function_signature) (class_declaration) (abstract_class_declaration)
        (interface_declaration) (enum_declaration) (type_alias_declaration) (internal_module) (module)]
        @wrapped .) @wrapper
    (expression_statement (internal_module) @wrapped) @wrapper
    """
)
COMMENTS = "(comment) @comment (class_body (decorator) @attribute)"

LANGUAGE = ProgrammingLanguage(
    extensions=".ts .mts .cts",
    interpreters="ts-node deno",
    definitions=DEFINITIONS,
    comments=COMMENTS,
    imports=frozenset({"import_statement"}),
    doc_comment=JAVADOC,
    constructors=frozenset({"constructor"}),
    unwraps_closures=True,
    methods_alone=True,
    fence_tags="typescript ts tsx mts cts",
    # Translations of Qt are XML with the same extension.
    foreign=re.compile(rb"\s*<(?:\?xml|!DOCTYPE)"),
    dialects=("tsx",),
    grammar_function="language_typescript",
)
