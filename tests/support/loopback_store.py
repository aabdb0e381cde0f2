"""Storage of the loopback Hub, in memory: repositories, commits, branches and tags."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatch

#: Files that the Hub's default .gitattributes sends to large-file storage; others go there above a size.
LARGE_PATTERNS = (
    "*.safetensors",
    "*.bin",
    "*.onnx",
    "*.onnx_data",
    "*.parquet",
    "*.arrow",
    "*.pt",
    "*.npz",
    "*.gz",
)
LARGE_SIZE = 10 * 2**20


class Refused(Exception):
    """A refusal: status, message, and the code in X-Error-Code."""

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class Blob:
    """A file's content; `large` means that it is in large-file storage, not in git."""

    content: bytes
    large: bool

    @property
    def git_oid(self) -> str:
        return hashlib.sha1(b"blob %d\0" % len(self.content) + self.content).hexdigest()

    @property
    def etag(self) -> str:
        return hashlib.sha256(self.content).hexdigest() if self.large else self.git_oid

    def entry(self, path: str) -> dict:
        """Return it as the tree lists it."""
        large = {"lfs": {"oid": self.etag, "size": len(self.content), "pointerSize": 134}} if self.large else {}
        return {"type": "file", "path": path, "size": len(self.content), "oid": self.git_oid, **large}

    def sibling(self, path: str) -> dict:
        """Return it as the repository's description lists it."""
        large = (
            {"lfs": {"sha256": self.etag, "size": len(self.content), "pointerSize": 134}} if self.large else {}
        )
        return {"rfilename": path, "size": len(self.content), "blobId": self.git_oid, **large}


@dataclass(frozen=True)
class Commit:
    sha: str
    title: str
    files: dict[str, Blob]
    parent: str | None


def is_large(path: str, size: int) -> bool:
    return size > LARGE_SIZE or any(fnmatch(path.rpartition("/")[2], pattern) for pattern in LARGE_PATTERNS)


@dataclass
class Repository:
    """A repository of a type ("model", "dataset"). A commit is applied completely or not at all."""

    type: str
    id: str
    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[str, str] = field(default_factory=dict)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self):
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LARGE_PATTERNS)
        self._commit("main", "initial commit", {".gitattributes": Blob(attributes.encode(), False)}, None)

    def _commit(self, branch: str, title: str, files: dict[str, Blob], parent: str | None) -> Commit:
        tree = "".join(f"{path} {blob.git_oid}\n" for path, blob in sorted(files.items()))
        sha = hashlib.sha1(f"{self.id} {len(self.commits)} {parent} {title}\n{tree}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, files, parent)
        (self.pull_requests if branch.startswith("refs/pr/") else self.branches)[branch] = sha
        return self.commits[sha]

    def resolve(self, revision: str) -> Commit:
        """Return the commit of a branch, a tag, a pull request's reference or a commit id."""
        for names in (self.branches, self.tags, self.pull_requests):
            if revision in names:
                return self.commits[names[revision]]
        if revision in self.commits:
            return self.commits[revision]
        raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: blob.content for path, blob in self.resolve(revision).files.items()}

    def history(self, revision: str = "main") -> list[Commit]:
        """Return the commits of a revision, newest first."""
        found: list[Commit] = []
        sha: str | None = self.resolve(revision).sha
        while sha is not None:
            found.append(self.commits[sha])
            sha = found[-1].parent
        return found

    def commit(
        self,
        revision: str,
        title: str,
        change: Callable[[dict[str, Blob]], None],
        parent: str | None = None,
        create_pr: bool = False,
    ) -> tuple[Commit, str]:
        """Apply `change` to a copy of the files of `revision`; return the commit and its branch."""
        with self.lock:
            head = self.resolve(revision)
            if revision not in self.branches and revision not in self.pull_requests:
                raise Refused(400, f"{revision} is not a branch")
            if parent is not None and parent != head.sha:
                raise Refused(412, "A commit has happened since. Please refresh and try again.")
            files = dict(head.files)
            change(files)
            target = f"refs/pr/{len(self.pull_requests) + 1}" if create_pr else revision
            return self._commit(target, title, files, head.sha), target

    def info(self, revision: str) -> dict:
        commit = self.resolve(revision)
        return {
            "_id": hashlib.sha1(self.id.encode()).hexdigest()[:24],
            "id": self.id,
            "modelId": self.id,
            "author": self.id.partition("/")[0],
            "sha": commit.sha,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
            "siblings": [blob.sibling(path) for path, blob in sorted(commit.files.items())],
        }

    def tree(self, revision: str, folder: str, recursive: bool) -> list[dict]:
        """Return files and folders below `folder` ("" is the root)."""
        prefix = f"{folder}/" if folder else ""
        files = self.resolve(revision).files
        if folder and not any(path.startswith(prefix) for path in files):
            raise Refused(404, f"{folder} does not exist", "EntryNotFound")
        entries: dict[str, dict] = {}
        for path, blob in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            parts = path[len(prefix) :].split("/")
            for depth in range(1, len(parts) if recursive else min(len(parts), 2)):
                directory = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(directory.encode()).hexdigest()
                entries[directory] = {"type": "directory", "path": directory, "oid": oid, "size": 0}
            if recursive or len(parts) == 1:
                entries[path] = blob.entry(path)
        return list(entries.values())
