"""Extract code that parses in the target language from a language model's answer."""

import re
import textwrap
from itertools import combinations
from typing import NamedTuple

from tree_sitter import Parser

from mose.data.source.definitions import extract_functions
from mose.data.source.languages import PROGRAMMING_LANGUAGES, grammar

_FENCE = re.compile(r"^[ \t>]*(?P<mark>`{3,}|~{3,})[ \t]*(?P<tag>[^\s`~{]*)[^\n`]*$", re.MULTILINE)
#: Without a fence, all runs of paragraphs are tried; longer answers are taken as a whole.
MOST_PARAGRAPHS = 40


class NoCodeError(ValueError):
    """An answer that is not used; its text is the reason, the same for all answers of a kind."""


class FencedBlock(NamedTuple):
    """A fenced code block: its tag in lower case, and its text."""

    tag: str
    text: str


def read_answer(answer: str, language: str, source: str = "") -> str:
    """Return the code in an answer.

    It is the first fenced block that is tagged as `language`, else the first without a tag. A fence that is never
    closed ends with the answer. Without any fence, it is the paragraphs that hold the functions, without the
    prose around them.

    Args:
        answer: the model's answer.
        language: the target language, a key of `mose.tokenization.prompts.LANGUAGES`.
        source: the code that was to be translated.

    Returns:
        Code that parses in the language and holds a function, without common indentation.

    Raises:
        NoCodeError: "no code", "other language", "does not parse", "no function", or "unchanged".
    """
    if blocks := fenced_blocks(answer):
        tags = PROGRAMMING_LANGUAGES[language].fence_tags.split()
        candidates = [block for block in blocks if block.tag in tags] or [b for b in blocks if not b.tag]
        if not candidates:
            raise NoCodeError("other language")
        code = _strip(candidates[0].text)
    else:
        code = _without_prose(answer, language)

    if not code:
        raise NoCodeError("no code")
    if not parses(code, language):
        raise NoCodeError("does not parse")
    if not _count_functions(code, language):
        raise NoCodeError("no function")
    if "".join(code.split()) == "".join(source.split()):
        raise NoCodeError("unchanged")

    return code


def fenced_blocks(answer: str) -> list[FencedBlock]:
    """Return the fenced blocks of an answer. As in CommonMark, an untagged fence of its kind ends it."""
    blocks: list[FencedBlock] = []
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(answer):
        if opening is None:
            opening = fence
        elif not fence["tag"] and fence["mark"].startswith(opening["mark"]):
            blocks.append(FencedBlock(opening["tag"].lower(), answer[opening.end() : fence.start()]))
            opening = None

    if opening is not None:
        blocks.append(FencedBlock(opening["tag"].lower(), answer[opening.end() :]))
    return blocks


def parses(code: str, language: str) -> bool:
    """Return True if the code parses without an error, as a file or as the body of a class."""
    return any(
        not Parser(grammar(language)).parse(text.encode()).root_node.has_error
        for text in _as_files(code, language)
    )


def _count_functions(code: str, language: str) -> int:
    """Return the number of named functions and methods in the code."""
    return max(len(extract_functions(text.encode(), language)) for text in _as_files(code, language))


def _as_files(code: str, language: str) -> list[str]:
    """Return the code as a file could hold it: as it is, and inside a class."""
    entry = PROGRAMMING_LANGUAGES[language]
    if language == "php" and "<?" in code:
        return [code]
    texts = [code, *([f"class Wrapper {{\n{code}\n}}"] if entry.methods_alone else [])]
    return [entry.file_prefix + text for text in texts]


def _strip(text: str) -> str:
    """Remove common indentation, blank lines at both ends, and white space at the ends of lines."""
    lines = textwrap.dedent(text.replace("\r\n", "\n")).split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    return "\n".join(line.rstrip() for line in lines).rstrip()


def _without_prose(answer: str, language: str) -> str:
    """Return the shortest run of paragraphs that parses and has the most functions; everything if none parses."""
    paragraphs = re.split(r"\n[ \t]*\n", answer.replace("\r\n", "\n").strip("\n"))
    if len(paragraphs) > MOST_PARAGRAPHS:
        return _strip(answer)

    best, most = "", 0
    for start, end in sorted(combinations(range(len(paragraphs) + 1), 2), key=lambda run: run[1] - run[0]):
        code = _strip("\n\n".join(paragraphs[start:end]))
        if code and parses(code, language) and (count := _count_functions(code, language)) > most:
            best, most = code, count

    if best:
        return best
    # Prose alone is "no code", but broken code must not be counted as prose.
    return _strip(answer) if re.search(r"[{}();=]", answer) else ""
