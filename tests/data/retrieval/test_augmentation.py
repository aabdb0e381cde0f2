import keyword
import re
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tree_sitter import Parser

from mose.data.retrieval.augmentation import frequent_words, replace_frequent_words
from mose.data.retrieval.collator import PairCollator
from mose.data.source.languages import grammar, keywords, supported_languages

PYTHON = "def total(items):\n    result = 0\n    for item in items:\n        result += item\n    return result"
JAVA = "int sum(int[] values) { int all = 0; for (int value : values) { all += value; } return all; }"
GO = "func Head(list []int) int {\n\tif len(list) == 0 {\n\t\treturn 0\n\t}\n\treturn list[0]\n}"


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_frequent_words_are_those_met_twice_that_are_no_keywords():
    assert frequent_words(PYTHON, "python") == ["items", "result", "item"]
    assert frequent_words(JAVA, "java") == ["values", "all", "value"]
    assert frequent_words("for for x1 x1 x2 1 1", "python") == ["x1"]
    assert frequent_words("", "python") == frequent_words("a b c", "klingon") == []


def test_keywords_are_those_of_the_language():
    assert set(keyword.kwlist) <= keywords("python") and "func" not in keywords("python")
    assert {"func", "range", "nil"} <= keywords("go") and "def" not in keywords("go")
    assert {"foreach", "string", "namespace"} <= keywords("csharp")
    for language in supported_languages():
        assert {"if", "return", "true"} <= keywords(language), language
    assert keywords("klingon") == frozenset().union(*map(keywords, (*supported_languages(), "csharp")))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([("python", PYTHON), ("java", JAVA), ("go", GO)]), min_size=1, max_size=5),
    st.integers(0, 999),
)
def test_names_stay_consistent_and_nothing_else_changes(snippets, seed):
    codes, names = [code for _, code in snippets], [language for language, _ in snippets]
    changed = replace_frequent_words(codes, names, 0.5, generator(seed))
    assert changed == replace_frequent_words(codes, names, 0.5, generator(seed))
    pool = {word for code, language in zip(codes, names, strict=True) for word in frequent_words(code, language)}
    for before, after, language in zip(codes, changed, names, strict=True):
        old, new = (re.findall(r"\w+", code) for code in (before, after))
        assert re.split(r"\w+", before) == re.split(r"\w+", after)
        mapping = dict(zip(old, new, strict=True))
        assert [mapping[word] for word in old] == new  # each word always becomes the same
        replaced = {word: other for word, other in mapping.items() if word != other}
        assert replaced.keys() <= set(frequent_words(before, language))
        assert len(set(replaced.values())) == len(replaced) and not set(replaced.values()) & set(old)
        assert set(replaced.values()) <= pool - keywords(language)
        assert not grammar_errors(after, language)


def grammar_errors(code, language):
    source = f"class A {{ {code} }}" if language == "java" else code
    return Parser(grammar(language)).parse(source.encode()).root_node.has_error


def test_the_share_that_is_replaced_is_the_probability():
    words = [f"w{i}" for i in range(40)]
    codes = [" ".join(word for word in words for _ in range(2)), " ".join(f"v{i} v{i}" for i in range(80))]
    counts = Counter()
    for seed in range(50):
        (changed, _) = replace_frequent_words(codes, ["", ""], 0.3, generator(seed))
        counts.update(old != new for old, new in zip(codes[0].split(), changed.split(), strict=True))
    assert counts[True] / counts.total() == pytest.approx(0.3, abs=0.03)
    assert replace_frequent_words(codes, ["", ""], 0.0, generator()) == codes
    assert not set(replace_frequent_words(codes, ["", ""], 1.0, generator())[0].split()) & set(words)


def test_a_snippet_alone_has_nothing_to_borrow():
    assert replace_frequent_words([PYTHON], ["python"], 1.0, generator()) == [PYTHON]
    assert replace_frequent_words([], [], 1.0, generator()) == []


def test_the_collator_changes_code_and_never_text(tiny_tokenizer):
    def row(query, query_language, document, language):
        return {
            "query": query,
            "query_language": query_language,
            "document": document,
            "document_language": language,
        }

    rows = [
        row("the sum the sum", "", PYTHON, "python"),
        row(JAVA, "java", GO, "go"),
        row(PYTHON, "python", JAVA, "java"),
    ]
    plain = PairCollator(tiny_tokenizer, 200, 200)(rows)
    collator = PairCollator(tiny_tokenizer, 200, 200, word_replacement=1.0)
    changed = collator(rows)
    for name in ("query_key", "document_key"):  # what counts as the same text is the text that was given
        assert torch.equal(changed[name], plain[name])

    def texts(batch, side):
        return tiny_tokenizer.batch_decode(batch[f"{side}_input_ids"], skip_special_tokens=True)

    assert texts(changed, "query")[0] == texts(plain, "query")[0]
    for side, which in (("query", (1, 2)), ("document", (0, 1, 2))):
        for at in which:
            assert texts(changed, side)[at] != texts(plain, side)[at]
    again = collator(rows)
    assert all(torch.equal(again[name], tensor) for name, tensor in changed.items())
    with pytest.raises(ValueError, match=r"word_replacement must be in \[0, 1\], got 1.5"):
        PairCollator(tiny_tokenizer, word_replacement=1.5)
