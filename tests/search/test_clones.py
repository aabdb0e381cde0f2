"""Clones among units: which are told, which are not, and the command."""

import json
import random
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.benchmarks import clones
from mose.search import main
from mose.search.clones import find_clones, group_pairs
from mose.search.records import Entry

PARSE = """\
def parse_header(lines, separator=":"):
    headers = {}
    for number, line in enumerate(lines):
        name, found, value = line.partition(separator)
        if not found or not name.strip():
            raise ValueError(f"line {number} is no header: {line!r}")
        headers.setdefault(name.strip().lower(), []).append(value.strip())
    return {name: ", ".join(values) for name, values in headers.items()}
"""
RENAMED = re.sub(r"\bheaders\b", "fields", PARSE.replace("name", "key").replace("parse_header", "read_fields"))
EDITED = PARSE.replace("    headers = {}\n", "    headers = {}\n    count = 0\n")
OTHER = """\
class Heap:
    def push(self, item):
        self.items.append(item)
        place = len(self.items) - 1
        while place > 0 and self.items[(place - 1) // 2] > self.items[place]:
            parent = (place - 1) // 2
            self.items[parent], self.items[place] = self.items[place], self.items[parent]
            place = parent
"""
JAVASCRIPT = """\
function parseHeader(lines, separator = ":") {
  const headers = {};
  lines.forEach((line, number) => {
    const [name, value] = line.split(separator);
    if (value === undefined || !name.trim()) throw new Error(`line ${number} is no header: ${line}`);
    (headers[name.trim().toLowerCase()] ??= []).push(value.trim());
  });
  return Object.fromEntries(Object.entries(headers).map(([name, values]) => [name, values.join(", ")]));
}
"""


def unit(path, source, line=1, language="python", name="f"):
    return Entry(path, "function", name, name, language, line, line + source.strip().count("\n"), source)


def groups(units, *arguments, **options):
    return [
        [(unit.path, unit.start_line) for unit in group.units]
        for group in find_clones(units, *arguments, **options)
    ]


def test_copies_edited_copies_and_renamed_ones_are_clones():
    indented = PARSE.replace("    ", "\t")
    units = [unit(f"{n}.py", s) for n, s in enumerate([PARSE, OTHER, RENAMED, indented, EDITED])]
    (group,) = find_clones(units)
    assert [unit.path for unit in group.units] == ["0.py", "2.py", "3.py", "4.py"]
    assert 0.6 <= group.similarity < 1 and group.extra_lines == 8 * 3
    (group,) = find_clones(units, threshold=1)
    assert ([unit.path for unit in group.units], group.similarity) == (["0.py", "3.py"], 1)


def test_short_units_are_left_out():
    short = "def add(a, b):\n    return a + b\n"
    assert groups([unit("a.py", short), unit("b.py", short)]) == []
    assert groups([unit("a.py", short), unit("b.py", short)], min_tokens=12) == [[("a.py", 1), ("b.py", 1)]]


def test_units_of_one_file_are_clones_unless_one_is_in_the_other_or_both_are_parts_of_one():
    pair = [unit("a.py", PARSE), unit("a.py", RENAMED, 20)]
    assert groups(pair) == [[("a.py", 1), ("a.py", 20)]]
    assert groups(pair, same_file=False) == []
    assert groups([*pair, unit("b.py", PARSE)], same_file=False) == [[("a.py", 1), ("b.py", 1)]]
    assert groups([unit("a.py", PARSE), unit("a.py", RENAMED, 5)]) == []

    long = "".join(f"    table[{n}] = load({n}, 'x', scale=0.5)\n" for n in range(40))
    parts = [
        unit("a.py", f"def fill(): ...\n{long}", name="fill"),
        unit("a.py", f"def fill(): ...\n{long} ", 60, name="fill"),
    ]
    assert groups(parts) == []
    assert groups([parts[0], parts[1]._replace(path="b.py")]) == [[("a.py", 1), ("b.py", 60)]]


def test_languages_are_compared_by_their_embeddings():
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(8, 8)))[0]

    def embed(texts, languages):
        # What parses headers has one direction, whatever the language.
        return np.stack([vectors[0] if "eader" in text else vectors[1 + n] for n, text in enumerate(texts)])

    units = [unit("a.py", PARSE), unit("b.py", OTHER), unit("c.js", JAVASCRIPT, language="javascript")]
    assert groups(units) == []
    (group,) = find_clones(units, embed)
    assert (group.languages, [unit.path for unit in group.units]) == (["javascript", "python"], ["a.py", "c.js"])
    assert group.as_dict()["units"][1]["path"] == "c.js"
    # Of two that are as near, the one with other words is none.
    other = unit("d.js", OTHER.replace("Heap", "Header"), language="javascript")
    assert groups([units[0], other], embed) == []
    one_language = [unit("a.py", PARSE), unit("b.py", EDITED)]
    assert len(find_clones(one_language, lambda *_: pytest.fail("no model is needed"))) == 1


pair_lists = st.dictionaries(
    st.tuples(st.integers(0, 7), st.integers(0, 7)).filter(lambda pair: pair[0] < pair[1]), st.floats(0.1, 1)
)


@given(pair_lists)
def test_groups_are_complete_and_as_large_as_can_be(pairs):
    result = list(group_pairs(pairs, 8))
    assert sorted(row for rows, _ in result for row in rows) == list(range(8))

    def between(first, second):
        return [pairs.get((min(a, b), max(a, b)), 0) for a in first for b in second if a != b]

    for rows, lowest in result:
        assert min([1, *between(rows, rows)]) == lowest > 0
    for first, _ in result:
        assert all(second is first or not all(between(first, second)) for second, _ in result)


def test_bad_arguments_are_refused():
    for arguments, message in (
        ({"threshold": 0}, "threshold must be in"),
        ({"min_tokens": 0}, "min_tokens must be"),
    ):
        with pytest.raises(ValueError, match=message):
            find_clones([], **arguments)


def test_the_benchmark_edits_and_finds_copies():
    units = [unit("a.py", PARSE), unit("b.py", OTHER)]
    for kind, edits in clones.KINDS_OF_COPIES.items():
        copies = [clones.edit(one, kind, units, random.Random(0)) for one in units]
        assert clones.found_copies(units, copies, 0.3) >= (0.5 if all(edits) else 1.0)
        assert clones.found_copies(units, copies[::-1], 0.6) == 0
    assert clones.pairs_across([unit._replace(root=root) for root in "xy" for unit in units], 0.9) == 2


def test_the_command_lists_groups(tmp_path, model_folder, capsys):
    (tmp_path / "sub").mkdir()
    for path, source in (("a.py", PARSE), ("sub/b\x1b.py", "import os\n\n\n" + RENAMED), ("c.js", JAVASCRIPT)):
        (tmp_path / path).write_text(source)
    assert main(["clones", str(tmp_path), "--same-language"]) == 0
    output = capsys.readouterr().out
    assert re.search(
        r"2 units, similarity 0\.\d\d\n     a.py:1-8  parse_header\n     sub/b\\x1b\.py:4-11  read_fields", output
    )
    assert "\x1b" not in output and "3 units: 1 groups of clones, 8 lines" in output

    assert main(["clones", str(tmp_path), "--json", "--model", str(model_folder), "--across-files"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["units"], document["count"], document["groups"][0]["units"][0]["end_line"]) == (3, 1, 8)
    assert main(["clones", str(tmp_path), "--threshold", "0"]) == 2
    assert "--threshold must be above 0" in capsys.readouterr().err
    assert main(["clones", str(tmp_path / "none")]) == 2
