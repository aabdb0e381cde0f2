"""Retrieval sets in the BEIR layout (Thakur et al., 2021, arXiv 2104.08663), which CoIR and MTEB share.

A folder holds `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`) and the relevance
judgements (`query-id`, `corpus-id`, `score`, tab-separated) in `qrels.tsv` or `qrels/test.tsv`; a Hub dataset
holds the same three tables as the configurations `corpus`, `queries` and `default`. Beside BEIR's columns,
corpus and queries may have a `language`.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mose.utils.locations import is_hub_id

#: Measures of a report when none are asked for; keys of `mose.eval.metrics.summary`.
DEFAULT_MEASURES = ("mrr", "ndcg@10", "recall@1", "recall@10")
Row = tuple[str, dict[str, Any]]  # where the row stands, for error messages, and its columns
Table = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]  # ids, texts, languages


class RetrievalSetError(ValueError):
    """A retrieval set that cannot be measured on; the message names the file, line or id."""


@dataclass(frozen=True)
class RetrievalSet:
    """Queries, documents and which documents answer which query.

    Attributes:
        name: what reports call the set.
        document_ids, documents, document_languages: one entry per document; "" where no language is given.
        query_ids, queries, query_languages: one entry per query.
        qrels: query id → {document id: grade}, positive grades only, at least one for every query.
        exclude_own: the document that bears a query's id is the query itself and no candidate for it; where it
            stands in the query's qrels it does not count.
        measures: which figures a report gives of the set, by their keys in `mose.eval.metrics.summary`.
    """

    name: str
    document_ids: tuple[str, ...]
    documents: tuple[str, ...]
    document_languages: tuple[str, ...]
    query_ids: tuple[str, ...]
    queries: tuple[str, ...]
    query_languages: tuple[str, ...]
    qrels: dict[str, dict[str, int]]
    exclude_own: bool = False
    measures: tuple[str, ...] = DEFAULT_MEASURES


def load_retrieval_set(
    source: str | Path,
    split: str = "test",
    drop_unjudged: bool = False,
    revision: str | None = None,
    subset: str = "",
) -> RetrievalSet:
    """Read a retrieval set from a local folder or from the Hub.

    Queries that only another split judges are set aside, since BEIR keeps the queries of all splits in one
    table. A query that no split judges is an error.

    Args:
        source: a folder in the BEIR layout, or the id of a Hub dataset (`owner/name`).
        split: the split of the judgements; a folder with a plain `qrels.tsv` has only one.
        drop_unjudged: set aside the queries that no split judges as well, instead of refusing the set.
        revision: of a Hub dataset: the branch, tag or commit; None means its main branch.
        subset: one of several sets of a source, as CoIR keeps one per programming language: a sub-folder of
            that name, or the Hub configurations `SUBSET-corpus`, `SUBSET-queries` and `SUBSET-qrels`.

    Raises:
        FileNotFoundError: `source` is neither a folder nor shaped like a Hub id, or a file is missing.
        RetrievalSetError: a malformed line, a doubled or unknown id, an empty corpus, a query without
            relevant documents.
    """
    folder = Path(source)
    if folder.is_dir():
        name, tables = folder.resolve().name, _read_folder(folder / subset, split)
    elif is_hub_id(str(source)):
        name, tables = str(source).split("/")[-1], _read_hub(str(source), split, revision, subset)
    else:
        raise FileNotFoundError(f"{source}: no such folder, and not the id of a Hub dataset (owner/name)")
    corpus, queries, qrels, judged_elsewhere = tables
    name = f"{name}-{subset}" if subset else name
    return assemble(name, corpus, queries, qrels, judged_elsewhere, drop_unjudged)


def assemble(
    name: str,
    corpus: Iterable[Row],
    queries: Iterable[Row],
    qrels: Iterable[Row],
    judged_elsewhere: Collection[str] = (),
    drop_unjudged: bool = False,
) -> RetrievalSet:
    """A checked set of three tables with BEIR's columns.

    Args:
        name: what reports call the set.
        corpus, queries: rows with `_id`, `text` and, where known, `title` and `language`.
        qrels: rows with `query-id`, `corpus-id` and `score`.
        judged_elsewhere: queries that may lack relevant documents, since another split judges them.
        drop_unjudged: set aside all other queries without relevant documents, instead of refusing the set.

    Raises:
        RetrievalSetError: as for `load_retrieval_set`.
    """
    documents = _table(name, "corpus", corpus)
    asked = _table(name, "queries", queries)
    known_documents, known_queries = set(documents[0]), set(asked[0])
    relevant: dict[str, dict[str, int]] = {}
    for where, row in qrels:
        query, document, grade = _judgement(where, row)
        if query not in known_queries:
            raise RetrievalSetError(f"{where}: query id {query!r} is not among the queries")
        if document not in known_documents:
            raise RetrievalSetError(f"{where}: document id {document!r} is not in the corpus")
        grades = relevant.setdefault(query, {})
        if grade > 0:
            grades[document] = grade
    without = [query for query in asked[0] if not relevant.get(query)]
    if not drop_unjudged:
        refused = [query for query in without if query in relevant or query not in judged_elsewhere]
        if refused:
            shown = ", ".join(map(repr, refused[:3])) + (", …" if len(refused) > 3 else "")
            raise RetrievalSetError(
                f"{name}: {len(refused)} of {len(asked[0])} queries have no relevant document: {shown}"
            )
    kept = [row for row in zip(*asked, strict=True) if relevant.get(row[0])]
    if not kept:
        raise RetrievalSetError(f"{name}: no query has a relevant document")
    ids, texts, languages = zip(*kept, strict=True)
    return RetrievalSet(name, *documents, ids, texts, languages, {query: relevant[query] for query in ids})


def _table(name: str, kind: str, rows: Iterable[Row]) -> Table:
    """Ids, texts (with the title in front, as BEIR does) and languages of the corpus or the queries."""
    seen: dict[str, tuple[str, str]] = {}
    for where, row in rows:
        key, text = row.get("_id", row.get("id")), row.get("text")
        if key is None or str(key) == "":
            raise RetrievalSetError(f"{where}: no '_id'")
        if not isinstance(text, str):
            raise RetrievalSetError(f"{where}: 'text' of {key!r} must be a string, not {text!r}")
        if str(key) in seen:
            raise RetrievalSetError(f"{where}: id {key!r} stands in the {kind} twice")
        title = row.get("title") or ""
        seen[str(key)] = f"{title} {text}" if title else text, str(row.get("language") or "")
    if not seen:
        raise RetrievalSetError(f"{name}: the {kind} {'is' if kind == 'corpus' else 'are'} empty")
    texts, languages = zip(*seen.values(), strict=True)
    return tuple(seen), texts, languages


def _judgement(where: str, row: dict[str, Any]) -> tuple[str, str, int]:
    missing = [column for column in ("query-id", "corpus-id", "score") if row.get(column) is None]
    if missing:
        raise RetrievalSetError(f"{where}: no {', '.join(map(repr, missing))}")
    try:
        grade = int(row["score"])
    except ValueError:
        raise RetrievalSetError(f"{where}: score must be a whole number, not {row['score']!r}") from None
    return str(row["query-id"]), str(row["corpus-id"]), grade


# --- a local folder ---------------------------------------------------------------------------------------


def _read_folder(folder: Path, split: str) -> tuple[Iterable[Row], Iterable[Row], Iterable[Row], set[str]]:
    judgements = folder / "qrels.tsv"
    others: list[Path] = []
    if not judgements.is_file():
        judgements = folder / "qrels" / f"{split}.tsv"
        others = [path for path in sorted(folder.glob("qrels/*.tsv")) if path != judgements]
    files = folder / "corpus.jsonl", folder / "queries.jsonl", judgements
    for path in files:
        if not path.is_file():
            also = " (nor qrels.tsv)" if path == judgements else ""
            raise FileNotFoundError(f"{path}: no such file{also}; a BEIR folder holds it")
    judged_elsewhere = {str(row["query-id"]) for path in others for _, row in _tsv_rows(path)}
    return json_rows(files[0]), json_rows(files[1]), _tsv_rows(judgements), judged_elsewhere


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """(where, line) for every line that is not blank."""
    with path.open(encoding="utf-8", newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise RetrievalSetError(f"{path}: not UTF-8: {error}") from None


def json_rows(path: Path) -> Iterator[Row]:
    """The objects of a file with one JSON object per line.

    Raises:
        RetrievalSetError: a line that is not one; the message names it.
    """
    for where, line in lines(path):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise RetrievalSetError(f"{where}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise RetrievalSetError(f"{where}: must be a JSON object, not {type(row).__name__}")
        yield where, row


def _tsv_rows(path: Path) -> Iterator[Row]:
    columns = ("query-id", "corpus-id", "score")
    for number, (where, line) in enumerate(lines(path)):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise RetrievalSetError(f"{where}: {len(cells)} tab-separated columns, not 3 ({', '.join(columns)})")
        if number or tuple(cells) != columns:  # the header is customary, and told by its names
            yield where, dict(zip(columns, cells, strict=True))


# --- the Hub ----------------------------------------------------------------------------------------------


def _read_hub(
    repo: str, split: str, revision: str | None, subset: str
) -> tuple[Iterable[Row], Iterable[Row], Iterable[Row], set[str]]:
    parts = {"corpus": "corpus", "queries": "queries", "qrels": "default"}
    if subset:
        parts = {part: f"{subset}-{part}" for part in parts}
    tables = {part: hub_table(repo, config, revision) for part, config in parts.items()}
    qrels = tables["qrels"]
    if split not in qrels:
        raise RetrievalSetError(f"{repo}: no split {split!r} in its judgements; there are: {', '.join(qrels)}")
    others = {str(key) for other in qrels if other != split for key in qrels[other]["query-id"]}

    def rows(part: str) -> Iterator[Row]:
        table = tables[part]
        chosen = next((name for name in (part, split) if name in table), next(iter(table)))
        for number, row in enumerate(table[chosen]):
            yield f"{repo} {parts[part]} row {number}", row

    judgements = ((f"{repo} {parts['qrels']} row {number}", row) for number, row in enumerate(qrels[split]))
    return rows("corpus"), rows("queries"), judgements, others


def hub_table(repo: str, config: str | None, revision: str | None = None) -> dict[str, Any]:
    """All splits of one configuration of a Hub dataset.

    Args:
        repo: the dataset's id.
        config: None means its only or default configuration.
        revision: branch, tag or commit; None means the main branch.

    Raises:
        RetrievalSetError: it cannot be loaded; the message says why.
    """
    import datasets

    try:
        return datasets.load_dataset(repo, config, revision=revision)
    except Exception as error:  # the Hub client's errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what = f"the configuration {config!r}" if config else "it"
        raise RetrievalSetError(f"{repo}: cannot load {what}: {reason}") from error
