"""SQL: tables, views, types, functions, procedures and triggers."""

import re

from mose.data.source.languages.base import ProgrammingLanguage

_KINDS = {
    "create_function": "function",
    "create_procedure": "function",
    "create_trigger": "function",
    "create_table": "table",
    "create_view": "table",
    "create_materialized_view": "table",
    "create_type": "type",
}
#: The name follows the keyword of its kind: references to other objects follow later.
_DEFINITIONS = "\n".join(
    f"""
        ({node} [(keyword_{node.split("_")[-1]}) (keyword_exists)]
            . (object_reference schema: (_) @scope name: (_) @name)) @definition.{kind}
        ({node} [(keyword_{node.split("_")[-1]}) (keyword_exists)]
            . (object_reference name: (_) @name)) @definition.{kind}"""
    for node, kind in _KINDS.items()
)

LANGUAGE = ProgrammingLanguage(
    extensions=".sql .ddl .pgsql .psql",
    definitions=_DEFINITIONS,
    comments="[(comment) (marginalia)] @comment",
    doc_comment=re.compile(rb"--|/\*"),
    line_comment="--",
    fence_tags="sql postgresql postgres plpgsql mysql sqlite tsql",
)
