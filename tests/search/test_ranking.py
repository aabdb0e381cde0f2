"""Each ranking function on cases made by hand, and what must hold of all of them together."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.search.ranking.catalogue import Catalogue
from mose.search.ranking.constants import DEFAULT_CONSTANTS, RANKING_FUNCTIONS, RankingConstants
from mose.search.ranking.files import agreement, repeats
from mose.search.ranking.names import (
    EXACT,
    FOLDED,
    OTHER_SCOPE,
    definition_grades,
    file_name_matches,
    name_matches,
    path_matches,
)
from mose.search.ranking.queries import parse_query
from mose.search.ranking.ranker import best_rows_by, collect_evidence, rank_by_similarity, rank_units
from mose.search.ranking.roles import ROLES, file_roles, role_factors, roles_asked_for
from mose.search.ranking.terms import TermIndex, content_words, term_lists

#: path, qualified name, kind, first line.
UNITS = [
    ("http/server.py", "server.py", "file", 1),
    ("http/server.py", "Server", "class", 10),
    ("http/server.py", "Server.run", "method", 20),
    ("http/server.py", "Server.run", "method", 60),  # a later part
    ("http/client.py", "Client", "class", 1),
    ("http/client.py", "Client.run", "method", 5),
    ("http/client.py", "make_server", "function", 30),
    ("tests/test_server.py", "test_server_runs", "function", 1),
    ("util.py", "server", "function", 1),
]


def catalogue_of(units):
    names = [qualified.split(".")[-1] if kind != "file" else qualified for _, qualified, kind, _ in units]
    paths, qualified, kinds, lines = zip(*units, strict=True)
    return Catalogue(paths, names, qualified, kinds, lines)


@pytest.fixture(scope="module")
def catalogue():
    return catalogue_of(UNITS)


def evidence_of(query, catalogue, similarities=None, bm25=None):
    nothing = np.zeros(len(catalogue))
    similarities = nothing if similarities is None else np.asarray(similarities, float)
    bm25 = nothing if bm25 is None else np.asarray(bm25, float)
    return collect_evidence(parse_query(query), catalogue, similarities, bm25, nothing)


# --- Queries -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("Server", ("Server",)),
        ("server", ("server",)),
        ("Server::run", ("Server", "run")),
        ("http.Server.run()", ("http", "Server", "run")),
        ("`parse_date`", ("parse_date",)),
        ("$http", ("$http",)),
        ("Vec<T>", ("Vec",)),
        ("ptr->next", ("ptr", "next")),
        ("empty?", ("empty?",)),
        ("Größe", ("Größe",)),
        (" __init__ ", ("__init__",)),
    ],
)
def test_one_name_is_a_symbol(text, symbol):
    query = parse_query(text)
    assert query.is_symbol and query.symbols == (symbol,)


@pytest.mark.parametrize(
    ("text", "symbols"),
    [
        ("how does the server run", ()),
        ("Open a file, e.g. in UTF-8.", ()),
        ("why are URLs and JSON escaped", ()),
        ("how ClientSession closes its TCPConnector", (("ClientSession",), ("TCPConnector",))),
        ("the parse_date function (and Date::parse)", (("parse_date",), ("Date", "parse"))),
        ("what does `run` do", (("run",),)),
        ("how are routes mounted with use()", (("use",),)),
        ("z.map or z.map", (("z", "map"),)),
        ("a + b", ()),
        ("???", ()),
    ],
)
def test_prose_mentions_only_what_no_word_is_spelled_like(text, symbols):
    query = parse_query(text)
    assert not query.is_symbol and query.symbols == symbols


@given(st.text())
def test_any_text_is_a_query(text):
    query = parse_query(text)
    assert query.text == text and all(symbol and all(symbol) for symbol in query.symbols)
    assert set(query.keywords.split()) <= set(text.split()) or query.keywords == text


def test_words_of_questions_are_dropped_unless_nothing_is_left():
    assert content_words("how does the server run?") == "server run?"
    assert content_words("what is this") == "what is this"
    assert term_lists(["how parseDates of HTTPServer work"]) == [["pars", "date", "http", "server", "work"]]


# --- Terms -------------------------------------------------------------------------------------------------


def test_coverage_counts_rare_terms_more():
    index = TermIndex([["tcp", "connector"], ["connector"], ["connector", "pool"], []])
    of_text, of_query = index.coverage(["tcp", "connector", "unheard"])
    assert of_text.tolist()[:2] == [1.0, 1.0] and of_text[3] == of_query[3] == 0
    assert of_query[0] > of_query[1] == of_query[2] > 0
    assert 0 < of_text[2] < 0.5  # `pool` is rarer than `connector`
    assert index.coverage([])[1].tolist() == [0, 0, 0, 0]


terms = st.lists(st.sampled_from("abcdef"), max_size=4)


@given(st.lists(terms, min_size=1, max_size=6), terms)
def test_coverage_is_a_share(texts, query):
    of_text, of_query = TermIndex(texts).coverage(query)
    for row, text in enumerate(texts):
        assert 0 <= of_text[row] <= 1 and 0 <= of_query[row] <= 1
        assert (of_text[row] == 0) == (of_query[row] == 0) == (not set(text) & set(query))
        assert (of_text[row] > 0.999999) == (bool(text) and set(text) <= set(query))
        assert (of_query[row] > 0.999999) == (bool(query) and set(query) <= set(text))


# --- Names -------------------------------------------------------------------------------------------------


def test_definitions_are_graded_by_spelling_and_scope(catalogue):
    def graded(query):
        return definition_grades(parse_query(query), catalogue)

    assert graded("Server") == {1: EXACT, 8: FOLDED}
    assert graded("server") == {1: FOLDED, 8: EXACT}
    assert graded("Server.run") == {2: EXACT, 5: OTHER_SCOPE}  # row 3 is a later part
    assert graded("how a Server is run") == {}
    assert graded("how `Server` is run") == {1: EXACT, 8: FOLDED}
    assert graded("server.py") == {}  # a file is no definition


def test_names_and_paths_match_by_words(catalogue):
    query = parse_query("how to make a server")
    names, files, paths = (match(query, catalogue) for match in (name_matches, file_name_matches, path_matches))
    assert names.argmax() == 6 and names[6] == pytest.approx(1) and names[0] == 0 < names[1] < 1
    by_file = dict(zip(catalogue.files, files.tolist(), strict=True))
    assert by_file["http/server.py"] > by_file["tests/test_server.py"] > by_file["util.py"] == 0
    http = dict(zip(catalogue.files, path_matches(parse_query("http server"), catalogue).tolist(), strict=True))
    assert http["http/server.py"] == pytest.approx(1) and 0 < http["http/client.py"] < 1
    assert paths.shape == files.shape == (4,) and names.shape == (len(UNITS),)


# --- Roles -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "roles"),
    [
        ("src/server.py", ""),
        ("src/attestation.go", ""),
        ("src/contest.py", ""),
        ("lib/latest.rb", ""),
        ("src/inspector.ts", ""),
        ("tests/helpers.py", "test"),
        ("server_test.go", "test"),
        ("src/server.spec.ts", "test"),
        ("src/ServerTest.java", "test"),
        ("src/__tests__/a.js", "test"),
        ("spec/server_spec.rb", "test"),
        ("test_suite/a.rs", "test"),
        ("examples/hello.py", "example"),
        ("docs/conf.py", "example"),
        ("benches/speed.rs", "example"),
        ("src/compat.py", "old"),
        ("src/legacy/server.py", "old"),
        ("api/v1/server.py", "old"),
        ("api/v2/server.py", ""),
        ("other/v1/server.py", ""),  # the only version there is
        ("types/server.d.ts", "stub"),
        ("server.pyi", "stub"),
        ("server.pb.go", "stub"),
        ("server_pb2.py", "stub"),
        ("pkg/__init__.py", "entry"),
        ("src/index.ts", "entry"),
        ("tests/__init__.py", "test entry"),
    ],
)
def test_roles_are_told_by_paths(path, roles):
    given_roles = file_roles([path, "api/v2/newer.py"], [0, 0])
    assert {role for role, members in given_roles.items() if members[0]} == set(roles.split())


def test_an_entry_file_with_much_in_it_is_none():
    assert file_roles(["pkg/__init__.py", "src/mod.rs"], [3, 50])["entry"].tolist() == [True, False]


def test_roles_multiply_and_are_kept_if_asked_for():
    roles = file_roles(["a.py", "tests/a.py", "tests/__init__.py"], [1, 1, 0])
    factors = dict.fromkeys(ROLES, 1.0) | {"test": 0.5, "entry": 0.2}
    assert role_factors(roles, factors, ()).tolist() == [1, 0.5, 0.1]
    asked_for = roles_asked_for(term_lists(["how are servers tested"])[0])
    assert role_factors(roles, factors, asked_for).tolist() == [1, 1, 0.2]
    assert roles_asked_for(term_lists(["the v1 server and legacy compatibility"])[0]) >= {"old"}
    assert roles_asked_for(term_lists(["start the server"])[0]) == frozenset()


# --- Files -------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 4), max_size=30))
def test_repeats_count_earlier_hits_of_a_file(files):
    expected = [files[:place].count(file) for place, file in enumerate(files)]
    assert repeats(np.array(files, int)).tolist() == expected


def test_files_whose_units_agree_are_raised():
    scores, file_of = np.array([0.9, 0.8, 0.7, 1.0]), np.array([0, 0, 0, 1])
    raised = agreement(scores, file_of, np.arange(4))
    assert raised.tolist() == pytest.approx([0.9, 0.8, 0.7, 1.0 / 2.4])
    assert agreement(scores, file_of, np.array([3])).tolist() == [0, 0, 0, 1]
    assert agreement(np.zeros(4), file_of, np.arange(4)).tolist() == [0, 0, 0, 0]


# --- All together ------------------------------------------------------------------------------------------


def test_the_definition_is_first_whatever_else_is_similar(catalogue):
    similarities, bm25 = np.ones(len(UNITS)), np.ones(len(UNITS))
    similarities[1], bm25[1] = 0.5, 0.5  # the definition fits worst
    ranking = rank_units(evidence_of("Server", catalogue, similarities, bm25), catalogue, 3)
    assert ranking.rows[0] == 1
    without = DEFAULT_CONSTANTS.without("definition first")
    assert rank_units(evidence_of("Server", catalogue, similarities, bm25), catalogue, 3, without).rows[0] != 1


def test_tests_are_lowered_unless_asked_for(catalogue):
    similarities = np.linspace(0.5, 0.6, len(UNITS))
    similarities[7] = 0.61
    for query, is_first in (("serve requests", False), ("test of the requests", True)):
        rows = rank_units(evidence_of(query, catalogue, similarities), catalogue, 9).rows
        assert (rows[0] == 7) == is_first


random_units = st.lists(
    st.tuples(
        st.sampled_from(["a/one.py", "a/two.py", "tests/one.py", "b/__init__.py", "c/v1/x.py", "c/v2/x.py"]),
        st.sampled_from(["Server", "Server.run", "run", "Client", "one.py"]),
        st.sampled_from(["class", "method", "function", "file"]),
        st.integers(1, 99),
        st.sampled_from([-0.5, 0.0, 0.25, 0.5]),
        st.sampled_from([0.0, 1.0, 3.0]),
    ),
    min_size=1,
    max_size=25,
    unique_by=lambda unit: unit[:4],
)
random_queries = st.sampled_from(["Server", "Server.run", "how is one Server run", "x", "tests of run", "!"])


def ranked(units, query, order=None, shift=0.0, scale=1.0, one_per_file=False, top_k=8):
    units = [units[row] for row in (range(len(units)) if order is None else order)]
    catalogue = catalogue_of([unit[:4] for unit in units])
    similarities = np.array([unit[4] for unit in units]) + shift
    evidence = evidence_of(query, catalogue, similarities, scale * np.array([unit[5] for unit in units]))
    ranking = rank_units(evidence, catalogue, top_k, one_per_file=one_per_file)
    return [units[row] for row in ranking.rows], ranking.parts


@given(random_units, random_queries, st.randoms(use_true_random=False))
def test_the_order_of_the_units_changes_nothing(units, query, random):
    order = random.sample(range(len(units)), len(units))
    hits, parts = ranked(units, query)
    shuffled, shuffled_parts = ranked(units, query, order)
    assert hits == shuffled
    np.testing.assert_allclose(parts, shuffled_parts)


@given(random_units, random_queries, st.sampled_from([-0.25, 0.5]), st.sampled_from([0.5, 4.0]))
def test_adding_to_similarities_and_scaling_bm25_changes_nothing(units, query, shift, scale):
    assert ranked(units, query) == ranked(units, query, shift=shift, scale=scale)


@given(random_units, random_queries)
def test_hits_are_ordered_by_the_sum_of_their_parts(units, query):
    hits, parts = ranked(units, query)
    scores = [part.rank_score for part in parts]
    assert scores == sorted(scores, reverse=True) and len(hits) == min(8, len(units))
    paths = [hit[0] for hit in hits]
    for place, part in enumerate(parts):
        assert part.repeat == pytest.approx(DEFAULT_CONSTANTS.repeat ** paths[:place].count(paths[place]))
    assert ranked(units, query, top_k=3)[0] == hits[:3]


@given(random_units, random_queries)
def test_one_hit_per_file_is_the_best_of_each(units, query):
    everything, _ = ranked(units, query, top_k=len(units))
    best = {unit[0]: unit for unit in reversed(everything)}
    hits, _ = ranked(units, query, one_per_file=True, top_k=99)
    assert {hit[0]: hit for hit in hits} == best and len(hits) == len(best)


def test_similarity_alone_is_the_order_of_cosines(catalogue):
    similarities = np.random.default_rng(0).normal(size=len(UNITS))
    ranking = rank_by_similarity(evidence_of("Server", catalogue, similarities), catalogue, 5)
    assert ranking.rows.tolist() == np.argsort(-similarities)[:5].tolist()
    files = rank_by_similarity(evidence_of("Server", catalogue, similarities), catalogue, 9, one_per_file=True)
    assert sorted(catalogue.file_of[files.rows].tolist()) == [0, 1, 2, 3]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(1, 25))
def test_best_rows_break_ties_by_position(scores, k):
    position = np.random.default_rng(len(scores)).permutation(len(scores))
    expected = sorted(range(len(scores)), key=lambda row: (-scores[row], position[row]))[:k]
    assert best_rows_by(np.array(scores, float), k, position).tolist() == expected


def test_every_constant_is_of_one_ranking_function_that_switches_it_off():
    fields = {field.name for field in dataclasses.fields(RankingConstants)}
    assert {name for changes in RANKING_FUNCTIONS.values() for name in changes} == fields
    for function in RANKING_FUNCTIONS:
        assert DEFAULT_CONSTANTS.without(function) != DEFAULT_CONSTANTS
