"""The soak: attacks that take too long for the suite. `make soak` runs them and prints how each ended.

Every test here has the marker `soak`, and runs only if `-m` names it. A test counts as one try, described by its
name and parameters. One that makes several tries records each with the fixture `tries`.
"""

import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from mose.hub.files import write_sentence_transformers_files

FOLDER = Path(__file__).parent
#: Kind of an attack -> what its description says. The first that fits counts.
KINDS = {
    "one of several processes goes wrong": "of two processes|[Ww]orker|raylet|machine",
    "kill -9, signals": "kill|SIG",
    "full disk": "disk full|limited in size",
    "read-only folder": "read-only",
    "corrupt bytes": "flip|bit|zero|scramble|cut|emptied|random bytes|doubled|corrupt|damage",
    "writers and readers at once": "writers|during",
    "flood": "client|connections|requests|bodies|body",
    "foreign files": "foreign",
}


def pytest_collection_modifyitems(config, items):
    """Mark the tests of this folder, and leave them out unless they are asked for."""
    soak = [item for item in items if FOLDER in item.path.parents]
    for item in soak:
        item.add_marker(pytest.mark.soak)

    if "soak" not in (config.option.markexpr or ""):
        config.hook.pytest_deselected(items=soak)
        items[:] = [item for item in items if item not in soak]


class Tries:
    """The tries of one test."""

    def __init__(self, properties: list[tuple[str, object]], area: str):
        self.properties = properties
        self.area = area

    def record(self, attack: str, ended: str, area: str | None = None, kind: str | None = None) -> None:
        """Record one try.

        Args:
            attack: what was done, such as "kill -9 while indexing".
            ended: how it ended, such as "resumed, same weights". Equal tries share a row of the table.
            area: what was attacked. Default: the name of the test's file.
            kind: of the attack, for the table of counts. Default: the first of `KINDS` that fits `attack`.
        """
        self.properties.append(("try", [kind or kind_of(attack), area or self.area, attack, ended]))


@pytest.fixture
def tries(request) -> Tries:
    """Records the tries of this test."""
    return Tries(request.node.user_properties, area_of(request.node.nodeid))


def area_of(nodeid: str) -> str:
    """Return what a test attacks: its file's name without "test_"."""
    return Path(nodeid.split("::")[0]).stem.removeprefix("test_").replace("_", " ")


def kind_of(attack: str) -> str:
    """Return the kind of an attack, by its description."""
    return next((kind for kind, words in KINDS.items() if re.search(words, attack)), "malformed input")


def collect_tries(stats) -> Counter:
    """Return how often each (kind, area, attack, ending) occurred, from the reports of all tests."""
    rows: Counter[tuple[str, str, str, str]] = Counter()
    for outcome in ("passed", "failed", "error"):
        for report in stats.get(outcome, []):
            if "/hostile/" not in report.nodeid or (outcome != "error" and report.when != "call"):
                continue
            recorded = [value for name, value in report.user_properties if name == "try"]
            for row in recorded:
                rows[tuple(row)] += 1
            if not recorded or outcome != "passed":
                name = report.nodeid.split("::")[1].split("[")[0].removeprefix("test_").replace("_", " ")
                ended = "as expected" if outcome == "passed" else "FAILED"
                rows[kind_of(name), area_of(report.nodeid), name, ended] += 1
    return rows


def pytest_terminal_summary(terminalreporter):
    """Print the tries: kind, area, attack, how it ended, how often; then their number by kind and ending."""
    rows = collect_tries(terminalreporter.stats)
    if not rows:
        return

    terminalreporter.section(f"{rows.total()} tries")
    terminalreporter.write_line("| area | attack | ended | tries |\n|---|---|---|---|")
    for (_, area, attack, ended), count in sorted(rows.items()):
        terminalreporter.write_line(f"| {area} | {attack} | {ended} | {count} |")

    counts: Counter[tuple[str, str]] = Counter()
    for (kind, _, _, ended), count in rows.items():
        counts[kind, "FAILED" if ended == "FAILED" else "as it should"] += count
    terminalreporter.write_line("\n| kind | ended as it should | FAILED |\n|---|---:|---:|")
    for kind in sorted({kind for kind, _ in counts}):
        terminalreporter.write_line(f"| {kind} | {counts[kind, 'as it should']} | {counts[kind, 'FAILED']} |")
    terminalreporter.write_line(f"| all | {rows.total() - sum_failed(counts)} | {sum_failed(counts)} |")


def sum_failed(counts: Counter) -> int:
    """Return the number of tries that failed."""
    return sum(count for (_, ended), count in counts.items() if ended == "FAILED")


@pytest.fixture(scope="module")
def whole(tiny_model_folder, tmp_path_factory):
    """A model folder with the files of sentence-transformers."""
    folder = tmp_path_factory.mktemp("whole") / "model"
    shutil.copytree(tiny_model_folder, folder)
    write_sentence_transformers_files(folder)
    return folder
