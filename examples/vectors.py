"""Functions of Python's standard library, embedded deep, and a query, embedded shallow.

Every example of a vector database stores the first and searches with the second.
"""

import sysconfig
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

import mose
from mose.data.source.definitions import extract_units
from mose.inference import MoSEEncoder, StaticEncoder, load_model

#: Packages whose functions are searched, and what for.
PACKAGES = ("email", "http", "json")
QUERY = "decode a cookie header"


class Snippet(NamedTuple):
    """A function, and where it is."""

    path: str
    name: str
    language: str
    code: str


class SnippetHit(NamedTuple):
    """A search result: the name of a function, and the cosine similarity of its embedding to the query's."""

    name: str
    similarity: float


def read_snippets(packages: Sequence[str] = PACKAGES) -> list[Snippet]:
    """Return the functions of some packages of the standard library."""
    library = Path(sysconfig.get_paths()["stdlib"])
    files = [file for package in packages for file in sorted((library / package).glob("*.py"))]

    return [
        Snippet(str(file.relative_to(library)), unit.qualified_name, "python", unit.source)
        for file in files
        for unit in extract_units(file.read_bytes(), "python", file_name=file.name)
        if unit.kind in ("function", "method")
    ]


def embed_deep(snippets: Sequence[Snippet]) -> np.ndarray:
    """Return the embeddings of code at the deepest exit, (snippets, dim) float32 of unit norm. Done once."""
    model, tokenizer, exits = load_model(mose.__path__[0])
    encoder = MoSEEncoder(model, tokenizer, [exits[-1]], max_length=512)
    texts, languages = [snippet.code for snippet in snippets], [snippet.language for snippet in snippets]
    (vectors,) = encoder.encode(texts, languages, query=False).values()
    return vectors


def embed_shallow(query: str) -> np.ndarray:
    """Return the embedding of a query at exit 0, (dim,) float32 of unit norm: under a millisecond, without torch.

    Both can be compared because the exits of the model share one space (`config.aligned_exits`).
    """
    return StaticEncoder(mose.__path__[0]).encode_query([query])[0]


def print_snippet_hits(hits: Iterable[SnippetHit]) -> None:
    """Print hits, best first."""
    for hit in hits:
        print(f"{hit.similarity:.3f}  {hit.name}")
