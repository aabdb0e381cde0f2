"""Boosts for what the query names: definitions, files and folders.

Whoever types a name wants its definition, not the places that use it. Those are many and say the name as often,
so embeddings and BM25 cannot tell them apart. Names of files and folders are the shortest summary that authors of
code write.
"""

import numpy as np

from mose.search.ranking.catalogue import Catalogue, fold_name
from mose.search.ranking.queries import SearchQuery

#: How well a definition fits a name: to the letter; but for case; in another scope than the query says.
EXACT, FOLDED, OTHER_SCOPE = 1.0, 0.75, 0.3


def definition_grades(query: SearchQuery, catalogue: Catalogue) -> dict[int, float]:
    """Return how well units define a symbol that the query is or mentions: row -> grade in (0, 1].

    Later parts of a long unit define nothing.
    """
    grades: dict[int, float] = {}
    for symbol in query.symbols:
        folded = catalogue.rows_by_folded_name.get(fold_name(symbol[-1]), ())
        exact = catalogue.rows_by_name.get(symbol[-1], ())
        for rows, best in ((folded, FOLDED), (exact, EXACT)):
            for row in rows:
                grade = _scope_grade(symbol, catalogue.qualified_names[row], best)
                grades[row] = max(grades.get(row, 0.0), grade)
    return {row: grade for row, grade in grades.items() if catalogue.opens[row]}


def _scope_grade(symbol: tuple[str, ...], qualified_name: str, grade: float) -> float:
    """Return a grade, lowered if the qualifiers of a symbol are not those of a definition."""
    if len(symbol) == 1:
        return grade
    scope = qualified_name.split(".")[-len(symbol) : -1]
    return grade if list(map(fold_name, scope)) == list(map(fold_name, symbol[:-1])) else OTHER_SCOPE


def name_matches(query: SearchQuery, catalogue: Catalogue, rows: np.ndarray | slice = slice(None)) -> np.ndarray:
    """Return how far the words of the name of each unit in `rows` are those of the query, (rows,) in [0, 1].

    "connection pooling and TCP connector" is about `TCPConnector`, although it does not spell it.
    """
    of_name, of_query = catalogue.name_terms.coverage(query.terms, rows)
    return of_name * of_query


def file_name_matches(query: SearchQuery, catalogue: Catalogue) -> np.ndarray:
    """Return how far the words of each file's name are those of the query, (files,) in [0, 1]."""
    of_name, of_query = catalogue.file_name_terms.coverage(query.terms)
    return of_name * np.sqrt(of_query)


def path_matches(query: SearchQuery, catalogue: Catalogue) -> np.ndarray:
    """Return how much of the query is in each file's path, (files,) in [0, 1]: `binding/json.go`."""
    return catalogue.path_terms.coverage(query.terms)[1]
