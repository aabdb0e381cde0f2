"""A local Hub for tests: the requests of huggingface_hub, transformers and datasets, and faults.

    with LoopbackHub() as hub:
        done = hub.python("from transformers import AutoModel; …", without_mose=True)
        assert hub.served["user/name"]["model.safetensors"] == …

Clients read their endpoint when they are imported. Run them in a process with `hub.environment()`, or pass
`hub.url` and `hub.token` to `HfApi`.
"""

import os
import re
import subprocess
import sys
import tempfile
import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from loopback_http import Handler
from loopback_store import Blob, Repository, is_large

#: Prepended to a client's code: `import mose` fails as if it were not installed.
WITHOUT_MOSE = """
import importlib.abc, sys

class NoMoSE(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "mose":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, NoMoSE())
"""


@dataclass
class Fault:
    """A fault of the requests whose "METHOD /path" matches `pattern`.

    Args:
        times: number of requests; -1 means all.
        status: answer with it, and do nothing.
        cut: close the connection after this number of bytes of the body, the client's or ours.
        lose: do what is requested, then close the connection without an answer.
        stall: accept the request and do not answer until `release` is set.
        delay: seconds to wait before answering.
    """

    pattern: str
    times: int = 1
    status: int | None = None
    cut: int | None = None
    lose: bool = False
    stall: bool = False
    delay: float = 0.0
    reached: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)


class LoopbackHub:
    """A server on 127.0.0.1 that runs inside its `with` block.

    Attributes:
        repositories: (type, id) -> `Repository`.
        served: repository id -> file -> bytes of its content sent.
        requests: every "METHOD /path" in order.
        faults: consumed in order; `fail(…)` adds one.
        token, reader_token: the former may write, the latter only read. Other tokens are rejected.
    """

    token, reader_token, user = "hf_loopback_writer", "hf_loopback_reader", "tester"

    def __init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.large: dict[str, bytes] = {}
        self.served: dict[str, Counter] = defaultdict(Counter)
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.lock = threading.Lock()
        self._home = tempfile.TemporaryDirectory(prefix="loopback-hub-")
        self.home = Path(self._home.name)

    def __enter__(self) -> "LoopbackHub":
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error) -> None:
        for fault in self.faults:
            fault.release.set()
        self.server.shutdown()
        self.server.server_close()
        self._home.cleanup()

    def fail(self, pattern: str, **what) -> Fault:
        """Add a `Fault` and return it."""
        self.faults.append(Fault(pattern, **what))
        return self.faults[-1]

    def fault_for(self, request: str) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.times and re.search(fault.pattern, request):
                    fault.times -= 1
                    fault.reached.set()
                    return fault
        return None

    def repository(self, repo_id: str, type: str = "model") -> Repository:
        return self.repositories[type, repo_id]

    def add(self, repo_id: str, folder: Path, type: str = "model") -> Repository:
        """Add a repository with the files of a folder, without an upload."""
        files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        contents = {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
        blobs = {name: Blob(content, is_large(name, len(content))) for name, content in contents.items()}
        repository = self.repositories[type, repo_id] = Repository(type, repo_id)
        repository.commit("main", "add files", lambda tree: tree.update(blobs))
        return repository

    def environment(self, token: str | None = token, cache: str = "cache", **more: str) -> dict[str, str]:
        """Return the environment of a client's process. Another `cache` acts as a machine without downloads."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "PYTHONPATH"))}
        environment |= {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(self.home / cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            "no_proxy": "127.0.0.1",
        }
        return environment | ({"HF_TOKEN": token} if token else {}) | more

    def python(
        self, code: str, *arguments: str, without_mose: bool = False, check: bool = True, **environment: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run `code` with this Hub in a new process and an empty folder; keywords are those of `environment`."""
        with tempfile.TemporaryDirectory(dir=self.home) as folder:
            done = subprocess.run(
                [sys.executable, "-c", (WITHOUT_MOSE if without_mose else "") + code, *arguments],
                cwd=folder,
                env=self.environment(**environment),
                capture_output=True,
                text=True,
            )
        if check and done.returncode:
            raise AssertionError(f"exit code {done.returncode}\n{done.stdout}\n{done.stderr[-6000:]}")
        return done

    def command(self, *arguments: str, **environment: Any) -> subprocess.CompletedProcess[str]:
        """Run `python -m MODULE …` with this Hub, and return it however it ended."""
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            env=self.environment(**environment),
            capture_output=True,
            text=True,
        )
