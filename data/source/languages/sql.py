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

#: Statements of PostgreSQL that the grammar does not know, up to the next semicolon.
_UNKNOWN_STATEMENT = re.compile(
    rb"(?im)^(?:CREATE\s+(?:OR\s+REPLACE\s+)?(?:OPERATOR|CAST|ACCESS|AGGREGATE|DOMAIN|RULE|LANGUAGE|COLLATION|FOREIGN"
    rb"|SERVER|USER|PUBLICATION|SUBSCRIPTION|TEXT|EVENT)|ALTER\s+(?:OPERATOR|FUNCTION|EXTENSION|AGGREGATE|TYPE|DOMAIN)"
    rb"|DROP\s+(?:OPERATOR|CAST|AGGREGATE|DOMAIN|RULE)|COMMENT\s+ON|GRANT|REVOKE|PRAGMA)\b(?:'[^']*'|[^;'])*+(?:[;']|\Z)"
)
#: Commands to a client: of psql, MySQL's and SQL Server's.
_CLIENT_COMMAND = re.compile(rb"(?im)^(?:\\[^\n]*|DELIMITER\b[^\n]*|GO[ \t]*$)")
_BRACKETED_NAME = re.compile(rb"(?<![\w\])])\[([A-Za-z_][\w ]*)\]")

LANGUAGE = ProgrammingLanguage(
    extensions=".sql .ddl .pgsql .psql",
    definitions=_DEFINITIONS,
    comments="[(comment) (marginalia)] @comment",
    doc_comment=re.compile(rb"--|/\*"),
    line_comment="--",
    repairs=((_CLIENT_COMMAND, b""), (_UNKNOWN_STATEMENT, b""), (_BRACKETED_NAME, rb'"\1"')),
    fence_tags="sql postgresql postgres plpgsql mysql sqlite tsql",
)
