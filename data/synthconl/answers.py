"""From a language model's answer to code that parses in the language asked for."""

import re
import textwrap
from dataclasses import dataclass
from itertools import combinations

from tree_sitter import Parser

from mose.data.source.definitions import ParseError, extract_functions
from mose.data.source.languages import grammar

#: What a fence's info string may call each language. C and C++ are mistaken for each other; the parser decides.
_TAGS = {
    "python": {"python", "py", "python3"},
    "java": {"java"},
    "javascript": {"javascript", "js", "jsx", "node", "nodejs", "ecmascript", "mjs"},
    "go": {"go", "golang"},
    "ruby": {"ruby", "rb"},
    "php": {"php"},
    "c": {"c", "h", "cpp", "c++"},
    "cpp": {"cpp", "c++", "cc", "cxx", "hpp", "c", "h"},
}
_FENCE = re.compile(r"^[ \t>]*(?P<mark>`{3,}|~{3,})[ \t]*(?P<tag>[^\s`~{]*)[^\n`]*$", re.MULTILINE)
#: Languages whose methods are often shown without their class.
_IN_CLASS = ("java", "javascript", "php")
MOST_PARAGRAPHS = 40


class NoCode(ValueError):
    """An answer that is not used; its text is the reason, the same for all answers of a kind."""


@dataclass(frozen=True)
class Block:
    """A fenced block: its tag in lower case, its text, and whether the fence was closed."""

    tag: str
    text: str
    closed: bool


def read_answer(answer: str, language: str, source: str = "") -> str:
    """The code in an answer.

    Taken is the first fenced block that is tagged as the language asked for, else the first without a tag; a
    fence that is never closed ends with the answer. Without any fence, the code is the paragraphs that hold the
    functions, and prose around them is left off.

    Args:
        answer: What the model said.
        language: The language asked for, a key of `mose.tokenization.prompts.LANGUAGES`.
        source: The code that was to be translated.

    Returns:
        Code that parses in the language and holds a function, without the indentation that all its lines share.

    Raises:
        NoCode: "no code", "other language", "does not parse", "no function", or "unchanged".
    """
    blocks = fenced_blocks(answer)
    if blocks:
        tagged = [block for block in blocks if block.tag in _TAGS[language]]
        chosen = tagged or [block for block in blocks if not block.tag]
        if not chosen:
            raise NoCode("other language")
        code = _tidy(chosen[0].text)
    else:
        code = _without_prose(answer, language)
    if not code:
        raise NoCode("no code")
    if not parses(code, language):
        raise NoCode("does not parse")
    if not holds_function(code, language):
        raise NoCode("no function")
    if "".join(code.split()) == "".join(source.split()):
        raise NoCode("unchanged")
    return code


def fenced_blocks(answer: str) -> list[Block]:
    """The fenced blocks of an answer: a fence ends at an untagged one of its kind and length (CommonMark)."""
    blocks: list[Block] = []
    opening: re.Match[str] | None = None
    for fence in _FENCE.finditer(answer):
        if opening is None:
            opening = fence
        elif not fence["tag"] and fence["mark"].startswith(opening["mark"]):
            blocks.append(Block(opening["tag"].lower(), answer[opening.end() : fence.start()], True))
            opening = None
    if opening is not None:
        blocks.append(Block(opening["tag"].lower(), answer[opening.end() :], False))
    return blocks


def parses(code: str, language: str) -> bool:
    """Whether tree-sitter reads it without an error, as a file or as the body of a class."""
    return any(
        not Parser(grammar(language)).parse(text.encode()).root_node.has_error for text in _files(code, language)
    )


def holds_function(code: str, language: str) -> bool:
    """Whether it defines a function or method with a name."""
    for text in _files(code, language):
        try:
            if extract_functions(text.encode(), language):
                return True
        except ParseError:
            continue
    return False


def _files(code: str, language: str) -> list[str]:
    """The code as a file may hold it: as it is, and inside a class."""
    if language == "php" and "<?" in code:
        return [code]
    opening = "<?php\n" if language == "php" else ""
    texts = [code, *([f"class Wrapper {{\n{code}\n}}"] if language in _IN_CLASS else [])]
    return [opening + text for text in texts]


def _tidy(text: str) -> str:
    lines = textwrap.dedent(text.replace("\r\n", "\n")).split("\n")
    while lines and not lines[0].strip():
        lines.pop(0)
    return "\n".join(line.rstrip() for line in lines).rstrip()


def _without_prose(answer: str, language: str) -> str:
    """The fewest paragraphs in a row that parse and hold as many functions as any do; all, where none parse."""
    paragraphs = re.split(r"\n[ \t]*\n", answer.replace("\r\n", "\n").strip("\n"))
    if len(paragraphs) > MOST_PARAGRAPHS:
        return _tidy(answer)
    best, most = "", 0
    for start, end in sorted(combinations(range(len(paragraphs) + 1), 2), key=lambda run: run[1] - run[0]):
        code = _tidy("\n\n".join(paragraphs[start:end]))
        if code and parses(code, language) and (count := _count(code, language)) > most:
            best, most = code, count
    if best:
        return best
    # Prose and nothing else is no code; code that is broken is not to be called prose.
    return _tidy(answer) if re.search(r"[{}();=]", answer) else ""


def _count(code: str, language: str) -> int:
    counts = [0]
    for text in _files(code, language):
        try:
            counts.append(len(extract_functions(text.encode(), language)))
        except ParseError:
            continue
    return max(counts)
