"""C."""

import re

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

#: What only C++ has at the start of a line or in a name. Comments, literals and the few lines that a header of C
#: shows to C++ compilers alone are skipped. No text is scanned twice, so the time is linear.
_CPP_CODE = re.compile(
    rb"""
      /\*[\s\S]*?(?:\*/|\Z) | //[^\n]* | "(?:[^"\\\n]|\\[\s\S])*"? | '(?:[^'\\\n]|\\[\s\S])*'? | \[\[[^\]\n]*
    | (?:\A|\n)[ \t]*\#[ \t]*if(?:def)?[ \t][^\n]*__cplusplus[^\#]{0,400}\#[ \t]*(?:el|endif)
    | (?P<cpp>
        (?:\A|(?<=\n))[ \t]*(?:
            (?:class|namespace|using|extern[ \t]+template|enum[ \t]+class)[ \t]+\w
          | namespace[ \t]*\{ | template[ \t]*< | (?:public|private|protected)[ \t]*:
        )
      | [\w>]::[\w~]
      )
    """,
    re.VERBOSE,
)


def is_cpp_header(source: bytes) -> bool:
    """Return True if a header holds C++, not C."""
    return any(match["cpp"] for match in _CPP_CODE.finditer(source))
