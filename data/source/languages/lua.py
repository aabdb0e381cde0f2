"""Lua."""

import re

from mose.data.source.languages.base import ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".lua .rockspec .wlua",
    file_names=".luacheckrc",
    interpreters="lua luajit",
    # The grammar's own tags take a whole table for each function in it, and do not qualify names.
    definitions="""
        (function_declaration name: (identifier) @name) @definition.function
        (function_declaration name: (dot_index_expression table: (_) @scope field: (_) @name))
            @definition.function
        (function_declaration name: (method_index_expression table: (_) @scope method: (_) @name))
            @definition.method
        (assignment_statement
            (variable_list . name: (identifier) @name)
            (expression_list . value: (function_definition))) @definition.function
        (assignment_statement
            (variable_list . name: [
                (dot_index_expression table: (_) @scope field: (_) @name)
                (bracket_index_expression table: (_) @scope field: (string) @name)
            ]) (expression_list . value: (function_definition))) @definition.function
        (field name: [(identifier) (string)] @name value: (function_definition)) @definition.function
        (assignment_statement
            (variable_list . name: (identifier) @name)
            (expression_list . value: (table_constructor))) @definition.scope
        (assignment_statement
            (variable_list . name: (dot_index_expression table: (_) @scope field: (_) @name))
            (expression_list . value: (table_constructor))) @definition.scope
        (field name: [(identifier) (string)] @name value: (table_constructor)) @definition.scope
        (variable_declaration (assignment_statement) @wrapped) @wrapper
    """,
    doc_comment=re.compile(rb"--"),
    line_comment="--",
    fence_tags="lua",
)
