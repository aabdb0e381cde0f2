"""Commands in forks of a process that has imported everything: a kill can hit any moment of their work."""

import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

#: What commands import late, so that a fork need not.
PRELOAD = [
    "mose.__main__",
    "mose.eval.held_out",
    "mose.hub.slice",
    "mose.inference.corpus",
    "mose.training.classification.command",
    "mose.training.finetuning.command",
    "mose.training.finetuning.lora",
    "mose.training.pretraining.command",
]
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(PRELOAD)


class Forked:
    """A command that runs in a fork.

    Args:
        words: the command line, without "mose".
        log: file that gets the command's output.
        prepare: called in the fork before the command; must be picklable.
    """

    def __init__(self, words: list[str], log: Path, prepare: Callable[[], object] | None = None):
        self.log = log
        self.process = _CONTEXT.Process(target=_run, args=([str(word) for word in words], log, prepare))
        self.process.start()

    def wait(self, timeout: float = 120) -> int:
        """Return the exit code; minus the signal's number if one ended it."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise AssertionError(f"did not end within {timeout} s:\n{self.log.read_text()[-2000:]}")
        return self.process.exitcode

    def kill_after(self, seconds: float, number: int = signal.SIGKILL) -> int:
        """Send a signal after a time, unless the command has ended, and return the exit code."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            os.kill(self.process.pid, number)
        return self.wait()

    def text(self) -> str:
        return self.log.read_text(errors="replace")


def run_forked(words: list[str], log: Path, prepare: Callable[[], object] | None = None) -> tuple[int, str]:
    """Run a command in a fork, and return its exit code and what it printed."""
    command = Forked(words, log, prepare)
    return command.wait(), command.text()


def timed_forked(words: list[str], log: Path) -> float:
    """Run a command that must succeed, and return its seconds."""
    # The first fork waits for the imports.
    run_forked(["--version"], log)
    start = time.monotonic()
    status, text = run_forked(words, log)
    assert status == 0, text[-2000:]
    return time.monotonic() - start


def limit_files(size: int) -> Callable[[], object]:
    """Return a preparation after which no file can grow beyond `size` bytes, as on a full disk."""
    return partial(_limit_files, size)


def _limit_files(size: int) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _run(words: list[str], log: Path, prepare: Callable[[], object] | None) -> None:
    with log.open("wb") as stream, Path(os.devnull).open("rb") as null:
        os.dup2(null.fileno(), 0)
        for handle in (1, 2):
            os.dup2(stream.fileno(), handle)

    from mose.__main__ import main

    if prepare is not None:
        prepare()
    sys.exit(main(words))


def write_rows(path: Path, rows: list[dict]) -> str:
    """Write JSON lines, and return the path as an argument of a command."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)
