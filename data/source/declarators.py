"""Names inside the nested declarators of C and C++."""

from tree_sitter import Node

#: Where a definition stands if it is a statement of a function.
_STATEMENTS = frozenset({"compound_statement", "case_statement", "labeled_statement", "else_clause"})
_FUNCTION = ("function_declarator", "operator_cast")


def declared_name(node: Node) -> tuple[str, str]:
    """Return the name that a function definition or declaration of C or C++ declares, and what qualifies it.

    The name of `int (*ns::Parser::f(int))(char)` is `f`, qualified by `ns.Parser`. "" if there is no function, or
    if it is a block after a macro, such as `FOR_EACH(x) {…}` in a function.
    """
    kind, declarator = node.child_by_field_name("type"), node.child_by_field_name("declarator")
    if kind is None and node.parent is not None and node.parent.type in _STATEMENTS:
        return "", ""
    if kind is not None and declarator is not None and (misread := _misread_name(node, kind, declarator)):
        return misread

    name = _function_name(declarator)
    scopes, outside = [], True
    while name is not None and (inner := _inner_name(name, outside)) is not None:
        outside = outside and name.type != "parenthesized_declarator"
        scope = name.child_by_field_name("scope")
        if scope is not None:
            # Of a template's arguments, only the template's name qualifies.
            scopes.append(_text(scope).partition("<")[0])
        name = inner

    return (_before_parameters(name) if name is not None else ""), ".".join(scopes)


def _misread_name(node: Node, kind: Node, declarator: Node) -> tuple[str, str] | None:
    """Return the name and scope of what the parser takes for something else; None if it does not."""
    if node.type == "function_definition" and declarator.type in ("identifier", "parenthesized_declarator"):
        # `TEST(name) {…}` in C: the macro is the type of a variable.
        return (_text(kind), "") if kind.type == "type_identifier" else ("", "")
    if _text(kind).endswith("operator"):
        # `inline A::operator int() {…}`: `A::operator` is the type.
        scopes = _text(kind).split("::")[:-1]
        return f"operator {_before_parameters(declarator)}", ".".join(scopes)
    return None


def _inner_name(name: Node, outside: bool) -> Node | None:
    """Return what is inside a node on the way to a name; `outside` of any parentheses of a declarator."""
    if name.type == "parenthesized_declarator":
        return next(iter(name.named_children), None)
    if name.type == "function_declarator" and outside:
        return _word_in_parentheses(name)
    if name.type.endswith("_declarator"):  # a function that returns a pointer to a function
        return name.child_by_field_name("declarator") or next(iter(name.named_children), None)
    return name.child_by_field_name("name")


def _function_name(declarator: Node | None) -> Node | None:
    """Return the node of a function's name, with what qualifies it."""
    while declarator is not None and not declarator.type.endswith(_FUNCTION):
        if declarator.type == "qualified_identifier":
            # That of `A::operator bool`, which has no declarator of its own.
            inner: Node | None = declarator
            while inner is not None and inner.type == "qualified_identifier":
                inner = inner.child_by_field_name("name")
            return declarator if inner is not None and inner.type == "operator_cast" else None
        declarator = declarator.child_by_field_name("declarator") or next(
            (child for child in declarator.named_children if child.type.endswith("declarator")), None
        )

    if declarator is None or declarator.type == "operator_cast":
        return declarator
    return declarator.child_by_field_name("declarator")


def _word_in_parentheses(declarator: Node) -> Node | None:
    """Return the name in parentheses that the parser takes for a parameter: `f` in `type(f)() {…}`."""
    parameters = declarator.child_by_field_name("parameters")
    if parameters is None or parameters.named_child_count != 1:
        return None
    return parameters.named_children[0].child_by_field_name("type")


def _before_parameters(name: Node) -> str:
    """Return a name; that of a conversion such as `operator T*()` ends before its parameters."""
    end: Node | None = name
    while end is not None and end.type != "parameter_list":
        end = end.child_by_field_name("parameters") or next(
            (child for child in end.named_children if child.type.endswith("declarator")), None
        )
    text = name.text or b""
    if end is not None:
        text = text[: end.start_byte - name.start_byte]
    return " ".join(text.decode().split())


def _text(node: Node) -> str:
    return node.text.decode() if node.text else ""
