"""Go."""

import re

from mose.data.source.languages.base import ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".go",
    definitions="""
        (function_declaration name: (_) @name body: (_)) @definition.function
        (method_declaration receiver: (parameter_list (parameter_declaration type: [
                (type_identifier) @scope
                (generic_type type: (_) @scope)
                (pointer_type [(type_identifier) @scope (generic_type type: (_) @scope)])
                (parenthesized_type)
            ])) name: (_) @name body: (_)) @definition.function
        (method_declaration name: (_) @name body: (_)) @definition.function
        (function_declaration name: (_) @name !body) @definition.declaration
        (method_elem name: (_) @name) @definition.declaration
        (type_spec name: (_) @name type: (struct_type)) @definition.struct
        (type_spec name: (_) @name type: (interface_type)) @definition.interface
        (type_spec name: (_) @name) @definition.type
        (type_alias name: (_) @name) @definition.type
        (type_declaration . [(type_spec) (type_alias)] @wrapped .) @wrapper
    """,
    imports=frozenset({"package_clause", "import_declaration"}),
    doc_comment=re.compile(rb"//(?!go:)|/\*"),
    fence_tags="go golang",
)
