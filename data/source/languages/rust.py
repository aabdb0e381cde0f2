"""Rust."""

import re

from mose.data.source.languages.base import ProgrammingLanguage

#: The type that a block of `impl` is for, without references and generic arguments.
_TYPE = """[
    (type_identifier) @name
    (primitive_type) @name
    (scoped_type_identifier name: (_) @name)
    (generic_type type: [(type_identifier) @name (scoped_type_identifier name: (_) @name)])
    (reference_type type: [(type_identifier) @name (primitive_type) @name (generic_type type: (_) @name)])
    (pointer_type type: [(type_identifier) @name (generic_type type: (_) @name)])
    (dynamic_type trait: [(type_identifier) @name (generic_type type: (_) @name)])
]"""

LANGUAGE = ProgrammingLanguage(
    extensions=".rs",
    interpreters="rust-script",
    # The grammar's own tags take `mod name;`, which only refers to a file, for a module.
    definitions=f"""
        (function_item name: (_) @name) @definition.function
        (function_signature_item name: (_) @name) @definition.declaration
        (macro_definition name: (_) @name) @definition.function
        (let_declaration pattern: (identifier) @name value: (closure_expression)) @definition.function
        (static_item name: (_) @name value: (closure_expression)) @definition.function
        (const_item name: (_) @name value: (closure_expression)) @definition.function
        (struct_item name: (_) @name) @definition.struct
        (union_item name: (_) @name) @definition.struct
        (enum_item name: (_) @name) @definition.enum
        (trait_item name: (_) @name) @definition.trait
        (type_item name: (_) @name) @definition.type
        (mod_item name: (_) @name body: (_)) @definition.module
        (impl_item type: {_TYPE}) @definition.extension
        (impl_item trait: (_) @name) @definition.extension
    """,
    comments="""
        [(line_comment) (block_comment)] @comment
        ((attribute_item (attribute (identifier) @_doc)) @comment (#eq? @_doc "doc"))
        ((attribute_item (attribute (identifier) @_name)) @attribute (#not-eq? @_name "doc"))
        (attribute_item (attribute [(scoped_identifier) (crate) (self)])) @attribute
    """,
    imports=frozenset({"use_declaration", "extern_crate_declaration", "inner_attribute_item"}),
    # `//!` documents what is around it, not what follows.
    doc_comment=re.compile(rb"///(?!/)|/\*\*(?![*/])|#\[doc\b"),
    fence_tags="rust rs",
)
