"""The contents of an index: units, files, and the description of itself."""

import dataclasses
import hashlib
import json
from typing import Any, NamedTuple, Self

FORMAT = 4
#: Default of `Meta.max_length`.
MAX_LENGTH = 512
#: Stands for the model of the package, wherever that is installed.
SHIPPED = "shipped"
_KEY_BYTES = 16


class Entry(NamedTuple):
    """One indexed unit."""

    path: str  # relative to the indexed tree, with forward slashes
    kind: str  # one of `mose.data.source.units.KINDS`
    name: str
    qualified_name: str
    language: str
    start_line: int  # 1-based; the last line is part of the unit
    end_line: int
    source: str
    root: str = ""  # the indexed tree

    @property
    def text(self) -> str:
        """Text for the model and BM25: a line of path and qualified name, and the source."""
        return f"{self.path} {self.qualified_name}\n{self.source}"

    @property
    def key(self) -> bytes:
        """Hash of what the embedding depends on, within one embedding space."""
        text = f"{self.language}\0{self.text}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=_KEY_BYTES).digest()


class FileRecord(NamedTuple):
    """A file of an indexed tree, read or left out."""

    digest: str  # SHA-256 of the content as it was read; "" if it was not
    stamp: str  # size and times; "" if the file may have changed without changing them
    language: str  # "" if it was left out
    notes: dict[str, str]  # reason -> detail, of `mose.data.source.report.ReadingReport`

    @property
    def failed(self) -> bool:
        """True if its units could not be read because of an error."""
        return "failed" in self.notes

    def to_json(self) -> str:
        """Return the record as JSON; its fields are the arguments of the class."""
        return json.dumps(self._asdict())


@dataclasses.dataclass(frozen=True)
class Tree:
    """A source tree of an index, and how to read it.

    Attributes:
        id: number of the tree in its index; not reused.
        root: absolute path of the folder.
        label: name that no other tree of the index has.
        languages: languages to read; None means all but text.
        exclude: patterns of paths to leave out.
        rules: fields of `mose.data.source.rules.ReadingRules`.
    """

    id: int
    root: str
    label: str
    languages: tuple[str, ...] | None
    exclude: tuple[str, ...]
    rules: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Meta:
    """The description of an index.

    Attributes:
        model: absolute folder or Hub id; "" for a model that was never saved, `SHIPPED` for that of the package.
        fingerprint: identifies weights and tokenizer up to the exit.
        lookup_fingerprint: the same for exit 0, if queries can be embedded there; else "".
        exit_layer: exit that units are embedded at.
        max_length: tokens of a unit that the model reads, prompt included.
        dim: width of the embeddings.
        trees: the indexed trees.
        rows: number of units and files.
        digest: sum of their digests.
    """

    model: str
    fingerprint: str
    lookup_fingerprint: str
    exit_layer: int
    max_length: int
    dim: int
    trees: tuple[Tree, ...]
    rows: int = 0
    digest: int = 0

    @property
    def space(self) -> str:
        """Name of the index's embedding space. Within one space, equal units have equal embeddings."""
        parts = (FORMAT, self.fingerprint, self.exit_layer, self.max_length, self.dim)
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    @property
    def roots(self) -> str:
        """The folders of the trees, for messages."""
        return ", ".join(tree.root for tree in self.trees)

    def with_digest(self, rows: int, digest: int) -> Self:
        """Return the description of an index of these rows."""
        return dataclasses.replace(self, rows=rows, digest=digest)

    def to_json(self) -> str:
        """Return the description as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the description that `to_json` wrote."""
        fields = json.loads(text)
        for tree in fields["trees"]:
            tree["exclude"] = tuple(tree["exclude"])
            tree["languages"] = None if tree["languages"] is None else tuple(tree["languages"])
        return cls(**{**fields, "trees": tuple(Tree(**tree) for tree in fields["trees"])})


@dataclasses.dataclass(frozen=True)
class BuildReport:
    """Counts of a build or of an update."""

    files: int  # source files in the trees that were read
    changed: int  # files that had to be parsed
    removed: int  # files of the previous version that are gone
    skipped: int  # files that could not be parsed
    units: int  # in the whole index
    embedded: int  # units that had to be embedded
    rebuilt: str = ""  # why nothing of the previous version could be used; "" if it could, or there was none


def record_key(text: str) -> bytes:
    """Return the digest that the description of an index has for a key."""
    return hashlib.blake2b(text.encode(), digest_size=_KEY_BYTES).digest()
