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
    """,
    doc_comment=re.compile(rb"#(?!!)|=begin"),
    wrappers=frozenset({"argument_list", "call"}),
    constructors=frozenset({"initialize"}),
    hash_comments=True,
    fence_tags="ruby rb",
)
