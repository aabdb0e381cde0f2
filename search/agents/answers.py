"""Answers of the tools: small records, cut to a token budget, since the context of an agent is dear."""

import json
from collections.abc import Iterable
from typing import Annotated

from pydantic import BaseModel, Field

#: Characters that count as one token of an agent's model. Code and JSON have three to four.
TOKEN_CHARACTERS = 3
#: Tokens that the other fields of an answer may need.
_RESERVED_TOKENS = 20


class UnitSummary(BaseModel):
    """The place of a unit, and its first lines."""

    path: Annotated[str, Field(description="path in its folder, with forward slashes")]
    lines: Annotated[str, Field(description="first and last line, such as 12-30")]
    kind: Annotated[str, Field(description="function, method, class, file, …")]
    name: Annotated[str, Field(description="name with those of the definitions around it, joined by dots")]
    score: Annotated[float | None, Field(description="how well it fits, at most 1")] = None
    folder: Annotated[str, Field(description='the indexed folder; "" if there is only one')] = ""
    code: Annotated[str, Field(description='its first lines; "" if they would exceed the budget')] = ""


class SearchAnswer(BaseModel):
    """Units that fit, best first."""

    hits: list[UnitSummary]
    left_out: Annotated[int, Field(description="further hits that would exceed max_tokens")] = 0
    note: Annotated[str, Field(description="what to know about the answer")] = ""


class UnitAnswer(BaseModel):
    """One unit with what is around it in its file."""

    unit: UnitSummary
    code: Annotated[str, Field(description="its source, from the line first_line of the file on")]
    first_line: Annotated[int, Field(description="line of the file at which code begins")]
    lines_left_out: Annotated[int, Field(description="lines at its end that would exceed max_tokens")] = 0
    inside_of: Annotated[list[UnitSummary], Field(description="the definitions around it, outermost first")] = []
    before: Annotated[list[UnitSummary], Field(description="units before it in the file, nearest last")] = []
    after: Annotated[list[UnitSummary], Field(description="units after it in the file, nearest first")] = []
    note: Annotated[str, Field(description="what to know about the answer")] = ""


class FolderSummary(BaseModel):
    """An indexed folder."""

    folder: Annotated[str, Field(description="absolute path")]
    files: int
    units: int
    model: str
    exit_layer: Annotated[int, Field(description="blocks that the model ran for each unit")]


class FoldersAnswer(BaseModel):
    """The folders that can be searched, and those that could be indexed."""

    indexed: list[FolderSummary]
    may_index: Annotated[list[str], Field(description="index_folder takes these folders and those inside")]
    note: Annotated[str, Field(description="what to know about the answer")] = ""


class IndexAnswer(BaseModel):
    """Counts of an indexed folder."""

    folder: str
    files: int
    units: int
    embedded: Annotated[int, Field(description="units that had changed or were new")]
    seconds: float
    left_out: Annotated[list[str], Field(description="what was not read, and why")] = []


def compact_json(answer: BaseModel) -> str:
    """Return an answer as JSON without what its schema says by default, as short as JSON can be."""
    return json.dumps(answer.model_dump(exclude_defaults=True), ensure_ascii=False, separators=(",", ":"))


def token_count(text: str) -> int:
    """Return about how many tokens a text takes in an agent's context."""
    return -(-len(text) // TOKEN_CHARACTERS)


def cut_hits(hits: Iterable[UnitSummary], max_tokens: int, note: str = "") -> SearchAnswer:
    """Return as many hits as fit a budget. Code is left out before hits are, and the first hit always stays."""
    answer = SearchAnswer(hits=[], note=note)
    budget = max_tokens - _RESERVED_TOKENS - token_count(json.dumps(note))

    for hit in hits:
        plain = hit.model_copy(update={"code": ""})
        fitting = [one for one in (hit, plain) if token_count(compact_json(one)) <= budget]
        # Once a hit is left out, shorter ones after it are too: the order tells which fit better.
        if answer.left_out or not fitting and answer.hits:
            answer.left_out += 1
            continue

        answer.hits.append(fitting[0] if fitting else plain)
        budget -= token_count(compact_json(answer.hits[-1]))
    return answer


def cut_unit(answer: UnitAnswer, max_tokens: int) -> UnitAnswer:
    """Return a unit cut to a budget: first its neighbours go, the farthest first, then lines at its end."""
    answer = answer.model_copy(deep=True)

    def excess() -> int:
        return token_count(compact_json(answer)) - max_tokens

    while excess() > 0 and (answer.before or answer.after):
        # `before` has the nearest last, `after` first.
        answer.before.pop(0) if len(answer.before) >= len(answer.after) else answer.after.pop()

    lines = answer.code.split("\n")
    while excess() > 0 and len(lines) > 1:
        # JSON writes some characters as several, so this may take more than one round.
        dropped = 0
        while len(lines) > 1 and dropped < excess() * TOKEN_CHARACTERS:
            dropped += len(lines.pop()) + 1
            answer.lines_left_out += 1
        answer.code = "\n".join(lines)
    return answer
