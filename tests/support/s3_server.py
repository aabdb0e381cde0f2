"""A server of the S3 protocol on the loopback interface: moto's, from a virtual environment of its own.

moto needs boto3, whose requirements do not go together with the pinned ones of this project. `make soak` makes
the environment. MOSE_MOTO_PYTHON names another Python that has `moto[s3,server]`.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BUCKET = "code"
#: One request at a time: moto's threads look for an object and write it in two steps, and a store does so in one.
_SERVER = """
import sys
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple
application = DomainDispatcherApplication(create_backend_app)
run_simple("127.0.0.1", int(sys.argv[1]), application, threaded=False)
"""


def moto_python() -> Path | None:
    """Return a Python that has moto; None if there is none."""
    beside = Path(sys.prefix) / ".moto" / "bin" / "python"
    named = os.environ.get("MOSE_MOTO_PYTHON")
    python = Path(named) if named else beside
    return python if python.exists() else None


@contextmanager
def s3_server(python: Path) -> Iterator[dict[str, str]]:
    """Run a server with an empty bucket. Yield the environment of its clients."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [str(python), "-c", _SERVER, str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _create_bucket(address)
        yield {
            "AWS_ENDPOINT": address,
            "AWS_ALLOW_HTTP": "true",
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
        }
    finally:
        server.kill()
        server.wait()


def _create_bucket(address: str) -> None:
    deadline = time.monotonic() + 60
    request = urllib.request.Request(f"{address}/{BUCKET}", method="PUT")
    while True:
        try:
            urllib.request.urlopen(request, timeout=5).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
