import codecs
import random
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mose.data.source.decoding import UndecodableError, decode_source

#: Python's names of encodings in which ASCII is itself -> a text in each.
TEXTS = {
    "latin-1": "déjà vu, Größe ×2",
    "cp1252": "“quoted” – 5 €",
    "iso8859-15": "l'œil à 5 €",
    "cp1250": "Zażółć gęślą jaźń",
    "iso8859-2": "Příliš žluťoučký kůň",
    "cp1251": "Запусти это всё сейчас",
    "koi8-r": "Запусти это всё сейчас",
    "cp1253": "Αυτό είναι ένα σχόλιο",
    "cp437": "déjà vu ░",
    "mac-roman": "déjà vu…",
    "shift_jis": "日本語のコメントです",
    "euc_jp": "関数の説明です",
    "iso2022_jp": "関数の説明です",
    "gb18030": "返回用户的名字和年龄",
    "gbk": "这是一个中文注释",
    "big5": "傳回使用者的名字與年齡",
    "cp949": "사용자의 이름을 돌려준다",
    "hz": "这是一个中文注释",
}
DECLARATIONS = (
    "# -*- coding: {} -*-\n",
    "#!/usr/bin/python\n# coding={}\n",
    "# encoding: {}\n",
    "// -*- mode: c++; coding: {}-unix -*-\n",
    "/* vim: set fileencoding={} : */\n",
    "\n\n# vim: set ts=4 fenc={}:\n",
    "<!-- -*- encoding: {} -*- -->\n",
)
CHARACTERS = st.characters(exclude_categories=["Cs"], exclude_characters="\0")


@pytest.mark.parametrize("declaration", DECLARATIONS)
@pytest.mark.parametrize("encoding", TEXTS)
def test_a_declared_encoding_is_believed(encoding, declaration):
    text = declaration.format(encoding) + f"x = '{TEXTS[encoding]}'\n"
    decoded = decode_source(text.encode(encoding))
    assert decoded.text == text
    assert decoded.encoding == codecs.lookup(encoding).name


def test_a_modeline_may_be_the_last_line():
    text = "\n".join([*["x = 'é'"] * 2000, "# vim: fileencoding=latin-1", ""])
    assert decode_source(text.encode("latin-1")) == (text, "iso8859-1")


@settings(max_examples=200, deadline=None)
@given(
    text=st.text(CHARACTERS, max_size=200),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32", *TEXTS]),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
)
@example("x = 'Ã©'", "latin-1", "\r")
def test_any_text_comes_back(text, encoding, line_end):
    """With a mark or a declaration, whatever the text."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    known = [line.encode(encoding, "ignore").decode(encoding) for line in lines]
    if not encoding.startswith("utf-"):
        # A codec may give another character back than it was given; those are left out.
        known = [line for line in known if line.encode(encoding).decode(encoding) == line]
        known = [f"# coding: {encoding}", *known]
    expected = "\n".join(known)
    decoded = decode_source(line_end.join(known).encode(encoding))
    assert decoded.text == expected.removeprefix("\ufeff") or decoded.text == expected


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=300)
    | st.builds(lambda a, b: a + b, st.sampled_from([b"# coding: ", b"\xff\xfe"]), st.binary())
)
def test_random_bytes_are_text_or_not_and_never_a_crash(data):
    try:
        text, encoding = decode_source(data)
    except UndecodableError:
        return
    assert "\r" not in text and "\0" not in text
    assert text.encode().decode() == text
    codecs.lookup(encoding)


@pytest.mark.parametrize("encoding", [*(name for name in TEXTS if name not in ("hz", "iso2022_jp", "cp437"))])
def test_an_undeclared_encoding_is_detected(encoding):
    # Six languages of Europe in the encodings that their editors wrote by default, and those of East Asia.
    if encoding in ("iso8859-15", "iso8859-2", "mac-roman"):
        pytest.skip("differs from its cousin in few characters")
    text = "import os\n\n\ndef run(value):\n    return value\n" * 50 + f"# {TEXTS[encoding]}\n"
    assert decode_source(text.encode(encoding)).text == text


@pytest.mark.parametrize(
    "word", ["café", "señor año", "naïve", "Müller", "20°C ± 5 µm", "© 2001 José", "Ærø", "it’s"]
)
def test_short_western_words_are_detected(word):
    assert decode_source(f"# {word}\n".encode("cp1252")) == (f"# {word}\n", "cp1252")


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
def test_wide_encodings_without_a_mark(encoding):
    text = "def run(value):\n    # caf\u00e9\n    return value + 1\n"
    assert decode_source(text.encode(encoding)) == (text, encoding)


@pytest.mark.parametrize(
    "data",
    [
        b"a = 1\0",
        b"\x7fELF\x02\x01\x01" + bytes(40),
        b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
        bytes(range(256)) * 20,
        random.Random(0).randbytes(5000).replace(b"\0", b"\1"),
        bytes(3000),
    ],
)
def test_binary_files_are_told_apart(data):
    with pytest.raises(UndecodableError):
        decode_source(data)


@pytest.mark.parametrize(
    "declaration",
    ["utf-16", "cp037", "rot13", "hex", "unicode_escape", "punycode", "undefined", "nonsense", "idna"],
)
def test_a_declaration_that_cannot_be_true_is_passed_over(declaration):
    text = f"# coding: {declaration}\nx = 'é'  # \\ud800\n"
    assert decode_source(text.encode()) == (text, "utf-8")


def test_a_declaration_of_what_a_program_writes_counts_only_if_it_is_not_utf8():
    text = "<?php\nheader('Content-Type: text/html; charset=iso-8859-2');\n# Příliš žluťoučký kůň\n"
    assert decode_source(text.encode("iso-8859-2")) == (text, "iso8859-2")
    assert decode_source(text.encode()) == (text, "utf-8")


def test_detection_takes_linear_time():
    data = ("# " + TEXTS["koi8-r"] + "\n").encode("koi8-r") * 150_000 + b"x" * 3_000_000
    start = time.process_time()
    assert decode_source(data).encoding == "koi8-r"
    assert time.process_time() - start < 3
