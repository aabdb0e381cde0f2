"""Bash, and the shells that it extends."""

import re

from mose.data.source.languages.base import ProgrammingLanguage

LANGUAGE = ProgrammingLanguage(
    extensions=".sh .bash .ksh",
    file_names=".bashrc .bash_profile .bash_aliases .bash_logout .profile PKGBUILD APKBUILD",
    interpreters="sh bash dash ksh ash",
    definitions="(function_definition name: (_) @name) @definition.function",
    # By no convention is any comment above a function more of a documentation than another.
    doc_comment=re.compile(rb"#(?!!)"),
    line_comment="#",
    fence_tags="bash sh shell zsh ksh",
    # Builtins, to the grammar, are commands like any other.
    extra_keywords="return break continue exit shift set trap eval exec source alias true false",
)
