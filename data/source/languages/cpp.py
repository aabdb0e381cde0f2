"""C++."""

from mose.data.source.languages.base import ANY_C_COMMENT, ProgrammingLanguage
from mose.data.source.languages.c import DEFINITIONS, IMPORTS

LANGUAGE = ProgrammingLanguage(
    extensions=".cc .cpp .cxx .c++ .hh .hpp .hxx .h++ .ipp .tpp .inl .ixx .cppm",
    definitions=DEFINITIONS
    + """
    (field_declaration declarator: (function_declarator)) @definition.declaration
    (class_specifier name: (_) @name body: (_)) @definition.class
    (concept_definition name: (_) @name) @definition.type
    (namespace_definition name: (_) @name body: (_)) @definition.scope
    (template_declaration (_) @wrapped .) @wrapper
    (linkage_specification body: (function_definition) @wrapped) @wrapper
    """,
    imports=IMPORTS | {"using_declaration"},
    doc_comment=ANY_C_COMMENT,
    fence_tags="cpp c++ cc cxx hpp c h",
)
