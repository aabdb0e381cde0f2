"""Files that mention everything but are seldom what is looked for: tests, examples, old versions, stubs.

They repeat the words of the code that they use, and often more of them, so that words and embeddings alone prefer
them. A query that asks for them by name gets them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

_TEST = re.compile(
    r"(?:^|[/_.-])(?:tests?|specs?|__tests__|testing|testdata|test_?suites?|fixtures?|mocks?|e2e)(?:[/_.-]|$)"
    r"|(?<=[a-z0-9])(?:Tests?|Specs?|Mock)(?=[./]|$)"
)
_EXAMPLE = re.compile(
    r"(?i)(?:^|/)(?:examples?|samples?|demos?|docs?|tutorials?|playground|bench(?:es|marks?)?)(?=/|$)"
    r"|[_.-](?:bench(?:mark)?|example)\."
)
_COMPATIBILITY = re.compile(
    r"(?i)(?:^|[/_.-])(?:compat|compatibility|legacy|deprecated|shims?|polyfills?|obsolete)(?:[/_.-]|$)"
)
_STUB = re.compile(
    r"\.d\.[mc]?ts$|\.pyi$|[._]pb2?(?:_grpc)?\.\w+$|[._-](?:generated|gen|g|designer)\.\w+$|(?:^|/)generated/",
    re.IGNORECASE,
)
_ENTRY = re.compile(r"(?:^|/)(?:__init__\.pyi?|index\.[mc]?[jt]sx?|mod\.(?:ts|rs)|lib\.rs|init\.lua)$")
#: An entry file that defines more than this does more than to export.
_FEW_DEFINITIONS = 5
_VERSION = re.compile(r"v?(\d{1,3})(?:\.\d+)*")

#: Role -> stems of words with which a query asks for its files.
_ASKED_BY = MappingProxyType(
    {
        "test": {"test", "spec", "fixtur", "mock"},
        "example": {"exampl", "sampl", "demo", "doc", "tutori", "benchmark", "bench"},
        "old": {"compat", "legaci", "deprec", "shim", "polyfil", "obsolet", "old", "older", "v"},
        "stub": {"stub", "generat", "type", "declar"},
        "entry": {"export", "entri", "index", "init", "packag", "modul"},
    }
)
ROLES = tuple(_ASKED_BY)


def file_roles(paths: Sequence[str], definitions: Sequence[int]) -> dict[str, np.ndarray]:
    """Return which files have each role, as role -> (files,) bool.

    Roles are `test`, `example` (with benchmarks and documentation), `old` (compatibility code, and folders of
    versions beside newer ones), `stub` (type stubs and generated code) and `entry` (an `__init__.py` or
    `index.ts` that defines little: it exports what others define).

    Args:
        paths: paths relative to the tree, with forward slashes.
        definitions: number of definitions in each file.
    """
    old_versions = _folders_of_old_versions(paths)
    roles = {
        "test": [bool(_TEST.search(path)) for path in paths],
        "example": [bool(_EXAMPLE.search(path)) for path in paths],
        "old": [
            bool(_COMPATIBILITY.search(path)) or any(folder in old_versions for folder in _folders(path))
            for path in paths
        ],
        "stub": [bool(_STUB.search(path)) for path in paths],
        "entry": [
            bool(_ENTRY.search(path)) and count <= _FEW_DEFINITIONS
            for path, count in zip(paths, definitions, strict=True)
        ],
    }
    return {role: np.array(members, bool) for role, members in roles.items()}


def roles_asked_for(terms: Iterable[str]) -> frozenset[str]:
    """Return the roles whose files a query asks for by name.

    Args:
        terms: of the query, as `mose.search.ranking.terms.term_lists` returns them.
    """
    terms = set(terms)
    return frozenset(role for role, words in _ASKED_BY.items() if words & terms)


def role_factors(
    roles: Mapping[str, np.ndarray], factors: Mapping[str, float], asked_for: Iterable[str]
) -> np.ndarray:
    """Return what to multiply the scores of each file by, (files,); several roles multiply.

    Args:
        roles: from `file_roles`.
        factors: factor of each role, in [0, 1].
        asked_for: roles that are not lowered.
    """
    unchanged = set(asked_for)
    lowered = [np.where(members, factors[role], 1.0) for role, members in roles.items() if role not in unchanged]
    return np.prod(lowered, axis=0) if lowered else np.ones(len(next(iter(roles.values()))))


def _folders(path: str) -> list[str]:
    """Return the folders above a file, outermost first."""
    parts = path.split("/")[:-1]
    return ["/".join(parts[: depth + 1]) for depth in range(len(parts))]


def _folders_of_old_versions(paths: Iterable[str]) -> set[str]:
    """Return folders such as `api/v1` that have a newer sibling, `api/v2`."""
    versions: dict[str, dict[str, int]] = {}
    for folder in {folder for path in paths for folder in _folders(path)}:
        parent, _, name = folder.rpartition("/")
        if match := _VERSION.fullmatch(name):
            versions.setdefault(parent, {})[folder] = int(match[1])
    return {
        folder
        for siblings in versions.values()
        for folder, version in siblings.items()
        if version < max(siblings.values())
    }
