"""C."""

from mose.data.source.languages.base import ANY_C_COMMENT, ProgrammingLanguage

DEFINITIONS = """
    (function_definition body: (_)) @definition.function
    (declaration declarator: (function_declarator)) @definition.declaration
    (declaration declarator: (pointer_declarator declarator: (function_declarator))) @definition.declaration
    (struct_specifier name: (_) @name body: (_)) @definition.struct
    (union_specifier name: (_) @name body: (_)) @definition.struct
    (enum_specifier name: (_) @name body: (_)) @definition.enum
    (type_definition type: [(struct_specifier !name body: (_)) (union_specifier !name body: (_))]
        declarator: (type_identifier) @name) @definition.struct
    (type_definition type: (enum_specifier !name body: (_))
        declarator: (type_identifier) @name) @definition.enum
    (type_definition type: [(struct_specifier name: (_)) (union_specifier name: (_)) (enum_specifier name: (_))]
        @wrapped) @wrapper
"""
IMPORTS = frozenset({"preproc_include"})

LANGUAGE = ProgrammingLanguage(
    extensions=".c .h",
    definitions=DEFINITIONS,
    imports=IMPORTS,
    doc_comment=ANY_C_COMMENT,
    # Models mistake C and C++ for each other in fence tags; the parser decides.
    fence_tags="c h cpp c++",
)
