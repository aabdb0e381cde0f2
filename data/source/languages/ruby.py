"""Ruby."""

import re

from mose.data.source.languages.base import ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".rb .rbw .rake .gemspec .ru .podspec .jbuilder .thor",
    file_names="Rakefile Gemfile Guardfile Capfile Vagrantfile Podfile Fastfile Appfile "
    "Brewfile Dangerfile Thorfile",
    interpreters="ruby jruby rake",
    # The grammar's own tags are among these, but for `alias`, which defines no code.
    definitions="""
        (program (singleton_method object: (constant) @scope name: (_) @name) @definition.method)
        (method name: (_) @name) @definition.function
        (singleton_method name: (_) @name) @definition.function
        (call method: (identifier) @_define
            arguments: (argument_list . [(simple_symbol) @name (string (string_content) @name)])
            block: (_) (#any-of? @_define "define_method" "define_singleton_method")) @definition.function
        (assignment left: [(identifier) (constant)] @name right: (lambda)) @definition.function
        (assignment left: [(identifier) (constant)] @name right: (call !receiver method: (identifier) @_lambda
            block: (_) (#any-of? @_lambda "lambda" "proc"))) @definition.function
        (class name: (_) @name) @definition.class
        (module name: (_) @name) @definition.module
        (assignment left: (constant) @name right: (call receiver: (constant) @_class method: (identifier) @_new
            (#any-of? @_class "Class" "Struct" "Data") (#any-of? @_new "new" "define"))) @definition.class
        (assignment left: (constant) @name right: (call receiver: (constant) @_class method: (identifier) @_new
            (#eq? @_class "Module") (#eq? @_new "new"))) @definition.module
        (singleton_class value: (constant) @name) @definition.extension
        (call receiver: [(constant) (scope_resolution)] @name method: (identifier) @_eval
            block: (_) (#any-of? @_eval "class_eval" "module_eval" "class_exec")) @definition.extension
        (call arguments: (argument_list . [(method) (singleton_method)] @wrapped .)) @wrapper
        (call arguments: (argument_list . (call arguments: (argument_list . (method))) @wrapped .)) @wrapper
    """,
    doc_comment=re.compile(rb"#(?!!)|=begin"),
    constructors=frozenset({"initialize"}),
    line_comment="#",
    fence_tags="ruby rb",
)
