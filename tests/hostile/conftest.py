"""The soak: attacks that take too long for the suite. `make soak` runs them and prints how each ended.

Every test here has the marker `soak`, and runs only if `-m` names it. A test counts as one try, described by its
name and parameters. One that makes several tries records each with the fixture `tries`.
"""

from collections import Counter
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


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

    def record(self, attack: str, ended: str, area: str | None = None) -> None:
        """Record one try.

        Args:
            attack: what was done, such as "kill -9 while indexing".
            ended: how it ended, such as "resumed, same weights". Equal tries share a row of the table.
            area: what was attacked. Default: the name of the test's file.
        """
        self.properties.append(("try", [area or self.area, attack, ended]))


@pytest.fixture
def tries(request) -> Tries:
    """Records the tries of this test."""
    return Tries(request.node.user_properties, area_of(request.node.nodeid))


def area_of(nodeid: str) -> str:
    """Return what a test attacks: its file's name without "test_"."""
    return Path(nodeid.split("::")[0]).stem.removeprefix("test_").replace("_", " ")


def pytest_terminal_summary(terminalreporter):
    """Print a table of the tries: area, attack, how it ended, how often."""
    rows: Counter[tuple[str, str, str]] = Counter()
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.stats.get(outcome, []):
            if "/hostile/" not in report.nodeid or (outcome != "error" and report.when != "call"):
                continue
            recorded = [value for name, value in report.user_properties if name == "try"]
            for area, attack, ended in recorded:
                rows[area, attack, ended] += 1
            if not recorded or outcome != "passed":
                name = report.nodeid.split("::")[1].split("[")[0].removeprefix("test_").replace("_", " ")
                rows[area_of(report.nodeid), name, "as expected" if outcome == "passed" else "FAILED"] += 1

    if rows:
        terminalreporter.section(f"{rows.total()} tries")
        terminalreporter.write_line("| area | attack | ended | tries |\n|---|---|---|---|")
        for (area, attack, ended), count in sorted(rows.items()):
            terminalreporter.write_line(f"| {area} | {attack} | {ended} | {count} |")
