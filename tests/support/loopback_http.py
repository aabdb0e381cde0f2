"""HTTP requests of the loopback Hub and their answers. `loopback_hub` starts it."""

import base64
import hashlib
import json
import re
import socket
import time
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from card_rules import card_errors
from loopback_store import Blob, Refused, Repository, is_large


class Cut(Exception):
    """Raised to close the connection."""


class Handler(BaseHTTPRequestHandler):
    """One connection. `ROUTES` maps paths to methods."""

    hub: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def _handle(self) -> None:
        parts = urlsplit(self.path)
        request = f"{self.command} {parts.path}"
        self.query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.hub.requests.append(request)
        self.fault = self.hub.fault_for(request)
        try:
            if self.fault and self.fault.stall:
                self.fault.release.wait()
                raise Cut
            body = self._read()
            if self.fault and self.fault.delay:
                time.sleep(self.fault.delay)
            if self.fault and self.fault.status:
                raise Refused(self.fault.status, "out of order")
            for method, pattern, name in ROUTES:
                if self.command in method and (match := re.fullmatch(pattern, parts.path)):
                    getattr(self, name)(body, **{k: v and unquote(v) for k, v in match.groupdict().items()})
                    return
            raise Refused(404, f"no such endpoint: {request}")
        except Refused as refused:
            self._answer({"error": refused.message}, refused.status, refused.code, refused.message)
        except (Cut, BrokenPipeError, ConnectionResetError):
            self.close_connection = True
            self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle

    def _read(self) -> bytes:
        if self.fault and self.fault.cut is not None and self.command in ("POST", "PUT"):
            self.rfile.read(min(self.fault.cut, int(self.headers.get("Content-Length", self.fault.cut))))
            raise Cut
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, document: Any, status: int = 200, code: str = "", message: str = "") -> None:
        headers = {"Content-Type": "application/json"}
        if code:
            headers["X-Error-Code"] = code
        if message:
            headers["X-Error-Message"] = message
        self._send(status, json.dumps(document).encode(), headers)

    def _send(self, status: int, content: bytes, headers: dict[str, str], length: int | None = None) -> int:
        """Send an answer, or as much as the fault lets through; return the number of content bytes sent."""
        if self.fault and self.fault.lose:
            raise Cut
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        if self.command == "HEAD":
            return 0
        if self.fault and self.fault.cut is not None:
            content = content[: self.fault.cut]
        self.wfile.write(content)
        if self.fault and self.fault.cut is not None:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
        return len(content)

    def _authorize(self, write: bool = False) -> str | None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if token and token not in (self.hub.token, self.hub.reader_token):
            raise Refused(401, "Invalid credentials in Authorization header")
        if write and token != self.hub.token:
            message = "You don't have the required permissions" if token else "Please log in or use a token"
            raise Refused(403 if token else 401, message)
        return token or None

    def _repository(self, kind: str, repo: str, write: bool = False) -> Repository:
        token = self._authorize(write)
        found = self.hub.repositories.get((kind.removesuffix("s"), repo))
        if found is None or (found.private and token is None):
            raise Refused(404 if token else 401, "Repository not found", "RepoNotFound")
        return found

    # --- Requests ------------------------------------------------------------------------------------------

    def whoami(self, body):
        if self._authorize() is None:
            raise Refused(401, "Please log in or use a token")
        self._answer({"type": "user", "name": self.hub.user, "orgs": [], "auth": {"type": "access_token"}})

    def create(self, body):
        self._authorize(write=True)
        asked = json.loads(body)
        repo = f"{asked.get('organization') or self.hub.user}/{asked['name']}"
        key = (asked.get("type", "model"), repo)
        with self.hub.lock:
            known = key in self.hub.repositories
            if not known:
                private = asked.get("visibility") == "private" or asked.get("private") is True
                self.hub.repositories[key] = Repository(*key, private=private)
        url = f"{self.hub.url}/{'' if key[0] == 'model' else key[0] + 's/'}{repo}"
        self._answer({"url": url, "name": repo}, 409 if known else 200)

    def validate_yaml(self, body):
        errors = card_errors(json.loads(body)["content"])
        document = {"errors": [{"message": error} for error in errors], "warnings": []}
        self._answer(document, 400 if errors else 200)

    def preupload(self, body, kind, repo, revision):
        files = self._repository(kind, repo, write=True).resolve(revision).files
        answers = []
        for asked in json.loads(body)["files"]:
            path, large = asked["path"], is_large(asked["path"], asked["size"])
            oid = files[path].etag if path in files else None
            answers.append({"path": path, "uploadMode": "lfs" if large else "regular", "oid": oid})
        self._answer({"files": [{"shouldIgnore": False, **answer} for answer in answers]})

    def large_batch(self, body, kind, repo):
        self._repository(kind or "models", repo, write=True)
        objects = json.loads(body)["objects"]
        for asked in objects:
            if asked["oid"] not in self.hub.large:
                asked["actions"] = {"upload": {"href": f"{self.hub.url}/large/{asked['oid']}"}}
        self._answer({"transfer": "basic", "objects": objects})

    def large_put(self, body, oid):
        if hashlib.sha256(body).hexdigest() != oid:
            raise Refused(400, "content does not match its sha256")
        self.hub.large[oid] = body
        self._answer({})

    def commit(self, body, kind, repo, revision):
        repository = self._repository(kind, repo, write=True)
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        header = lines[0]["value"]

        def change(files: dict[str, Blob]) -> None:
            for line in lines[1:]:
                key, value = line["key"], line["value"]
                path = value["path"].rstrip("/")
                if path.startswith("/") or ".." in path.split("/"):
                    raise Refused(400, f"Invalid path {path}")
                if key == "file":
                    files[path] = Blob(base64.b64decode(value["content"]), False)
                elif key == "lfsFile":
                    if value["oid"] not in self.hub.large:
                        raise Refused(400, f"Your push was rejected: {path} points to a file that does not exist")
                    files[path] = Blob(self.hub.large[value["oid"]], True)
                else:
                    gone = [
                        p for p in files if p == path or (key == "deletedFolder" and p.startswith(f"{path}/"))
                    ]
                    if not gone:
                        raise Refused(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
                    for name in gone:
                        del files[name]
            if "README.md" in files and (errors := card_errors(files["README.md"].content.decode())):
                raise Refused(400, f"Invalid metadata in README.md: {errors[0]}")

        create_pr = bool(self.query.get("create_pr"))
        commit, target = repository.commit(
            revision, header["summary"], change, header.get("parentCommit"), create_pr
        )
        answer = {
            "success": True,
            "commitOid": commit.sha,
            "commitUrl": f"{self.hub.url}/{repo}/commit/{commit.sha}",
        }
        if create_pr:
            answer["pullRequestUrl"] = f"{self.hub.url}/{repo}/discussions/{target.rpartition('/')[2]}"
        self._answer(answer)

    def info(self, body, kind, repo, revision="main"):
        self._answer(self._repository(kind, repo).info(revision or "main"))

    def tree(self, body, kind, repo, revision, folder):
        recursive = self.query.get("recursive", "").lower() in ("true", "1")
        self._answer(self._repository(kind, repo).tree(revision, folder or "", recursive))

    def paths_info(self, body, kind, repo, revision):
        repository = self._repository(kind, repo)
        if "json" in self.headers.get("Content-Type", ""):
            wanted = json.loads(body)["paths"]
        else:
            wanted = parse_qs(body.decode())["paths"]
        entries = {entry["path"]: entry for entry in repository.tree(revision, "", recursive=True)}
        self._answer([entries[path] for path in wanted if path in entries])

    def refs(self, body, kind, repo):
        repository = self._repository(kind, repo)
        self._answer(
            {
                name: [{"name": n, "ref": prefix + n, "targetCommit": sha} for n, sha in found.items()]
                for name, prefix, found in (
                    ("branches", "refs/heads/", repository.branches),
                    ("tags", "refs/tags/", repository.tags),
                    ("pullRequests", "", repository.pull_requests),
                    ("converts", "", {}),
                )
            }
        )

    def history(self, body, kind, repo, revision):
        date = "2026-01-01T00:00:00.000Z"
        found = self._repository(kind, repo).history(revision)
        self._answer([{"id": c.sha, "title": c.title, "message": "", "authors": [], "date": date} for c in found])

    def branch(self, body, kind, repo, name):
        self._reference(self._repository(kind, repo, write=True), "branches", name, body, "startingPoint")

    def tag(self, body, kind, repo, revision):
        repository = self._repository(kind, repo, write=True)
        if self.command == "DELETE":
            return self._reference(repository, "tags", revision, body, "")
        return self._reference(repository, "tags", json.loads(body)["tag"], json.dumps({"at": revision}), "at")

    def _reference(self, repository: Repository, kind: str, name: str, body, start: str) -> None:
        names = getattr(repository, kind)
        with repository.lock:
            if self.command == "DELETE":
                if names.pop(name, None) is None:
                    raise Refused(404, f"{name} does not exist", "RevisionNotFound")
            elif name in names:
                raise Refused(409, f"{name} exists already")
            else:
                names[name] = repository.resolve(json.loads(body or "{}").get(start) or "main").sha
        self._answer({})

    def resolve(self, body, kind, repo, revision, path):
        repository = self._repository(kind or "models", repo)
        commit = repository.resolve(revision)
        if path not in commit.files:
            raise Refused(404, f"{path} does not exist on {revision}", "EntryNotFound")
        blob = commit.files[path]
        headers = {
            "X-Repo-Commit": commit.sha,
            "ETag": f'"{blob.etag}"',
            "Accept-Ranges": "bytes",
            "Content-Type": "application/octet-stream",
        }
        content, status, size = blob.content, 200, len(blob.content)
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), min(int(match[2] or size), size - 1)
            if first >= size:
                raise Refused(416, "range not satisfiable")
            content, status = content[first : last + 1], 206
            headers["Content-Range"] = f"bytes {first}-{last}/{size}"
        sent = self._send(status, content, headers)
        if sent:
            with self.hub.lock:
                self.hub.served[repo][path] += sent


_REPO = r"(?P<repo>[^/]+/[^/]+)"
_API = r"/api/(?P<kind>models|datasets)/" + _REPO
#: HTTP methods, path, and the method of `Handler` that answers.
ROUTES = [
    ("GET", r"/api/whoami-v2", "whoami"),
    ("POST", r"/api/repos/create", "create"),
    ("POST", r"/api/validate-yaml", "validate_yaml"),
    ("POST", _API + r"/preupload/(?P<revision>[^/]+)", "preupload"),
    ("POST", r"/(?:(?P<kind>datasets)/)?" + _REPO + r"\.git/info/lfs/objects/batch", "large_batch"),
    ("PUT", r"/large/(?P<oid>[0-9a-f]{64})", "large_put"),
    ("POST", _API + r"/commit/(?P<revision>[^/]+)", "commit"),
    ("GET", _API, "info"),
    ("GET", _API + r"/revision/(?P<revision>[^/]+)", "info"),
    ("GET", _API + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", "tree"),
    ("POST", _API + r"/paths-info/(?P<revision>[^/]+)", "paths_info"),
    ("GET", _API + r"/refs", "refs"),
    ("GET", _API + r"/commits/(?P<revision>[^/]+)", "history"),
    ("POST DELETE", _API + r"/branch/(?P<name>[^/]+)", "branch"),
    ("POST DELETE", _API + r"/tag/(?P<revision>[^/]+)", "tag"),
    ("GET HEAD", r"/(?:(?P<kind>datasets)/)?" + _REPO + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
]
