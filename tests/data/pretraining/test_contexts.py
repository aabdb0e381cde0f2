import copy
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mose.data.pretraining import contexts
from mose.data.pretraining.contexts import ContextBuilder, tokenize_texts


def make_rows(sizes, seed=0):
    """Files of so many words for each repository, whose words begin with its capital letter."""
    rng = np.random.default_rng(seed)
    return [
        {
            "text": " ".join(f"{repository}{n}" for n in rng.integers(10, size=words)),
            "repository": repository,
            "language": "python",
            "path": f"{number}.py",
        }
        for repository, files in sizes.items()
        for number, words in enumerate(files)
    ]


def skewed_sizes(seed=0, repositories=24):
    """Repositories that differ in how many files they have and how long these are: lengths could tell."""
    rng = np.random.default_rng(seed)
    return {
        chr(65 + r): (rng.lognormal(rng.uniform(2.5, 5), 0.4, size=rng.integers(2, 40)).astype(int) + 8).tolist()
        for r in range(repositories)
    }


def snippets_of(example, tokenizer):
    """The texts between the special tokens."""
    ids = example["input_ids"]
    assert ids[0] == tokenizer.sep_token_id and ids[-1] == tokenizer.cls_token_id
    found, current = [], []
    for token in [*ids[1:-1], tokenizer.sep_token_id]:
        if token == tokenizer.sep_token_id:
            found.append(current)
            current = []
        else:
            current.append(token)
    assert not {tokenizer.pad_token_id, tokenizer.cls_token_id, tokenizer.mask_token_id} & set(ids[1:-1])
    assert all(found)
    return found


CAPITALS: dict[int, set[str]] = {}


def capitals_of(tokenizer, token):
    if token not in CAPITALS:
        CAPITALS[token] = {letter for letter in tokenizer.decode([token]) if letter.isupper()}
    return CAPITALS[token]


def origins(example, tokenizer):
    """The repositories of the snippets, read from their capital letters."""
    letters = []
    for snippet in snippets_of(example, tokenizer):
        capitals = set().union(*(capitals_of(tokenizer, token) for token in snippet))
        assert len(capitals) == 1
        letters.append(capitals.pop())
    return letters


def builder_with(tokenizer, max_length, objective, min_snippet, contexts_per_file=4):
    """A builder with other limits than the module's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(contexts, "MIN_SNIPPET_TOKENS", min_snippet)
        patch.setattr(contexts, "MAX_CONTEXTS_PER_FILE", contexts_per_file)
        return ContextBuilder(tokenizer, max_length, objective)


def build_many(tokenizer, objective="icc", blocks=6):
    builder = builder_with(tokenizer, 96, objective, min_snippet=8)
    return [
        example
        for block in range(blocks)
        for example in builder(make_rows(skewed_sizes(block), block), (0, block))
    ]


@pytest.fixture(scope="module")
def icc_examples(tiny_tokenizer):
    return build_many(tiny_tokenizer)


@pytest.mark.slow
def test_icc_labels_say_whether_all_snippets_are_of_one_repository(icc_examples, tiny_tokenizer):
    intruders = Counter()
    for example in icc_examples:
        found = origins(example, tiny_tokenizer)
        assert len(found) >= 2 and len(example["input_ids"]) <= 96
        strangers = sum(letter != example["repository"] for letter in found)
        assert example["context_label"] == (strangers == 0)
        assert strangers <= max(1, len(found) // 2)
        intruders[strangers] += 1
    assert len(icc_examples) > 2500 and len(intruders) >= 4  # none, one, and several


def test_contexts_are_filled(icc_examples):
    lengths = np.array([len(example["input_ids"]) for example in icc_examples])
    assert lengths.mean() > 0.85 * 96


def layout_features(example, sep):
    """All that shows without reading: how many snippets, how long, in which order, and how long altogether."""
    ids = np.array(example["input_ids"])
    lengths = np.diff([*np.flatnonzero(ids == sep), len(ids) - 1]) - 1
    row = np.zeros(28)
    row[: min(10, len(lengths))] = lengths[:10]
    row[10 : 10 + min(10, len(lengths))] = np.sort(lengths)[:10]
    row[20:] = (len(lengths), len(ids), lengths.min(), lengths.max(), lengths.std(), lengths[-1], lengths[0], 0)
    row[27] = len(set(lengths)) / len(lengths)
    return row


CLASSIFIERS = {
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)),
    "boosting": lambda: HistGradientBoostingClassifier(max_iter=30, random_state=0),
}


def p_value_of_guessing(features, labels, classifier):
    """The accuracy on unseen folds of two equal classes, and how likely it is where nothing can be known."""
    guesses = cross_val_predict(CLASSIFIERS[classifier](), features, labels, cv=3)
    right = int((guesses == labels).sum())
    return right / len(labels), binomtest(right, len(labels)).pvalue


def balanced(features, labels, seed=0):
    """As many of either class, in random order."""
    rng = np.random.default_rng(seed)
    n = np.bincount(labels, minlength=2).min()
    chosen = np.concatenate([rng.permutation(np.flatnonzero(labels == label))[:n] for label in (0, 1)])
    chosen = rng.permutation(chosen)
    return features[chosen], labels[chosen]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["icc", "nsp"])
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_lengths_and_places_do_not_tell_the_label(objective, classifier, icc_examples, tiny_tokenizer):
    examples = icc_examples if objective == "icc" else build_many(tiny_tokenizer, "nsp")
    features = np.array([layout_features(example, tiny_tokenizer.sep_token_id) for example in examples])
    labels = np.array([example["context_label"] for example in examples])
    assert len(labels) > 1500 and binomtest(int(labels.sum()), len(labels)).pvalue > 1e-3
    accuracy, p = p_value_of_guessing(*balanced(features, labels), classifier)
    assert p > 1e-3, accuracy


@pytest.mark.slow
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_leak_of_lengths_would_be_found(classifier, tiny_tokenizer, monkeypatch):
    """The control: intruders that keep the length that they have in their own repository."""
    honest = contexts._IntruderPool.draw

    def careless(self, length, group, rng):
        lengths = [other for other in self._lengths if any(g != group for g in self._groups[other])]
        return honest(self, lengths[rng.integers(len(lengths))], group, rng)

    monkeypatch.setattr(contexts._IntruderPool, "draw", careless)
    examples = build_many(tiny_tokenizer, blocks=3)
    features = np.array([layout_features(example, tiny_tokenizer.sep_token_id) for example in examples])
    labels = np.array([example["context_label"] for example in examples])
    accuracy, p = p_value_of_guessing(*balanced(features, labels), classifier)
    assert accuracy > 0.6 and p < 1e-9


def places(examples, tokenizer):
    """One snippet of each mixed example, an intruder or not by a coin: what shows of it, and which it is."""
    rng = np.random.default_rng(0)
    rows, labels = [], []
    for example in examples:
        if example["context_label"]:
            continue
        snippets = snippets_of(example, tokenizer)
        foreign = np.array([letter != example["repository"] for letter in origins(example, tokenizer)])
        lengths = np.array(list(map(len, snippets)))
        intrudes = bool(rng.integers(2))
        at = rng.choice(np.flatnonzero(foreign == intrudes))
        around = lengths[max(0, at - 1)], lengths[min(len(lengths) - 1, at + 1)]
        rank = (lengths < lengths[at]).mean()
        rows.append((at, at / (len(lengths) - 1), len(lengths), lengths[at], rank, *around, lengths.mean()))
        labels.append(int(intrudes))
    return np.array(rows), np.array(labels)


@pytest.mark.slow
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_lengths_do_not_tell_which_snippet_intrudes(classifier, icc_examples, tiny_tokenizer):
    accuracy, p = p_value_of_guessing(*places(icc_examples, tiny_tokenizer), classifier)
    assert p > 1e-3, accuracy


@pytest.mark.slow
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_a_leak_of_places_would_be_found(classifier, tiny_tokenizer):
    """The control: examples of which the intruders are moved to the end."""
    examples = []
    for example in build_many(tiny_tokenizer, blocks=3):
        snippets = snippets_of(example, tiny_tokenizer)
        foreign = [letter != example["repository"] for letter in origins(example, tiny_tokenizer)]
        order = np.argsort(foreign, kind="stable")
        ids = [i for at in order for i in (tiny_tokenizer.sep_token_id, *snippets[at])]
        examples.append({**example, "input_ids": [*ids, tiny_tokenizer.cls_token_id]})
    accuracy, p = p_value_of_guessing(*places(examples, tiny_tokenizer), classifier)
    assert accuracy > 0.7 and p < 1e-9


def test_how_many_intrude_does_not_depend_on_the_layout_but_for_the_number_of_snippets(
    icc_examples, tiny_tokenizer
):
    """Given k snippets, each number from 1 to k // 2 comes as often (chi-square by exact binomials)."""
    seen = defaultdict(Counter)
    for example in icc_examples:
        if not example["context_label"]:
            found = origins(example, tiny_tokenizer)
            seen[len(found)][sum(letter != example["repository"] for letter in found)] += 1
    checked = 0
    for snippets, counts in seen.items():
        total, most = sum(counts.values()), max(1, snippets // 2)
        assert set(counts) <= set(range(1, most + 1))
        for number in range(1, most + 1):
            assert binomtest(counts[number], total, 1 / most).pvalue > 1e-4
            checked += total > 100
    assert checked >= 4


@pytest.mark.slow
def test_nsp_pairs_are_continuations_or_come_from_another_file(tiny_tokenizer):
    # The words of a file are numbered, so that a snippet tells its file and its place in it.
    rows = []
    for file in range(30):
        text = " ".join(f"{chr(65 + file % 26)}{file}.{n}" for n in range(10 + 5 * file))
        rows.append({"text": text, "repository": f"r{file % 3}", "language": "python", "path": ""})
    texts = [tokenize_texts(tiny_tokenizer, [row["text"]])[0].tolist() for row in rows]
    builder = builder_with(tiny_tokenizer, 80, "nsp", min_snippet=8, contexts_per_file=100)
    seen = Counter()
    for example in builder(rows, (0,)):
        first, second = snippets_of(example, tiny_tokenizer)
        joined, n = first + second, len(first)
        own = any(joined == text[at : at + len(joined)] for text in texts for at in range(len(text) - n))
        assert own == example["context_label"]
        seen[own] += 1
    assert min(seen[True], seen[False]) > 60


def test_without_a_context_objective_all_of_a_file_is_used_once(tiny_tokenizer):
    rows = make_rows({"A": [3, 40, 200], "B": [1, 90]})
    builder = builder_with(tiny_tokenizer, 64, "none", min_snippet=4, contexts_per_file=100)
    examples = list(builder(rows, (0,)))
    assert all("context_label" not in example for example in examples)
    found = Counter(token for example in examples for token in snippets_of(example, tiny_tokenizer)[0])
    texts = tokenize_texts(tiny_tokenizer, [row["text"] for row in rows])
    expected = Counter(int(t) for ids in texts for t in ids[: len(ids) - len(ids) % 62 * (len(ids) % 62 < 4)])
    assert found == expected


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(contexts.OBJECTIVES),
    st.integers(5, 70),
    st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=4), min_size=1, max_size=5),
    st.integers(0, 2**32),
)
def test_any_block_gives_whole_examples_by_its_seed(tiny_tokenizer, objective, max_length, sizes, seed):
    rows = make_rows({chr(65 + r): files for r, files in enumerate(sizes)}, seed)
    builder = ContextBuilder(tiny_tokenizer, max_length, objective)
    examples = list(builder(rows, (seed,)))
    assert examples == list(ContextBuilder(tiny_tokenizer, max_length, objective)(rows, (seed,)))
    for example in examples:
        assert len(example["input_ids"]) <= max_length
        found = snippets_of(example, tiny_tokenizer)
        assert (len(found) >= 2) if objective == "icc" else len(found) == {"nsp": 2, "none": 1}[objective]
    if objective == "icc" and len(sizes) == 1:
        assert not examples and builder.counts["layouts without intruder"] == (max(sizes[0]) > 0 or 0)


def test_special_tokens_in_a_file_are_text(tiny_tokenizer):
    text = "a <mask> b <sep> c <cls> <pad> d"
    ids = tokenize_texts(tiny_tokenizer, [text])[0].tolist()
    assert tiny_tokenizer.decode(ids) == text
    assert not set(ids) & set(tiny_tokenizer.all_special_ids)
    assert (
        tiny_tokenizer.mask_token_id in tiny_tokenizer("<mask>")["input_ids"]
    )  # and stay what they are elsewhere


def test_of_a_long_file_a_run_is_used_another_each_time(tiny_tokenizer):
    rows = make_rows({"A": [5000]})
    builder = builder_with(tiny_tokenizer, 50, "none", min_snippet=32, contexts_per_file=6)
    texts = []
    for seed in range(2):
        ids = sum((snippets_of(example, tiny_tokenizer)[0] for example in builder(rows, (seed,))), [])
        assert 250 < len(ids) <= 300
        texts.append(sorted(ids))
    whole = tokenize_texts(tiny_tokenizer, [rows[0]["text"]])[0]
    assert len(whole) > 10_000 and texts[0] != texts[1]


def test_bad_arguments_are_named(tiny_tokenizer):
    for options, message in (
        ({"max_length": 4}, "max_length must be at least 5 for 'icc' examples, got 4"),
        ({"max_length": 2, "objective": "none"}, "max_length must be at least 3 for 'none' examples, got 2"),
        ({"objective": "mlm"}, "objective must be one of icc, nsp, none, got 'mlm'"),
    ):
        with pytest.raises(ValueError, match=message):
            ContextBuilder(tiny_tokenizer, **{"max_length": 64, **options})
    assert ContextBuilder(tiny_tokenizer, 5).sizes == [1]

    class Lacking:
        is_fast = True
        pad_token_id = cls_token_id = 1
        sep_token_id = mask_token_id = None

    with pytest.raises(ValueError, match="no sep and no mask token"):
        ContextBuilder(Lacking(), 64)


def polyglot_rows(seed, per_language=2, files=12):
    """Repositories A, B, … of two languages each, whose words begin with the capital of the repository."""
    rng = np.random.default_rng(seed)
    names = ["go", "java", "ruby"]
    sizes = {chr(65 + r): (rng.lognormal(3.5, 0.6, size=files).astype(int) + 9).tolist() for r in range(6)}
    rows = make_rows(sizes, seed)
    for number, row in enumerate(rows):
        first = (ord(row["repository"]) - 65) // per_language
        row["language"] = names[(first + (number % 4 == 0)) % 3]
    return rows


def planned(tokenizer, rows, seed, share):
    """Build a block. Return it, its builder, and its layouts before labels were drawn."""
    builder = builder_with(tokenizer, 96, "icc", min_snippet=8)
    builder.same_language_intruders = share
    draw, plans = builder._draw_labels, []

    def remember(layouts, *rest):
        plans.extend(copy.deepcopy(layouts))
        return draw(layouts, *rest)

    builder._draw_labels = remember
    return builder(rows, (seed, 1)), builder, plans


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000))
def test_intruders_of_the_same_language_leave_the_languages_of_a_context_as_they_were(tiny_tokenizer, seed):
    rows = polyglot_rows(seed)
    block, builder, plans = planned(tiny_tokenizer, rows, seed, 1.0)
    assert not builder.counts["layouts with intruders of any language"]
    plan_of = {snippet: plan for plan in plans for snippet in plan.snippets}

    strangers = 0
    for layout, label in zip(block.layouts, block.labels, strict=True):
        # At least half of the snippets are still there.
        (plan,) = {
            id(plan_of[s]): plan_of[s]
            for place, s in enumerate(layout.snippets)
            if s in plan_of and plan_of[s].group == layout.group and plan_of[s].snippets[place : place + 1] == [s]
        }.values()
        pairs = zip(plan.snippets, layout.snippets, strict=True)
        changed = [(rows[old[0]], rows[new[0]]) for old, new in pairs if old != new]
        assert bool(changed) != bool(label)
        strangers += len(changed)
        for old, new in changed:
            assert old["language"] == new["language"]
            assert old["repository"] != new["repository"]
    assert strangers


def test_with_one_language_for_two_repositories_every_intruder_has_its_hosts_language(tiny_tokenizer):
    of_any_language = 0
    for share in (0.0, 0.5, 1.0):
        foreign = intruders = 0
        for seed in range(6):
            rows = polyglot_rows(seed)
            for row in rows:
                row["language"] = ["go", "java", "ruby"][(ord(row["repository"]) - 65) // 2]
            block, _, _ = planned(tiny_tokenizer, rows, seed, share)
            for layout in block.layouts:
                host = rows[layout.group]
                guests = [rows[file] for file, _, _ in layout.snippets]
                guests = [row for row in guests if row["repository"] != host["repository"]]
                intruders += len(guests)
                foreign += sum(row["language"] != host["language"] for row in guests)
        if share == 0.0:
            of_any_language = foreign / intruders
        assert foreign / intruders == pytest.approx((1 - share) * of_any_language, abs=0.07)
        assert share < 1 or not foreign
    assert of_any_language > 0.7


def test_a_language_that_only_one_repository_has_takes_intruders_of_any_and_says_so(tiny_tokenizer):
    rows = make_rows({"A": [60] * 8, "B": [60] * 8})
    for row in rows:
        row["language"] = "go" if row["repository"] == "A" else ""
    block, builder, _ = planned(tiny_tokenizer, rows, 0, 1.0)
    assert builder.counts["layouts with intruders of any language"] == len(block) > 4
    assert set(block.labels) == {0, 1}


def test_without_the_share_no_number_is_drawn_for_it(tiny_tokenizer):
    """The labels' stream of random numbers, read by hand: places, the coin, then intruders."""
    rows = polyglot_rows(3)
    block, _, plans = planned(tiny_tokenizer, rows, 3, 0.0)
    rng, pool = np.random.default_rng([3, 1, 1]), contexts._IntruderPool(plans)
    assert len(block) == len(plans) > 20 and set(block.labels) == {0, 1}

    for plan, layout, label in zip(plans, block.layouts, block.labels, strict=True):
        number = 1 + rng.integers(max(1, len(plan.candidates) // 2))
        places = rng.permutation(plan.candidates)[:number]
        assert label == int(rng.random() < 0.5)
        if not label:
            for place in places:
                plan.snippets[place] = pool.draw(plan.snippets[place][2], plan.group, rng)
        assert layout.snippets == plan.snippets


@pytest.mark.parametrize("share", [-0.1, 1.2, float("nan")])
def test_a_share_of_intruders_out_of_range_is_refused(tiny_tokenizer, share):
    with pytest.raises(ValueError, match=rf"same_language_intruders must be in \[0, 1\], got {share}. Pass"):
        ContextBuilder(tiny_tokenizer, 96, same_language_intruders=share)
    with pytest.raises(ValueError, match="must be 0 for 'none' examples.*got 0.5"):
        ContextBuilder(tiny_tokenizer, 96, "none", same_language_intruders=0.5)
