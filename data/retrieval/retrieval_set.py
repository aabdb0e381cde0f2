"""Retrieval sets in the BEIR layout (Thakur et al., 2021, arXiv 2104.08663), which CoIR and MTEB share.

A folder holds `corpus.jsonl` (`_id`, `title`, `text`), `queries.jsonl` (`_id`, `text`) and the relevance
judgements (`query-id`, `corpus-id`, `score`, tab-separated) in `qrels.tsv` or `qrels/test.tsv`. A Hub dataset
holds the same tables as the configurations `corpus`, `queries` and `default`. In addition to BEIR's columns,
corpus and queries can have a `language`.
"""

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mose.utils.locations import is_hub_id

#: Default measures of a report; keys of `mose.eval.metrics.summary`.
DEFAULT_MEASURES = ("mrr", "ndcg@10", "recall@1", "recall@10")
#: The location of a row, for error messages, and its columns.
Row = tuple[str, dict[str, Any]]
#: Corpus, queries, qrels, and the ids of queries that another split judges.
BEIRTables = tuple[Iterable[Row], Iterable[Row], Iterable[Row], set[str]]
#: Ids, texts and languages.
TextTable = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]


class RetrievalSetError(ValueError):
    """A retrieval set that cannot be evaluated; the message names the file, line or id."""


@dataclass(frozen=True)
class RetrievalSet:
    """Queries, documents, and which documents answer which query.

    Attributes:
        name: name of the set in reports.
        document_ids, documents, document_languages: one entry per document; the language is "" if not given.
        query_ids, queries, query_languages: one entry per query.
        qrels: query id -> {document id: grade}; positive grades only, at least one for every query.
        exclude_own: a document with the id of a query is the query itself and never a candidate for it. If the
            query's qrels contain it, it does not count.
        measures: the measures of a report, keys of `mose.eval.metrics.summary`.
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
    """Load a retrieval set from a local folder or from the Hub.

    BEIR keeps the queries of all splits in one table, so queries that only another split judges are dropped. A
    query that no split judges is an error.

    Args:
        source: a folder in the BEIR layout, or the id of a Hub dataset (`owner/name`).
        split: split of the judgements. A folder with a plain `qrels.tsv` has only one.
        drop_unjudged: also drop the queries that no split judges, instead of raising an error.
        revision: branch, tag or commit of a Hub dataset; None for its main branch.
        subset: one of several sets of a source: a sub-folder, or the Hub configurations `SUBSET-corpus`,
            `SUBSET-queries` and `SUBSET-qrels`. CoIR has one per programming language.

    Raises:
        FileNotFoundError: `source` is neither a folder nor a Hub id, or a file is missing.
        RetrievalSetError: a line is malformed, an id is unknown or occurs twice, the corpus is empty, or a query
            has no relevant document.
    """
    folder = Path(source)
    if folder.is_dir():
        name, tables = folder.resolve().name, _read_folder(folder / subset, split)
    elif is_hub_id(str(source)):
        name, tables = str(source).split("/")[-1], _read_hub(str(source), split, revision, subset)
    else:
        raise FileNotFoundError(f"{source}: no such folder, and not the id of a Hub dataset (owner/name).")
    return assemble(f"{name}-{subset}" if subset else name, *tables, drop_unjudged)


def assemble(
    name: str,
    corpus: Iterable[Row],
    queries: Iterable[Row],
    qrels: Iterable[Row],
    judged_elsewhere: Collection[str] = (),
    drop_unjudged: bool = False,
) -> RetrievalSet:
    """Build and check a retrieval set from three tables with BEIR's columns.

    Args:
        name: name of the set in reports.
        corpus: rows with `_id`, `text` and optionally `title` and `language`.
        queries: rows alike.
        qrels: rows with `query-id`, `corpus-id` and `score`.
        judged_elsewhere: ids of queries that can lack relevant documents, because another split judges them.
        drop_unjudged: drop all other queries without relevant documents, instead of raising an error.

    Raises:
        RetrievalSetError: as in `load_retrieval_set`.
    """
    documents = _read_texts(name, "corpus", corpus)
    all_queries = _read_texts(name, "queries", queries)
    relevant = _read_judgements(qrels, set(all_queries[0]), set(documents[0]))

    # Judgements elsewhere do not excuse a query that has judgements here, all of grade 0.
    unjudged = [query for query in all_queries[0] if not relevant.get(query)]
    unexpected = [query for query in unjudged if query in relevant or query not in judged_elsewhere]
    if unexpected and not drop_unjudged:
        examples = ", ".join(map(repr, unexpected[:3])) + (", …" if len(unexpected) > 3 else "")
        raise RetrievalSetError(
            f"{name}: {len(unexpected)} of {len(all_queries[0])} queries have no relevant document: {examples}"
        )

    judged = [row for row in zip(*all_queries, strict=True) if relevant.get(row[0])]
    if not judged:
        raise RetrievalSetError(f"{name}: no query has a relevant document")

    ids, texts, languages = zip(*judged, strict=True)
    return RetrievalSet(name, *documents, ids, texts, languages, {query: relevant[query] for query in ids})


def _read_texts(name: str, kind: str, rows: Iterable[Row]) -> TextTable:
    """Read the corpus or the queries. As in BEIR, a title is put in front of its text."""
    table: dict[str, tuple[str, str]] = {}
    for location, row in rows:
        key, text = row.get("_id", row.get("id")), row.get("text")
        if key is None or str(key) == "":
            raise RetrievalSetError(f"{location}: no '_id'")
        if not isinstance(text, str):
            raise RetrievalSetError(f"{location}: 'text' of {key!r} must be a string, got {text!r}")
        if str(key) in table:
            raise RetrievalSetError(f"{location}: id {key!r} occurs twice in the {kind}")
        title = row.get("title") or ""
        table[str(key)] = f"{title} {text}" if title else text, str(row.get("language") or "")

    if not table:
        raise RetrievalSetError(f"{name}: the {kind} {'is' if kind == 'corpus' else 'are'} empty")
    texts, languages = zip(*table.values(), strict=True)
    return tuple(table), texts, languages


def _read_judgements(
    rows: Iterable[Row], query_ids: Collection[str], document_ids: Collection[str]
) -> dict[str, dict[str, int]]:
    """Return query id -> {document id: grade}, without grades of 0 or less."""
    relevant: dict[str, dict[str, int]] = {}
    for location, row in rows:
        if missing := [name for name in ("query-id", "corpus-id", "score") if row.get(name) is None]:
            raise RetrievalSetError(f"{location}: no {', '.join(map(repr, missing))}")
        try:
            grade = int(row["score"])
        except ValueError:
            raise RetrievalSetError(f"{location}: score must be a whole number, got {row['score']!r}") from None

        query, document = str(row["query-id"]), str(row["corpus-id"])
        if query not in query_ids:
            raise RetrievalSetError(f"{location}: query id {query!r} is not among the queries")
        if document not in document_ids:
            raise RetrievalSetError(f"{location}: document id {document!r} is not in the corpus")
        grades = relevant.setdefault(query, {})
        # A grade of 0 is a judgement too: it marks the query as judged.
        if grade > 0:
            grades[document] = grade

    return relevant


def _read_folder(folder: Path, split: str) -> BEIRTables:
    qrels = folder / "qrels.tsv"
    others: list[Path] = []
    if not qrels.is_file():
        qrels = folder / "qrels" / f"{split}.tsv"
        others = [path for path in sorted(folder.glob("qrels/*.tsv")) if path != qrels]

    corpus, queries = folder / "corpus.jsonl", folder / "queries.jsonl"
    for path in (corpus, queries, qrels):
        if not path.is_file():
            alternative = " (nor qrels.tsv)" if path == qrels else ""
            raise FileNotFoundError(f"{path}: no such file{alternative}; a BEIR folder has one.")

    judged_elsewhere = {str(row["query-id"]) for path in others for _, row in _tsv_rows(path)}
    return json_rows(corpus), json_rows(queries), _tsv_rows(qrels), judged_elsewhere


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the location (`file:line`) and text of every line that is not blank.

    Raises:
        RetrievalSetError: the file is not UTF-8.
    """
    with path.open(encoding="utf-8", newline="\n") as file:
        try:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path}:{number}", line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise RetrievalSetError(f"{path}: not UTF-8: {error}") from None


def json_rows(path: Path) -> Iterator[Row]:
    """Yield the objects of a file with one JSON object per line.

    Raises:
        RetrievalSetError: a line is not a JSON object; the message names it.
    """
    for location, line in lines(path):
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise RetrievalSetError(f"{location}: not JSON: {error}") from None
        if not isinstance(row, dict):
            raise RetrievalSetError(f"{location}: must be a JSON object, got {type(row).__name__}")
        yield location, row


def _tsv_rows(path: Path) -> Iterator[Row]:
    columns = ("query-id", "corpus-id", "score")
    for number, (location, line) in enumerate(lines(path)):
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise RetrievalSetError(
                f"{location}: must have 3 tab-separated columns ({', '.join(columns)}), got {len(cells)}"
            )
        if number or tuple(cells) != columns:  # the header is optional
            yield location, dict(zip(columns, cells, strict=True))


def _read_hub(repo: str, split: str, revision: str | None, subset: str) -> BEIRTables:
    configs = {"corpus": "corpus", "queries": "queries", "qrels": "default"}
    if subset:
        configs = {part: f"{subset}-{part}" for part in configs}

    tables = {part: hub_table(repo, config, revision) for part, config in configs.items()}
    qrels = tables["qrels"]
    if split not in qrels:
        raise RetrievalSetError(
            f"{repo}: split of the judgements must be one of {', '.join(qrels)}, got {split!r}"
        )

    # Datasets name the only split of corpus and queries after the part, or after the split of the judgements.
    def rows(part: str, *splits: str) -> Iterator[Row]:
        table = tables[part]
        name = next((name for name in splits if name in table), next(iter(table)))
        for number, row in enumerate(table[name]):
            yield f"{repo} {configs[part]} row {number}", row

    judged_elsewhere = {str(key) for other in qrels if other != split for key in qrels[other]["query-id"]}
    corpus, queries = (rows(part, part, split) for part in ("corpus", "queries"))
    return corpus, queries, rows("qrels", split), judged_elsewhere


def hub_table(repo: str, config: str | None, revision: str | None = None) -> dict[str, Any]:
    """Load all splits of a Hub dataset's configuration; None for its only or default one.

    Raises:
        RetrievalSetError: it cannot be loaded; the message says why.
    """
    import datasets  # saves start-up time for local folders

    try:
        return datasets.load_dataset(repo, config, revision=revision)
    except Exception as error:  # the Hub client's errors share no base class
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what = f"the configuration {config!r}" if config else "it"
        raise RetrievalSetError(f"{repo}: cannot load {what}: {reason}") from error
