"""Ruby."""

import re

from mose.data.source.languages.base import ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".rb .rake .gemspec .ru",
    file_names="Rakefile Gemfile Guardfile Capfile Vagrantfile",
    interpreters="ruby jruby",
    definitions="""
        (method name: (_) @name) @definition.function
        (singleton_method name: (_) @name) @definition.function
        (class name: (_) @name) @definition.class
        (module name: (_) @name) @definition.module
        (call arguments: (argument_list . [(method) (singleton_method)] @wrapped .)) @wrapper
        (call arguments: (argument_list . (call arguments: (argument_list . (method))) @wrapped .)) @wrapper
    """,
    doc_comment=re.compile(rb"#(?!!)|=begin"),
    constructors=frozenset({"initialize"}),
    hash_comments=True,
    fence_tags="ruby rb",
)
