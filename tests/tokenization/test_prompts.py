import pytest

from mose.tokenization.prompts import LANGUAGES, code_prompt, text_prompt


def test_the_papers_instructions_and_input_format(tiny_tokenizer):
    text = "Represent this code description for retrieving supporting snippets of code:<sep>"
    assert text_prompt() == text
    assert code_prompt("python") == "Represent this Python code snippet for retrieval:<sep>"
    ids = tiny_tokenizer(code_prompt("java") + "f()")["input_ids"]
    assert tiny_tokenizer.decode(ids) == "<sep>Represent this Java code snippet for retrieval:<sep>f()<cls>"
    assert [ids[0], ids[-1]] == [tiny_tokenizer.sep_token_id, tiny_tokenizer.cls_token_id]
    assert ids.count(tiny_tokenizer.sep_token_id) == 2  # the inner one is the token, too


@pytest.mark.parametrize(
    ("language", "name"),
    [
        *LANGUAGES.items(),
        ("C++", "C++"),
        ("c#", "C#"),
        ("CS", "C#"),
        ("JS", "JavaScript"),
        ("Py", "Python"),
        ("golang", "Go"),
        (" Python ", "Python"),
        ("PHP", "PHP"),
        ("Haskell", "Haskell"),
        ("haskell", "haskell"),
    ],
)
def test_a_language_goes_by_its_name(language, name):
    assert code_prompt(language) == f"Represent this {name} code snippet for retrieval:<sep>"


@pytest.mark.parametrize("language", [None, "", "  "])
def test_without_a_language_the_word_is_left_out(language):
    assert code_prompt(language) == code_prompt() == "Represent this code snippet for retrieval:<sep>"


def test_no_two_languages_share_a_prompt():
    assert len({code_prompt(language) for language in LANGUAGES}) == len(LANGUAGES)
