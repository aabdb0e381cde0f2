"""Indexes, hits and groups in notebooks and at the prompt: what they show, and that nothing in it is markup."""

from html.parser import HTMLParser

import pytest

from mose.search import CloneGroup, Hit
from mose.search.display import Results
from mose.search.ranking.ranker import Parts
from mose.search.records import Entry

HOSTILE = "<script>alert('x')</script>&amp;\x1b[2J"
PARTS = Parts(0.5, 0.25, 0.0, 0.1, 0.0, 0.0, 0.5, 0.2, 1.0)


class Page(HTMLParser):
    """Collects the tags and the text of HTML."""

    def __init__(self, html):
        super().__init__()
        self.opened, self.tags, self.text = [], set(), ""
        self.feed(html)
        assert not self.opened

    def handle_starttag(self, tag, attributes):
        self.opened.append(tag)
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.opened.pop() == tag

    def handle_data(self, data):
        self.text += data


def hit(source=HOSTILE, path=HOSTILE):
    return Hit(0.875, 0.4, path, "method", "f", HOSTILE, "python", 3, 9, source, PARTS)


def group():
    units = tuple(Entry(f"{n}{HOSTILE}", "function", "f", HOSTILE, "go", 1, 4, HOSTILE) for n in range(2))
    return CloneGroup(0.75, units)


@pytest.mark.parametrize("shown", [hit(), group(), Results([hit("a\n" * 9), hit()])])
def test_names_paths_and_code_are_text(shown):
    html = shown._repr_html_()
    page = Page(html)
    assert page.tags <= {"div", "p", "b", "code", "pre", "ul", "li", "details", "summary"}
    assert "<script>alert('x')</script>&amp;\\x1b[2J" in page.text
    assert "\x1b" not in html + repr(shown)


def test_a_long_hit_is_folded():
    page = Page(hit("".join(f"line {n}\n" for n in range(5)), "a.py")._repr_html_())
    assert "0.875" in page.text and "a.py:3-9 python" in page.text
    assert "2 more lines" in page.text and "line 4" in page.text
    assert "details" not in Page(hit("one\ntwo\n")._repr_html_()).tags


def test_the_prompt_shows_one_line_each():
    assert repr(hit("code", "a.py")).startswith("Hit(0.875, a.py:3-9, ")
    assert repr(group()).startswith("CloneGroup(0.75, 0<script>")
    assert "code" not in repr(hit("code", "a.py"))
    assert Results()._repr_html_() == "<p>Nothing.</p>" and Results([1, 2]) == [1, 2]


def test_an_index_shows_what_it_holds(build):
    index = build()
    assert repr(index) == f"Index({index.location.name!r}, 4 units, exit 1)"
    page = Page(index._repr_html_())
    for text in (index.location.name, "units4", "files3", "exit1", index.trees[0].root):
        assert text in page.text
    index.stale = HOSTILE
    assert "not up to date<script>" in Page(index._repr_html_()).text
    hits = index.search("parse a date", 2)
    assert isinstance(hits, Results) and hits == list(hits) and hits[0].qualified_name in hits._repr_html_()
