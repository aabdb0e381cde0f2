"""One result of a search."""

import dataclasses
from typing import Any

from mose.search.display import place_of, unit_html
from mose.search.ranking.ranker import Parts
from mose.utils.terminal import printable


@dataclasses.dataclass(frozen=True, repr=False)
class Hit:
    """One search result."""

    score: float  # confidence in [0, 1] that it answers the query, which never rises from hit to hit
    similarity: float  # cosine similarity of the embeddings
    path: str  # relative to the indexed tree, with forward slashes
    kind: str  # one of `mose.data.source.units.KINDS`
    name: str
    qualified_name: str  # the names of the definitions around it and its own, joined by dots
    language: str
    start_line: int  # 1-based; the last line is part of the unit
    end_line: int
    source: str
    parts: Parts  # how its rank came about
    root: str = ""  # the indexed tree

    def as_dict(self, explain: bool = False) -> dict[str, Any]:
        """Return the fields, ready for JSON; the parts of the rank if asked to explain it."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        parts = fields.pop("parts")
        return {**fields, "parts": {**parts._asdict(), "rank_score": parts.rank_score}} if explain else fields

    def __repr__(self) -> str:
        return f"Hit({self.score:.3f}, {place_of(self)}, {printable(self.qualified_name)!r})"

    def _repr_html_(self) -> str:
        title = f"{self.score:.3f} {self.qualified_name}"
        return unit_html(title, f"{place_of(self)} {self.language}", self.source)
