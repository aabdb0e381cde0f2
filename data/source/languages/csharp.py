"""C#."""

import re

from mose.data.source.languages.base import JAVADOC, ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".cs .csx",
    interpreters="dotnet-script",
    # Properties, indexers and events are functions if one of their accessors has code.
    definitions="""
        (method_declaration name: (_) @name body: (_)) @definition.function
        (method_declaration name: (_) @name !body) @definition.declaration
        (local_function_statement name: (_) @name body: (_)) @definition.function
        (local_function_statement name: (_) @name !body) @definition.declaration
        (constructor_declaration name: (_) @name) @definition.function
        (destructor_declaration name: (_) @name) @definition.function
        (operator_declaration operator: _ @name body: (_)) @definition.function
        (conversion_operator_declaration type: (_) @name body: (_)) @definition.function
        (property_declaration name: (_) @name
            accessors: (accessor_list (accessor_declaration body: (_)))) @definition.function
        (property_declaration name: (_) @name value: (arrow_expression_clause)) @definition.function
        (indexer_declaration "this" @name
            accessors: (accessor_list (accessor_declaration body: (_)))) @definition.function
        (indexer_declaration "this" @name value: (arrow_expression_clause)) @definition.function
        (event_declaration name: (_) @name
            accessors: (accessor_list (accessor_declaration body: (_)))) @definition.function
        (variable_declarator name: (_) @name
            [(lambda_expression) (anonymous_method_expression)]) @definition.function
        (class_declaration name: (_) @name) @definition.class
        (record_declaration name: (_) @name) @definition.class
        (struct_declaration name: (_) @name) @definition.struct
        (interface_declaration name: (_) @name) @definition.interface
        (enum_declaration name: (_) @name) @definition.enum
        (delegate_declaration name: (_) @name) @definition.type
        (namespace_declaration name: (_) @name) @definition.scope
        (file_scoped_namespace_declaration name: (_) @name) @definition.package
        (variable_declaration type: (_) . (variable_declarator) @wrapped .) @wrapper
        (field_declaration (variable_declaration) @wrapped) @wrapper
        (local_declaration_statement (variable_declaration) @wrapped) @wrapper
        (global_statement (local_function_statement) @wrapped) @wrapper
    """,
    imports=frozenset({"using_directive", "extern_alias_directive", "file_scoped_namespace_declaration"}),
    doc_comment=re.compile(JAVADOC.pattern + rb"|///(?!/)"),
    constructor_nodes=frozenset({"constructor_declaration", "destructor_declaration"}),
    methods_alone=True,
    fence_tags="csharp cs c# dotnet",
    grammar_module="tree_sitter_c_sharp",
)
