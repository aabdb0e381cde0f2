"""Reading a folder of repositories with labelled queries.

    FOLDER/
      queries.jsonl   one query a line: repository, query, category, relevant, secondary
      NAME.jsonl      one source file a line: path, content

Gold files are named by their paths or by the ends of them. Files in `secondary` count as those in `relevant`.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

_QUERIES = "queries.jsonl"


@dataclass(frozen=True)
class LabelledQuery:
    """A query with the files that answer it, as paths of the repository."""

    repository: str
    text: str
    category: str
    gold: frozenset[str]


@dataclass(frozen=True)
class LabelledRepositories:
    """The queries of a folder, and the files of their repositories by name and path."""

    queries: tuple[LabelledQuery, ...]
    contents: dict[str, dict[str, str]]

    @property
    def repositories(self) -> list[str]:
        """Names of the repositories, sorted."""
        return sorted(self.contents)


def read_labelled_repositories(folder: str | Path) -> LabelledRepositories:
    """Return the repositories and queries of a folder.

    Raises:
        ValueError: a file or field is missing or malformed, a path leads out of its tree, or a gold file is not
            in its repository.
    """
    folder = Path(folder)
    rows = list(_rows(folder / _QUERIES, ("repository", "query", "category", "relevant")))
    if not rows:
        raise ValueError(f"{folder / _QUERIES} has no queries.")

    contents = {name: _contents(folder / f"{name}.jsonl") for name in sorted({row["repository"] for row in rows})}
    queries = [
        LabelledQuery(
            row["repository"],
            row["query"],
            row["category"],
            frozenset(
                _resolve(gold, contents[row["repository"]], row)
                for gold in [*row["relevant"], *row.get("secondary", [])]
            ),
        )
        for row in rows
    ]
    return LabelledRepositories(tuple(queries), contents)


def write_tree(contents: dict[str, str], target: Path) -> None:
    """Write the files of a repository below a folder."""
    for path, text in contents.items():
        file = target / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8", newline="")


def _contents(file: Path) -> dict[str, str]:
    contents = {row["path"]: row["content"] for row in _rows(file, ("path", "content"))}
    for path in contents:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ValueError(f"{file}: paths must stay in their tree, got {path!r}. Pass relative paths.")
    return contents


def _resolve(gold: str, contents: dict[str, str], row: dict[str, Any]) -> str:
    """Return the one path that a gold file names, whole or by its end."""
    if gold in contents:
        return gold
    matching = [path for path in contents if path.endswith(f"/{gold}")]
    if len(matching) != 1:
        reason = f"which is {len(matching)} files of {row['repository']}"
        raise ValueError(f"query {row['query']!r} names the file {gold!r}, {reason}. Give its whole path.")
    return matching[0]


def _rows(file: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    if not file.is_file():
        raise ValueError(f"{file}: no such file. Pass a folder of {_QUERIES} and one .jsonl for each repository.")
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line)
                missing = [field for field in fields if field not in row]
            except (ValueError, TypeError) as error:
                raise ValueError(f"{file}:{number}: not a JSON object ({error}).") from None
            if missing:
                raise ValueError(f"{file}:{number}: fields must include {', '.join(missing)}. Add them.")
            yield row
