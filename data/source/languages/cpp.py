"""C++."""

from mose.data.source.languages.base import ANY_C_COMMENT, ProgrammingLanguage
from mose.data.source.languages.c import DEFINITIONS, IMPORTS

LANGUAGE = ProgrammingLanguage(
    extensions=".cc .cpp .cxx .c++ .hh .hpp .hxx .h++ .ipp .tpp .inl .ixx .cppm",
    definitions=DEFINITIONS
    + """
    (field_declaration declarator: (function_declarator)) @definition.declaration
    (class_specifier name: (_) @name body: (_)) @definition.class
    (namespace_definition name: (_) @name body: (_)) @definition.scope
    """,
    imports=IMPORTS | {"using_declaration"},
    wrappers=frozenset({"template_declaration", "linkage_specification", "type_definition"}),
    doc_comment=ANY_C_COMMENT,
    fence_tags="cpp c++ cc cxx hpp c h",
)
