"""Which files are in which language, and that each grammar's own idea of a definition is covered."""

import importlib
import json
import runpy
from pathlib import Path

import pytest
from tree_sitter import Parser, Query, QueryCursor

from mose.data.source.languages import (
    PROGRAMMING_LANGUAGES,
    definition_query,
    grammar,
    kernel_language,
    language_of,
    readable_languages,
    supported_languages,
)
from mose.tokenization.prompts import LANGUAGES, NATURAL_LANGUAGES


def test_languages_have_a_prompt_name_of_their_own():
    assert set(supported_languages()) == set(LANGUAGES)
    assert set(readable_languages()) - set(supported_languages()) <= NATURAL_LANGUAGES


@pytest.mark.parametrize(
    ("path", "language"),
    [
        *(("a.ts", "typescript"), ("a.mts", "typescript"), ("a.d.cts", "typescript"), ("a.tsx", "typescript")),
        *(("a.rs", "rust"), ("a.cs", "csharp"), ("a.kt", "kotlin"), ("build.gradle.kts", "kotlin")),
        *(("a.scala", "scala"), ("build.sbt", "scala"), ("a.swift", "swift"), ("a.lua", "lua"), ("a.SQL", "sql")),
        *(
            ("a.sh", "bash"),
            (".bashrc", "bash"),
            ("PKGBUILD", "bash"),
            ("Rakefile", "ruby"),
            ("a.jsx", "javascript"),
        ),
        *(("a.md", "text"), ("a.RST", "text"), ("README", "text"), ("notes.txt", "text"), ("a.ipynb", "python")),
        *(("requirements-dev.txt", None), ("CMakeLists.txt", None), ("a.cob", None), ("noextension", None)),
    ],
)
def test_a_language_is_told_by_the_name(path, language):
    assert language_of(f"src/{path}") == language


@pytest.mark.parametrize(
    ("line", "language"),
    [
        ("#!/bin/sh", "bash"),
        ("#!/usr/bin/env bash", "bash"),
        ("#! /usr/bin/env -S deno run", "typescript"),
        ("#!/usr/bin/lua5.4", "lua"),
        ("#!/usr/bin/env kotlin", "kotlin"),
        ("#!/usr/bin/env tsx", "typescript"),
        ("#!/usr/bin/env python3.11 -u", "python"),
        ("#!/usr/bin/perl", None),
    ],
)
def test_a_script_is_told_by_its_first_line(line, language):
    assert language_of("tool", f"{line}\n".encode()) == language


@pytest.mark.parametrize(
    ("path", "source", "language"),
    [
        ("de.ts", b'<?xml version="1.0"?>\n<!DOCTYPE TS>\n<TS></TS>', None),
        ("de.ts", b"<!DOCTYPE TS>\n<TS></TS>", None),
        ("a.ts", b"<T>(x: T) => x", "typescript"),
        ("boot.inc", b"%define X 1\n", None),
        ("boot.inc", b"<html>\n<?php f(); ?>", "php"),
    ],
)
def test_other_files_with_the_same_extension_are_told_by_their_content(path, source, language):
    assert language_of(path, source) == language


@pytest.mark.parametrize(
    ("metadata", "language"),
    [
        ({}, "python"),
        ({"kernelspec": {"name": "my-env", "display_name": "My env"}}, "python"),
        ({"kernelspec": {"name": "ir", "language": "R"}}, None),
        ({"language_info": {"name": "c++", "codemirror_mode": {"name": "text"}}}, "cpp"),
        ({"language_info": {"name": "C#"}}, "csharp"),
        ({"language_info": {"name": "c"}}, "c"),
        ({"language_info": {"name": "Kotlin"}, "kernelspec": {"language": "x"}}, "kotlin"),
        ({"language_info": 3, "kernelspec": None}, "python"),
        (None, "python"),
    ],
)
def test_a_notebook_has_the_language_of_its_kernel(metadata, language):
    notebook = {"metadata": metadata}
    assert kernel_language(notebook) == language
    assert language_of("a.ipynb", json.dumps(notebook).encode()) == language


#: What the grammars' own tags take for definitions though it holds no code: an alias, a property.
NOT_OURS = {"ruby": {"alias"}, "php": {"property_declaration"}, "python": {"assignment"}}


def captured_names(query: Query, language: str, source: bytes) -> set[str]:
    """Return names and lines of the definitions that a query captures."""
    root = Parser(grammar(language)).parse(source).root_node
    names = set()
    for _, captures in QueryCursor(query).matches(root):
        for key, (node, *_) in captures.items():
            if (
                key.startswith("definition.")
                and "name" in captures
                and node.type not in NOT_OURS.get(language, ())
            ):
                name = captures["name"][0]
                names.add(f"{name.text.decode().rpartition('::')[2]}:{name.start_point[0]}")
    return names


@pytest.mark.parametrize(
    "language", ["go", "java", "javascript", "lua", "php", "python", "ruby", "rust", "typescript"]
)
def test_definitions_of_the_grammars_tags_are_found(language):
    source = runpy.run_path(str(Path(__file__).with_name(f"test_{language}.py")))["SOURCE"].encode()
    entry = PROGRAMMING_LANGUAGES[language]
    module = importlib.import_module(entry.grammar_module or f"tree_sitter_{language}")
    tags = captured_names(Query(grammar(language), module.TAGS_QUERY), language, source)
    missing = tags - captured_names(definition_query(language), language, source)
    assert len(tags) >= 6
    # `mod other;` only refers to a file.
    assert {name.partition(":")[0] for name in missing} == ({"other"} if language == "rust" else set())
