"""A server of the Model Context Protocol: its tools, their schemas, and what they answer."""

import importlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import anyio.from_thread
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import CallToolResult, TextContent, ToolAnnotations
from pydantic import BaseModel, Field

from mose.data.source.units import KINDS
from mose.search.agents.answers import (
    FoldersAnswer,
    FolderSummary,
    IndexAnswer,
    SearchAnswer,
    UnitAnswer,
    UnitSummary,
    compact_json,
    cut_hits,
    cut_unit,
)
from mose.search.agents.workspace import UnitPlace, Workspace
from mose.search.progress import ReportProgress
from mose.search.ranking.confidence import LOW_CONFIDENCE
from mose.search.records import Entry
from mose.search.rendering import NOTHING_FITS
from mose.search.similar import CodeQuery
from mose.search.store import SearchIndexError

INSTRUCTIONS = """\
Search code by what it does, in the folders that are indexed. Describe the behaviour in plain words, or give the
name of a symbol. Answers are short: path, lines, name, score and first lines. show_unit has whole definitions.
The index is brought up to date before each answer, so edits of a moment ago are found."""

#: Seconds between two progress notifications.
_PROGRESS_INTERVAL = 0.2

Query = Annotated[
    str,
    Field(
        min_length=1, max_length=2000, description="what the code does, in plain words, or the name of a symbol"
    ),
]
TopK = Annotated[int, Field(ge=1, le=50, description="maximum number of hits")]
Lines = Annotated[int, Field(ge=0, le=100, description="first lines of code to show of each hit")]
MaxTokens = Annotated[
    int, Field(ge=200, le=50_000, description="upper limit of the answer, in tokens of your context (estimated)")
]
Folder = Annotated[
    str | None, Field(description="an indexed folder, to restrict the answer to; default: all of them")
]
Languages = Annotated[
    list[str] | None, Field(description='languages to search, such as ["python", "go"]; default: all')
]
Paths = Annotated[
    list[str] | None,
    Field(description='files to search, as patterns of a .gitignore, such as ["src/", "!tests/"]; default: all'),
]
Kinds = Annotated[
    list[Annotated[str, Field(json_schema_extra={"enum": [*KINDS]})]] | None,
    Field(description="kinds of units to search; default: all"),
]
FilePath = Annotated[str, Field(min_length=1, description="path of a file, as search_code returns it")]
Line = Annotated[int | None, Field(ge=1, description="a line of the unit; default: the first unit of the file")]


def make_server(workspace: Workspace) -> MCPServer:
    """Return a server whose tools answer from a workspace."""
    version: str = importlib.import_module("mose").__version__
    server: MCPServer = MCPServer(
        "mose", title="MoSE code search", instructions=INSTRUCTIONS, version=version, log_level="WARNING"
    )
    tools = SearchTools(workspace)
    reading = {"read_only_hint": True, "destructive_hint": False, "idempotent_hint": True}

    for tool, title in (
        (tools.search_code, "Search code by description"),
        (tools.find_similar, "Find similar code"),
        (tools.show_unit, "Show a definition and its neighbours"),
        (tools.list_folders, "List indexed folders"),
    ):
        annotations = ToolAnnotations(title=title, open_world_hint=False, **reading)
        server.add_tool(tool, title=title, annotations=annotations)

    title = "Index a folder"
    annotations = ToolAnnotations(
        title=title, read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
    )
    server.add_tool(tools.index_folder, title=title, annotations=annotations)
    return server


class SearchTools:
    """The tools. Their docstrings and annotations are what an agent reads of them."""

    def __init__(self, workspace: Workspace):
        self._workspace = workspace

    def search_code(
        self,
        query: Query,
        top_k: TopK = 5,
        lines: Lines = 3,
        max_tokens: MaxTokens = 1500,
        folder: Folder = None,
        languages: Languages = None,
        paths: Paths = None,
        kinds: Kinds = None,
        one_per_file: Annotated[bool, Field(description="show the best unit of each file alone")] = False,
    ) -> Annotated[CallToolResult, SearchAnswer]:
        """Find functions, classes and other code by what they do, or by the name of a symbol, best first.

        `score` is the confidence that a hit answers, in [0, 1]; below 0.5 the code is likelier not to be there.
        """
        with _expected_errors():
            options: dict[str, Any] = {
                "languages": languages,
                "paths": paths,
                "kinds": kinds,
                "files": one_per_file,
            }
            hits = self._workspace.search(query, top_k, folder, **options)

            note = self._note()
            if not hits or hits[0].score < LOW_CONFIDENCE:
                note = f"{NOTHING_FITS} {note}".strip()
            named = self._several_folders()
            summaries = (_unit_summary(hit, lines, named, hit.score) for hit in hits)
            return _result(cut_hits(summaries, max_tokens, note))

    def find_similar(
        self,
        path: Annotated[str | None, Field(description="file of the unit to compare with; or pass code")] = None,
        line: Line = None,
        code: Annotated[
            str | None, Field(max_length=20_000, description="code to compare with, in place of path and line")
        ] = None,
        language: Annotated[str, Field(description="language of code, such as python")] = "",
        top_k: TopK = 5,
        lines: Lines = 3,
        max_tokens: MaxTokens = 1500,
        folder: Folder = None,
    ) -> Annotated[CallToolResult, SearchAnswer]:
        """Find code that is like a unit or a piece of code: duplicates, variants, the source of a fragment.

        `score` adds the similarity of meaning, structure and words, in [0, 1]; the unit itself is left out.
        """
        with _expected_errors():
            if (path is None) == (code is None):
                raise ValueError("Pass either path (and line) or code.")

            query = CodeQuery(code or "", language)
            if path is not None:
                unit = _innermost(self._workspace.units_of(path), line, path).entry
                place = {name: getattr(unit, name) for name in CodeQuery._fields[1:6]}
                query = CodeQuery(unit.source, **place, name=unit.qualified_name)

            hits = self._workspace.similar(query, top_k, folder)
            named = self._several_folders()
            summaries = (_unit_summary(hit, lines, named, hit.score) for hit in hits)
            return _result(cut_hits(summaries, max_tokens, self._note()))

    def show_unit(
        self,
        path: FilePath,
        line: Line = None,
        folder: Folder = None,
        neighbours: Annotated[
            int, Field(ge=0, le=50, description="units of the file to list before it and after it")
        ] = 3,
        max_tokens: MaxTokens = 3000,
    ) -> Annotated[CallToolResult, UnitAnswer]:
        """Show the whole source of the unit at a line, with what is around it in its file."""
        with _expected_errors():
            places = self._workspace.units_of(path, folder)
            place = _innermost(places, line, path)
            entry, position = place.entry, places.index(place)
            around = [other for other in places if other != place and _encloses(other, place)]
            before = [other for other in places[:position] if other not in around]

            def summaries(rows: Sequence[UnitPlace]) -> list[UnitSummary]:
                return [_unit_summary(row.entry, 1, named) for row in rows]

            named = self._several_folders()
            answer = UnitAnswer(
                unit=_unit_summary(entry, 0, named),
                code=entry.source,
                first_line=entry.start_line,
                inside_of=summaries(around),
                before=summaries(before[len(before) - neighbours :] if neighbours < len(before) else before),
                after=summaries(places[position + 1 :][:neighbours]),
                note=self._note(),
            )
            return _result(cut_unit(answer, max_tokens))

    def list_folders(self) -> Annotated[CallToolResult, FoldersAnswer]:
        """List the folders that are indexed, and those that may be."""
        with _expected_errors():
            allowed, note = [str(folder) for folder in self._workspace.allowed], ""
            try:
                indexes = self._workspace.indexes()
            except SearchIndexError as error:
                indexes, note = [], str(error)

            folders = []
            for index in indexes:
                roots, files = index.units.column("root"), index.files
                for tree in index.trees:
                    summary = FolderSummary(
                        folder=tree.root,
                        files=sum(root == tree.root for root, _ in files),
                        units=sum(root == tree.root for root in roots),
                        model=index.meta.model,
                        exit_layer=index.meta.exit_layer,
                    )
                    folders.append(summary)
            return _result(FoldersAnswer(indexed=folders, may_index=allowed, note=note or self._note()))

    def index_folder(
        self,
        context: Context,
        folder: Annotated[str, Field(description="folder to index; relative to the first of may_index")] = ".",
    ) -> Annotated[CallToolResult, IndexAnswer]:
        """Index the code of a folder, so that it can be searched; seconds to minutes, with progress.

        Indexed folders are brought up to date by themselves: this need not be called again after edits.
        """
        with _expected_errors():
            index, root, seconds = self._workspace.index_folder(folder, _notifier(context))
            report, reading = index.report, index.reading
            answer = IndexAnswer(
                folder=root,
                files=sum(tree == root for tree, _ in index.files),
                units=sum(tree == root for tree in index.units.column("root")),
                embedded=report.embedded if report else 0,
                seconds=round(seconds, 2),
                left_out=reading.lines() if reading else [],
            )
            return _result(answer)

    def _note(self) -> str:
        stale = self._workspace.stale()
        return f"Not brought up to date: {stale}" if stale else ""

    def _several_folders(self) -> bool:
        return sum(len(index.trees) for index in self._workspace.indexes()) > 1


@contextmanager
def _expected_errors() -> Iterator[None]:
    """Turn errors of the caller, of an index or of a disk into answers that the agent can read."""
    try:
        yield
    except (ValueError, OSError, SearchIndexError) as error:
        # The SDK keeps the texts of all others from the client: they could hold anything.
        raise ToolError(str(error)) from error


def _result(answer: BaseModel) -> CallToolResult:
    """Return an answer for both kinds of clients: those that read the text, and those that read the structure."""
    content = TextContent(type="text", text=compact_json(answer))
    return CallToolResult(content=[content], structured_content=answer.model_dump(exclude_defaults=True))


def _notifier(context: Context) -> ReportProgress:
    """Return a function that reports progress to the client, and ends the work if the client has cancelled it."""
    last, highest = 0.0, -1.0
    steps: list[str] = []

    def report(step: str, done: int, total: int) -> None:
        nonlocal last, highest
        anyio.from_thread.check_cancelled()
        if step not in steps:
            steps.append(step)

        # The protocol wants progress to rise, so each step counts 1, whatever its own unit is.
        value = steps.index(step) + (done / total if total else 1.0)
        now = time.monotonic()
        if value > highest and (done >= total or now - last >= _PROGRESS_INTERVAL):
            last, highest = now, value
            anyio.from_thread.run(context.report_progress, value, None, f"{step}: {done:,} of {total:,}")

    return report


def _innermost(places: Sequence[UnitPlace], line: int | None, path: str) -> UnitPlace:
    """Return the smallest unit that has a line; the first unit of the file for None."""
    if line is None:
        return places[0]

    ranges = [place.position[1:] for place in places]
    holding = [(end - start, row) for row, (start, end) in enumerate(ranges) if start <= line <= end]
    if not holding:
        known = ", ".join(f"{start}-{end}" for start, end in ranges[:20])
        raise ValueError(f"{path} has no unit at line {line}. Its units are at lines {known}.")
    return places[min(holding)[1]]


def _encloses(outer: UnitPlace, inner: UnitPlace) -> bool:
    (_, first, last), (_, start, end) = outer.position, inner.position
    return first <= start and end <= last and (first, last) != (start, end)


def _unit_summary(unit: Entry | Any, lines: int, named: bool, score: float | None = None) -> UnitSummary:
    """Return where a unit or a hit is, with its first lines.

    Args:
        unit: the unit or hit.
        lines: number of lines of code to show.
        named: name the folder, because there are several.
        score: how well it fits.
    """
    return UnitSummary(
        path=unit.path,
        lines=f"{unit.start_line}-{unit.end_line}",
        kind=unit.kind,
        name=unit.qualified_name,
        score=None if score is None else round(score, 3),
        folder=unit.root if named else "",
        code="\n".join(unit.source.split("\n")[:lines]),
    )
