"""Kotlin."""

import re

from mose.data.source.languages.base import JAVADOC, ProgrammingLanguage

#: The type that an extension is for.
_RECEIVER = "[(user_type . (identifier) @scope) (nullable_type (user_type . (identifier) @scope))]"
_PROPERTY = "(variable_declaration . (identifier) @name)"
_FUNCTION = "[(getter (function_body)) (setter (function_body)) (lambda_literal) (anonymous_function)]"

LANGUAGE = ProgrammingLanguage(
    extensions=".kt .kts",
    interpreters="kotlin kotlinc",
    # A companion object without a name qualifies nothing: its functions are called by the name of the class.
    definitions=f"""
        (function_declaration {_RECEIVER} . "." . name: (_) @name (function_body)) @definition.method
        (function_declaration name: (_) @name (function_body)) @definition.function
        (function_declaration name: (_) @name) @definition.declaration
        (secondary_constructor "constructor" @name) @definition.function
        (property_declaration {_RECEIVER} . "." . {_PROPERTY} {_FUNCTION}) @definition.method
        (property_declaration {_PROPERTY} {_FUNCTION}) @definition.function
        (class_declaration "interface" name: (_) @name) @definition.interface
        (class_declaration (modifiers (class_modifier "enum")) name: (_) @name) @definition.enum
        (class_declaration name: (_) @name) @definition.class
        (object_declaration name: (_) @name) @definition.class
        (companion_object name: (_) @name) @definition.class
        (type_alias type: (identifier) @name) @definition.type
        (enum_entry (identifier) @name (class_body)) @definition.extension
        (property_declaration {_PROPERTY} (object_literal)) @definition.extension
    """,
    comments="[(line_comment) (block_comment)] @comment",
    imports=frozenset({"package_header", "import", "file_annotation", "shebang"}),
    doc_comment=JAVADOC,
    constructor_nodes=frozenset({"secondary_constructor"}),
    fence_tags="kotlin kt kts",
    # Names such as `in1`, and members that end with the line of the brace after them.
    repairs=((re.compile(rb"\bin(?=\d)"), b"xx"), (re.compile(rb"(?<=[^\s{]) (?=\})"), b";")),
)
