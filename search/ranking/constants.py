"""The constants of ranking, in one place."""

import dataclasses
from types import MappingProxyType


@dataclasses.dataclass(frozen=True)
class RankingConstants:
    """Weights of the ranking functions. `benchmarks/fit_ranking.py` fits the defaults on labelled queries.

    Boosts are added to the fused score, which is in [0, 1]. Factors in [0, 1] multiply the sum.

    Attributes:
        dense_share_of_symbols: share of the embeddings in the fused score if the query is a symbol; BM25 has the
            rest.
        dense_share_of_prose: the same for other queries.
        definition: boost of the definition of the symbol that the query is.
        mentioned_definition: boost of the definition of a symbol that a longer query mentions.
        function_share: share of these boosts for functions and methods; classes and the like get all.
        name: boost for words of the query in the unit's name.
        file_name: boost for words in the file's name.
        path: boost for words in the file's path.
        test: factor of test files.
        example: factor of examples, benchmarks and documentation.
        old: factor of compatibility code and old versions.
        stub: factor of type stubs and generated code.
        entry: factor of files that mostly export.
        agreement: boost of units in files of which other units are good too.
        repeat: factor for every better hit of the same file.
    """

    dense_share_of_symbols: float = 0.6
    dense_share_of_prose: float = 0.7
    definition: float = 1.0
    mentioned_definition: float = 0.3
    function_share: float = 0.75
    name: float = 0.4
    file_name: float = 0.25
    path: float = 0.4
    test: float = 0.5
    example: float = 0.5
    old: float = 0.5
    stub: float = 0.5
    entry: float = 0.5
    agreement: float = 0.3
    repeat: float = 0.5

    def without(self, function: str) -> "RankingConstants":
        """Return constants with one of `RANKING_FUNCTIONS` switched off."""
        return dataclasses.replace(self, **RANKING_FUNCTIONS[function])


DEFAULT_CONSTANTS = RankingConstants()
#: Ranking function -> the constants that switch it off.
RANKING_FUNCTIONS = MappingProxyType(
    {
        "definition first": {"definition": 0.0},
        "mentioned definitions": {"mentioned_definition": 0.0},
        "classes before functions": {"function_share": 1.0},
        "names": {"name": 0.0},
        "file names": {"file_name": 0.0},
        "paths": {"path": 0.0},
        "tests lowered": {"test": 1.0},
        "examples lowered": {"example": 1.0},
        "old versions lowered": {"old": 1.0},
        "stubs lowered": {"stub": 1.0},
        "entry files lowered": {"entry": 1.0},
        "agreement within files": {"agreement": 0.0},
        "further hits of a file lowered": {"repeat": 1.0},
        "fusion by kind of query": {"dense_share_of_symbols": 0.6, "dense_share_of_prose": 0.6},
        "embeddings": {"dense_share_of_symbols": 0.0, "dense_share_of_prose": 0.0},
        "BM25": {"dense_share_of_symbols": 1.0, "dense_share_of_prose": 1.0},
    }
)
