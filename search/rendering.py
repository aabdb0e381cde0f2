"""Search results as text for a terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mose.utils.terminal import printable

if TYPE_CHECKING:
    from mose.search.index import Hit, Index
    from mose.search.ranking.ranker import Parts

#: Said of hits of low confidence.
NOTHING_FITS = "Nothing fits well."


def render(
    hits: "Sequence[Hit]", colour: bool = False, width: int = 110, lines: int = 6, explain: bool = False
) -> str:
    """Return hits as text: rank, score, name, location and the first lines of each.

    Control and invisible characters in names and source code are shown as escapes.

    Args:
        hits: best first.
        colour: use ANSI escape sequences.
        width: maximum line length, in characters.
        lines: number of source lines for each hit.
        explain: add a line on how each hit's rank came about.
    """
    bold, dim, green, off = ("\033[1m", "\033[2m", "\033[32m", "\033[0m") if colour else ("",) * 4
    rows = []

    for rank, hit in enumerate(hits, 1):
        name, location = printable(hit.qualified_name), printable(f"{hit.path}:{hit.start_line}")
        rows.append(f"{rank:>3}  {green}{hit.score:.3f}{off}  {bold}{name}{off}  {location}")
        if explain:
            rows.append(f"     {dim}{explain_rank(hit.parts)}{off}")

        code = hit.source.rstrip().expandtabs(4).split("\n")
        # The note "1 more line" would take as much room as the line itself.
        shown = code if len(code) <= lines + 1 else code[:lines]
        rows += [f"     {dim}│{off} {printable(line.rstrip())[: width - 7]}".rstrip() for line in shown]
        if len(code) > len(shown):
            rows.append(f"     {dim}│ … {len(code) - len(shown)} more lines{off}")
        rows.append("")

    return "\n".join(rows)


def explain_rank(parts: "Parts") -> str:
    """Return how a hit's rank came about, as a sum: what is 0, and factors of 1, are left out."""
    terms = ("dense", "lexical", "structure", "definition", "name", "file_name", "path")
    fields = parts._asdict()
    text = " + ".join(f"{name.replace('_', ' ')} {fields[name]:.3f}" for name in terms if fields[name]) or "0"
    text = f"({text}) × role {parts.role:g}" if parts.role != 1 else text

    text += f" + agreement {parts.agreement:.3f}" if parts.agreement else ""
    text = f"({text}) × repeat {parts.repeat:g}" if parts.repeat != 1 else text
    return f"{parts.rank_score:.3f} = {text}"


def summarize_index(index: "Index") -> str:
    """Return one line about the contents of an index and, if it has just been built, the work that took."""
    meta, report = index.meta, index.report
    files = index.files.values()
    failed = sum(file.failed for file in files)
    unreadable = f" ({failed:,} unreadable)" if failed else ""
    text = f"{len(index):,} units of {len(files):,} files{unreadable} at exit {meta.exit_layer}"

    if report:
        text += f", {report.embedded:,} of them embedded now" if report.embedded else ", none embedded anew"
    return text
