"""JavaScript with JSX, and with Flow's types, which the grammar of TypeScript covers."""

from mose.data.source.languages.base import JAVADOC, ProgrammingLanguage

_FUNCTION = "[(function_expression) (arrow_function) (generator_function)]"
_DECLARED = "[(function_expression) (arrow_function) (generator_function) (class) (call_expression)]"
#: An object, or a call that is given one, as in `createClass({ ... })`: it qualifies the functions inside it.
_OBJECT = "[(object) (call_expression arguments: (arguments (object)))]"
#: What only says where a name lives: `exports.f` is `f` to its readers.
_TRANSPARENT = "^(this|self|that|_this|exports|module|module.exports|window|global|globalThis)$"
#: Calls that return the function they are given with something around it.
_DECORATING_CALL = (
    "^([A-Za-z_$][A-Za-z_$0-9]*[.])?(memo|memoize|forwardRef|observer|useCallback|debounce|throttle|once)$"
)

#: What functions and classes look like in JavaScript; TypeScript adds to it. The grammar's own tags find nothing
#: more, know no names such as `X.prototype.f`, and leave constructors out.
DEFINITIONS = f"""
    (function_declaration name: (_) @name) @definition.function
    (generator_function_declaration name: (_) @name) @definition.function
    (method_definition name: (_) @name) @definition.function
    (variable_declarator name: (identifier) @name value: {_FUNCTION}) @definition.function
    (variable_declarator name: (identifier) @name value: (call_expression
        function: (_) @_call arguments: (arguments . {_FUNCTION}))
        (#match? @_call "{_DECORATING_CALL}")) @definition.function
    (assignment_expression left: (member_expression) @_left right: [(function_expression name: (_) @name)
        (generator_function name: (_) @name)] (#eq? @_left "module.exports")) @definition.function
    (assignment_expression left: (member_expression
        object: (member_expression object: (_) @scope property: (_) @_prototype) property: (_) @name)
        right: {_FUNCTION} (#eq? @_prototype "prototype")) @definition.method
    (assignment_expression left: (member_expression
        object: [(identifier) (member_expression)] @scope property: (_) @name)
        right: {_FUNCTION} (#not-match? @scope "{_TRANSPARENT}")) @definition.function
    (assignment_expression left: [
            (identifier) @name
            (member_expression property: (_) @name)
            (subscript_expression index: (string) @name)
        ] right: {_FUNCTION}) @definition.function
    (augmented_assignment_expression left: [(identifier) @name (member_expression property: (_) @name)]
        right: {_FUNCTION}) @definition.function
    (pair key: [
            (property_identifier) @name
            (string) @name
            (computed_property_name (string) @name)
        ] value: {_FUNCTION}) @definition.function
    (call_expression function: (_) @_call arguments: (arguments [(function_expression name: (_) @name)
        (generator_function name: (_) @name)] @definition.function) (#not-match? @_call "{_DECORATING_CALL}"))
    (return_statement (function_expression name: (_) @name) @definition.function)
    (arrow_function body: (function_expression name: (_) @name) @definition.function)
    (parenthesized_expression (function_expression name: (_) @name) @definition.function)
    (export_statement "default" @name value: [(function_expression !name) (generator_function !name)
        (arrow_function)] @definition.function)

    (class_declaration name: (_) @name) @definition.class
    (variable_declarator name: (identifier) @name value: (class)) @definition.class
    (assignment_expression left: (member_expression) @_left right: (class name: (_) @name)
        (#eq? @_left "module.exports")) @definition.class
    (assignment_expression left: [(identifier) @name (member_expression property: (_) @name)]
        right: (class)) @definition.class
    (export_statement "default" @name value: (class !name) @definition.class)

    (assignment_expression left: (member_expression object: (_) @name property: (_) @_prototype)
        right: {_OBJECT} (#eq? @_prototype "prototype")) @definition.extension
    (variable_declarator name: (identifier) @name value: {_OBJECT}) @definition.scope
    (assignment_expression left: (identifier) @name right: {_OBJECT}) @definition.scope
    (assignment_expression left: (member_expression
        object: [(identifier) (member_expression)] @scope property: (_) @name)
        right: {_OBJECT} (#not-match? @scope "{_TRANSPARENT}")) @definition.scope
    (pair key: [(property_identifier) (string)] @name value: {_OBJECT}) @definition.scope

    (export_statement declaration: (_) @wrapped) @wrapper
    (export_statement value: [(function_expression) (generator_function) (arrow_function) (class)]
        @wrapped) @wrapper
    (lexical_declaration . (variable_declarator value: {_DECLARED}) @wrapped .) @wrapper
    (variable_declaration . (variable_declarator value: {_DECLARED}) @wrapped .) @wrapper
    (expression_statement [(assignment_expression right: [(function_expression) (arrow_function)
        (generator_function) (class)]) (augmented_assignment_expression)] @wrapped) @wrapper
"""
LANGUAGE = ProgrammingLanguage(
    extensions=".js .mjs .cjs .jsx .es6",
    file_names="Jakefile",
    interpreters="node nodejs bun",
    definitions=DEFINITIONS
    + """
    (field_definition property: (_) @name
        value: [(function_expression) (arrow_function)]) @definition.function
    """,
    imports=frozenset({"import_statement"}),
    doc_comment=JAVADOC,
    constructors=frozenset({"constructor"}),
    unwraps_closures=True,
    methods_alone=True,
    fence_tags="javascript js jsx node nodejs ecmascript mjs",
    dialects=("tsx",),
)
