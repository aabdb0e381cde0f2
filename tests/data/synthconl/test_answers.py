import pytest
from hypothesis import given
from hypothesis import strategies as st

from mose.data.synthconl.answers import NoCodeError, fenced_blocks, parses, read_answer
from mose.data.synthconl.plan import TARGETS

#: The same function as each language has it.
CODE = {
    "python": "def add(a, b):\n    return a + b",
    "java": "public static int add(int a, int b) {\n    return a + b;\n}",
    "javascript": "function add(a, b) {\n  return a + b;\n}",
    "go": "func add(a int, b int) int {\n\treturn a + b\n}",
    "ruby": "def add(a, b)\n  a + b\nend",
    "php": "function add($a, $b) {\n    return $a + $b;\n}",
    "c": "int add(int a, int b) {\n    return a + b;\n}",
    "cpp": "template <typename T>\nT add(const T& a, const T& b) {\n    return a + b;\n}",
}
USAGE = {"python": "print(add(1, 2))", "javascript": "console.log(add(1, 2));", "ruby": "puts add(1, 2)"}


@pytest.mark.parametrize("language", TARGETS)
@pytest.mark.parametrize(
    "answer",
    [
        "```{tag}\n{code}\n```",
        "Here is the {tag} version of your function:\n\n```{tag}\n{code}\n```\n\nIt adds `a` and `b`, as before.",
        "```\n{code}\n```",
        "~~~ {tag}\n{code}\n~~~",
        "````{tag}\n{code}\n````",
        "1. The translation:\n\n   ```{tag}\n{code}\n   ```\n",
        "```{tag}\r\n{code}\r\n```\r\n",
        "```{tag}\n{code}\n",  # never closed, and yet whole
        "\n\n{code}\n\n",
        "Sure! Here's the translation.\n\n{code}\n\nNote: I kept the name, so it's called in the same way.",
    ],
)
def test_good_answers(answer, language):
    found = read_answer(answer.format(tag=language, code=CODE[language]), language, source="something else")
    assert found == CODE[language]


@pytest.mark.parametrize("language", USAGE)
def test_the_first_block_of_the_language_counts(language):
    other = "java" if language != "java" else "go"
    answer = (
        f"The original:\n```{other}\n{CODE[other]}\n```\nbecomes\n```{language.upper()}\n{CODE[language]}\n```\n"
        f"Call it so:\n```{language}\n{USAGE[language]}\n```"
    )
    assert read_answer(answer, language) == CODE[language]


def test_tags_by_which_languages_also_go():
    for tag, language in (
        ("js", "javascript"),
        ("golang", "go"),
        ("c++", "cpp"),
        ("rb", "ruby"),
        ("py", "python"),
    ):
        assert read_answer(f"```{tag}\n{CODE[language]}\n```", language) == CODE[language]
    assert read_answer(f"```c\n{CODE['cpp']}\n```", "cpp") == CODE["cpp"]
    attributes = f'```python title="add.py"\n{CODE["python"]}\n```'
    assert read_answer(attributes, "python") == CODE["python"]


def test_methods_without_their_class_and_files_of_php():
    method = "@Override\npublic int size() {\n    return this.n;\n}"
    assert read_answer(f"```java\n    {method}\n```", "java")
    assert read_answer("```javascript\nasync load(url) {\n  return await fetch(url);\n}\n```", "javascript")
    assert read_answer("```php\npublic function size(): int {\n    return $this->n;\n}\n```", "php")
    file = f"<?php\n\n{CODE['php']}\n?>"
    assert read_answer(f"```php\n{file}\n```", "php") == file
    class_ = f"public class Main {{\n{CODE['java']}\n}}"
    assert read_answer(f"```java\n{class_}\n```", "java") == class_


@pytest.mark.parametrize(
    ("answer", "language", "reason"),
    [
        ("", "go", "no code"),
        ("I'm sorry, but I can't translate this without more context.", "go", "no code"),
        ("I'm sorry, but I can't help.", "ruby", "no code"),
        ("```go\n```", "go", "no code"),
        ("```python\n" + CODE["python"] + "\n```", "java", "other language"),
        ("```java\n" + CODE["python"] + "\n```", "java", "does not parse"),
        ("```python\ndef add(a, b):\n    return (a +", "python", "does not parse"),
        ("```go\nfunc add(a int, b int) int {\n\tif a > 0 {\n", "go", "does not parse"),
        ("int add(int a, int b) {\n    return a +", "c", "does not parse"),
        ("```c\nstd::vector<int> f() { return {}; }\n```", "c", "does not parse"),
        ("```python\nprint(1 + 2)\n```", "python", "no function"),
        ("```go\npackage main\n```", "go", "no function"),
        ("```cpp\n" + CODE["c"] + "\n```", "cpp", "unchanged"),
    ],
)
def test_bad_answers_have_a_reason(answer, language, reason):
    with pytest.raises(NoCodeError, match=f"^{reason}$"):
        read_answer(answer, language, source=CODE["c"])


@given(st.text(alphabet="`~abc \n{}();#=", max_size=120), st.sampled_from(TARGETS))
def test_any_answer_gives_code_that_parses_or_a_reason(answer, language):
    try:
        assert parses(read_answer(answer, language), language)
    except NoCodeError as reason:
        assert str(reason) in ("no code", "other language", "does not parse", "no function", "unchanged")


@given(st.lists(st.text(alphabet="ab `\n", max_size=20).filter(lambda t: "```" not in t), max_size=4))
def test_blocks_are_those_that_were_fenced(texts):
    answer = "\n".join(f"prose\n```\n{text}\n```" for text in texts)
    assert [block.text for block in fenced_blocks(answer)] == [f"\n{text}\n" for text in texts]
