"""Names inside the nested declarators of C and C++."""

from tree_sitter import Node


def declared_name(node: Node) -> tuple[Node | None, str]:
    """Return the name that a function definition or declaration of C or C++ declares, and what qualifies it.

    The name of `int (*ns::Parser::f(int))(char)` is `f`, qualified by `ns.Parser`. None if there is no function.
    """
    declarator = node.child_by_field_name("declarator")
    while declarator is not None and not declarator.type.endswith("function_declarator"):
        declarator = declarator.child_by_field_name("declarator") or next(
            (child for child in declarator.named_children if child.type.endswith("declarator")), None
        )

    name = declarator and declarator.child_by_field_name("declarator")
    scopes: list[str] = []
    while name is not None:
        inner = name.child_by_field_name("name")
        if name.type == "parenthesized_declarator":
            inner = name.named_children[0] if name.named_children else None
        if inner is None:
            break

        scope = name.child_by_field_name("scope")
        if scope is not None and scope.text:
            # Of a template's arguments, only the template's name qualifies.
            scopes.append(scope.text.decode().partition("<")[0])
        name = inner

    return name, ".".join(scopes)
