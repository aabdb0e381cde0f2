"""Names inside the nested declarators of C and C++."""

from tree_sitter import Node

#: Where a definition stands if it is a statement of a function.
_STATEMENTS = frozenset({"compound_statement", "case_statement", "labeled_statement", "else_clause"})


def declared_name(node: Node) -> tuple[str, str]:
    """Return the name that a function definition or declaration of C or C++ declares, and what qualifies it.

    The name of `int (*ns::Parser::f(int))(char)` is `f`, qualified by `ns.Parser`. "" if there is no function, or
    if it is a block after a macro, such as `FOR_EACH(x) {…}` in a function.
    """
    kind = node.child_by_field_name("type")
    if kind is None and node.parent is not None and node.parent.type in _STATEMENTS:
        return "", ""

    declarator = node.child_by_field_name("declarator")
    if declarator is not None and declarator.type in ("identifier", "parenthesized_declarator") and kind is not None:
        # `TEST(name) {…}` in C: the parser takes the macro for the type of a variable.
        return (_text(kind), "") if kind.type == "type_identifier" else ("", "")

    while declarator is not None and not declarator.type.endswith(("function_declarator", "operator_cast")):
        if declarator.type == "qualified_identifier":  # that of `A::operator bool`
            break
        declarator = declarator.child_by_field_name("declarator") or next(
            (child for child in declarator.named_children if child.type.endswith("declarator")), None
        )

    name = declarator
    if declarator is not None and declarator.type.endswith("function_declarator"):
        name = declarator.child_by_field_name("declarator")

    scopes: list[str] = []
    while name is not None:
        inner = name.child_by_field_name("name")
        if name.type == "parenthesized_declarator":
            inner = name.named_children[0] if name.named_children else None
        if inner is None:
            break

        scope = name.child_by_field_name("scope")
        if scope is not None:
            # Of a template's arguments, only the template's name qualifies.
            scopes.append(_text(scope).partition("<")[0])
        name = inner

    return (_name_text(name) if name is not None else ""), ".".join(scopes)


def _name_text(name: Node) -> str:
    """Return a name; that of a conversion such as `operator T*()` ends before the parameters."""
    text = " ".join(_text(name).split())
    if name.type != "operator_cast":
        return text
    parameters = name.child_by_field_name("declarator")
    while parameters is not None and parameters.type != "abstract_function_declarator":
        parameters = next((child for child in parameters.named_children if child.type.startswith("abstract")), None)
    if parameters is None:
        return text
    head = (name.text or b"")[: parameters.start_byte - name.start_byte]
    return " ".join(head.decode().split())


def _text(node: Node) -> str:
    return node.text.decode() if node.text else ""
