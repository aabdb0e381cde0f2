"""Go."""

import re

from mose.data.source.languages.base import ProgrammingLanguage

#: A receiver's type is the scope of its methods, whether it is a pointer, generic or in parentheses.
_PLAIN = "(type_identifier) @scope (generic_type type: (_) @scope)"
_POINTER = f"(pointer_type [{_PLAIN} (parenthesized_type [{_PLAIN}])])"
_RECEIVER = f"[{_PLAIN} {_POINTER} (parenthesized_type [{_PLAIN} {_POINTER}])]"

LANGUAGE = ProgrammingLanguage(
    extensions=".go",
    # The grammar's own tags do not qualify methods, and find no more than functions, methods and types.
    definitions=f"""
        (function_declaration name: (_) @name body: (_)) @definition.function
        (method_declaration receiver: (parameter_list (parameter_declaration type: {_RECEIVER}))
            name: (_) @name body: (_)) @definition.method
        (method_declaration name: (_) @name body: (_)) @definition.method
        (function_declaration name: (_) @name !body) @definition.declaration
        (method_elem name: (_) @name) @definition.declaration
        (var_spec . name: (identifier) @name
            value: (expression_list . (func_literal) .)) @definition.function
        (short_var_declaration left: (expression_list . (identifier) @name .)
            right: (expression_list . (func_literal) .)) @definition.function
        (keyed_element key: (literal_element (identifier) @name)
            value: (literal_element (func_literal))) @definition.function
        (type_spec name: (_) @name type: (struct_type)) @definition.struct
        (type_spec name: (_) @name type: (interface_type)) @definition.interface
        (type_spec name: (_) @name) @definition.type
        (type_alias name: (_) @name) @definition.type
        (var_spec . name: (identifier) @name value: (expression_list . [
            (composite_literal)
            (unary_expression (composite_literal))
        ] .)) @definition.scope
        (type_declaration . [(type_spec) (type_alias)] @wrapped .) @wrapper
        (var_declaration . (var_spec) @wrapped .) @wrapper
    """,
    imports=frozenset({"package_clause", "import_declaration"}),
    doc_comment=re.compile(rb"//(?!go:)|/\*"),
    fence_tags="go golang",
)
