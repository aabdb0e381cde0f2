"""Decode source files: byte order marks, declared encodings, UTF-8, and what a detector takes the bytes for."""

import codecs
import re
from typing import NamedTuple


class Decoded(NamedTuple):
    """The text of a file."""

    text: str  # lines end with \n; it can always be encoded in UTF-8
    encoding: str  # Python's name of the encoding it was decoded from


class UndecodableError(ValueError):
    """Bytes that are not text in any encoding."""


#: Longest marks first: the mark of UTF-32-LE begins with that of UTF-16-LE.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
#: A declaration stands in the first lines, or in the last ones as a modeline of Vim.
_DECLARATION_BYTES, _DECLARATION_LINES, _MODELINES = 4096, 2, 5
_NAME = rb"""[ \t]*["']?([A-Za-z][-\w.:]*)"""
#: Python, Ruby and Emacs, in a comment of the first two lines.
_CODING = re.compile(rb"^[ \t\f]*(?:#|//|/\*|--|;|%|<!--|\*)[^\n]*?coding[:=]" + _NAME, re.MULTILINE)
_MODELINE = re.compile(rb"\b(?:vim?|ex):[^\n]*?\b(?:fileencoding|fenc)=" + _NAME)
#: Declarations of a document that the file may only produce: they count if the bytes are not UTF-8.
_WEAK = re.compile(rb"(?i)(?:\bencoding|\bcharset)[ \t]*=" + _NAME)
_END_OF_LINE_SUFFIX = re.compile(r"-(?:unix|dos|mac)$")
#: Python's codecs that are no encodings of files.
_NO_CHARSETS = frozenset({"idna", "punycode", "raw-unicode-escape", "undefined", "unicode-escape"})
#: Encodings -> supersets that editors write under the same name.
_SUPERSETS = {
    "shift_jis": ("cp932", "shift_jis_2004"),
    "euc_jp": ("euc_jis_2004",),
    "gb2312": ("gbk", "gb18030"),
    "gbk": ("gb18030",),
    "big5": ("big5hkscs",),
    "euc_kr": ("cp949",),
    "ascii": (),
}
_ALIASES = {"iso-latin-1": "latin-1", "x-sjis": "cp932", "ms932": "cp932", "windows-31j": "cp932"}
#: Encodings that the detector chooses from. If several fit equally well, the first counts.
_DETECTED = (
    *("euc_jp", "cp932", "cp949", "gb18030", "big5", "cp1251", "koi8_r", "cp1250", "cp1252", "cp1253", "cp1255"),
    *("cp1256", "cp866", "mac_roman"),
)
#: Bytes that the detector looks at. It is slow on long texts, and no better.
_SAMPLE_BYTES = 16_384
_NON_ASCII_LINE = re.compile(rb"[^\r\n]*[\x80-\xff][^\r\n]*")
_KANA = re.compile("[\u3040-\u30ff]")
_HALF_WIDTH_KANA = re.compile("[\uff61-\uff9f]")
_HANGUL = re.compile("[\uac00-\ud7a3]")
_NON_ASCII = re.compile("[^\0-\x7f]")
#: What Western text in cp1252 lacks: long runs of accented letters, symbols inside words, capitals after small
#: letters, and control characters.
_NOT_WESTERN = re.compile(
    "[\xc0-\xff\x8a\x8c\u0160-\u0178]{4}|[a-z\xdf-\xff][^\\W\\d_a-z\xaa\xb5\xba\xdf-\xff\u0153\u0161\u017eA-Z]"
    "|[^\\W\\d_][\u201a\u201e\u2026\u2020\u2021\u02c6\u2030\u2039\xa1-\xa8\xac-\xaf\xb1-\xb4\xb6\xb8\xb9\xbb-\xbf]"
    "+[^\\W\\d_]|[\x80-\x9f]"
)
#: Control characters that no text has.
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")


def decode_source(data: bytes) -> Decoded:
    r"""Return the text of a source file.

    A byte order mark decides; else the encoding that the file declares (PEP 263, Emacs, Vim, Ruby); else UTF-8;
    else what a detector takes the bytes for. A declaration that cannot be true is passed over. `\r\n` and `\r`
    become `\n`.

    Raises:
        UndecodableError: the bytes are no text.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            text = _decode(data.removeprefix(mark), encoding)
            if text is not None and "\0" not in text:
                return Decoded(_with_unix_lines(text), encoding)

    if b"\0" in data:
        return _decode_wide(data)

    may_declare = any(word in part for word in (b"coding", b"fenc") for part in _ends(data))
    for encoding in _declared(data, _CODING, _MODELINE) if may_declare else ():
        if (text := _decode_declared(data, encoding)) is not None:
            return Decoded(_with_unix_lines(text), encoding)

    if (text := _decode(data, "utf-8")) is not None:
        return Decoded(_with_unix_lines(text.removeprefix("\ufeff")), "utf-8")

    fitting = [name for name in _declared(data, _WEAK) if _decode(data, name) is not None]
    encoding = fitting[0] if fitting else _detected(data)
    text = _decode(data, encoding)
    if text is None:  # the detector saw a part of the file
        encoding, text = "latin-1", data.decode("latin-1")
    return Decoded(_with_unix_lines(text), codecs.lookup(encoding).name)


def _with_unix_lines(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def _decode(data: bytes, encoding: str) -> str | None:
    """Return the text, or None if the bytes are not in the encoding, or there is no such encoding."""
    try:
        text = data.decode(encoding)
        # Some codecs give lone surrogates, which no other program could store.
        if encoding != "utf-8":
            text.encode()
    except (LookupError, ValueError):
        return None
    return text


def _ends(data: bytes) -> tuple[bytes, bytes]:
    return data[:_DECLARATION_BYTES], data[-_DECLARATION_BYTES:]


def _declared(data: bytes, *patterns: re.Pattern[bytes]) -> list[str]:
    """Return Python's names of the encodings that a file declares, and supersets that may be meant by them."""
    head, tail = (part.replace(b"\r\n", b"\n").replace(b"\r", b"\n") for part in _ends(data))
    first_lines = b"\n".join(head.split(b"\n", _DECLARATION_LINES)[:_DECLARATION_LINES])
    places = {
        _CODING: first_lines,
        _MODELINE: b"\n".join([*head.split(b"\n")[:_MODELINES], *tail.split(b"\n")[-_MODELINES - 1 :]]),
        _WEAK: head,
    }

    names: list[str] = []
    for pattern in patterns:
        match = pattern.search(places[pattern])
        if match is None:
            continue
        name = _END_OF_LINE_SUFFIX.sub("", match[1].decode("ascii", "ignore").lower())
        try:
            name = codecs.lookup(_ALIASES.get(name, name)).name
        except (LookupError, ValueError):
            continue
        if name not in _NO_CHARSETS:
            names += [name, *_SUPERSETS.get(name, ())]
    return names


def _decode_declared(data: bytes, encoding: str) -> str | None:
    """Return the text in a declared encoding, or None if it would not show the declaration any more."""
    text = _decode(data, encoding)
    if text is None:
        return None

    # The declaration was read as ASCII, so a file that declares UTF-16 or EBCDIC that way is in neither.
    head = re.match(rb"[\t\n\r\f\x20-\x7e]*", data[:_DECLARATION_BYTES])
    ascii_head = head[0].decode("ascii") if head else ""
    if encoding in ("utf-7", "hz") or encoding.startswith("iso2022"):
        ascii_head = ascii_head[:1]
    return text if text.startswith(ascii_head) else None


def _decode_wide(data: bytes) -> Decoded:
    """Decode UTF-16 or UTF-32 without a mark. Other bytes with a NUL are binary."""
    import charset_normalizer  # takes 0.1 s, and most trees never need it

    sample = data[: _SAMPLE_BYTES // 4 * 4]
    match = charset_normalizer.from_bytes(sample).best()
    encoding = match.encoding if match else ""
    if encoding in ("utf_16_le", "utf_16_be", "utf_32_le", "utf_32_be"):
        text = _decode(data, encoding)
        # Source code is mostly ASCII. Bytes of other files look like rare Chinese characters.
        if text is not None and "\0" not in text and 2 * len(_NON_ASCII.findall(text)) <= len(text):
            return Decoded(_with_unix_lines(text), encoding.replace("_", "-"))
    raise UndecodableError("a NUL byte")


def _detected(data: bytes) -> str:
    """Return the encoding of bytes that are not UTF-8.

    Raises:
        UndecodableError: too many control characters.
    """
    # Lines in ASCII look alike in every encoding.
    sample = bytearray()
    for match in _NON_ASCII_LINE.finditer(data):
        sample += match[0][: _SAMPLE_BYTES - len(sample)] + b"\n"
        if len(sample) >= _SAMPLE_BYTES:
            break

    controls = len(_CONTROL.findall(data[:_SAMPLE_BYTES]))
    if controls > 0.02 * len(data[:_SAMPLE_BYTES]):
        raise UndecodableError(f"{controls} control characters in its first {_SAMPLE_BYTES:,} bytes")
    western = bytes(sample).decode("cp1252", "replace")
    if "\ufffd" not in western and not _NOT_WESTERN.search(western):
        return "cp1252"

    import charset_normalizer  # takes 0.1 s, and most trees never need it

    matches = charset_normalizer.from_bytes(bytes(sample), cp_isolation=list(_DETECTED))
    chaos = {name: match.chaos for match in matches for name in match.could_be_from_charset}
    lowest = min(chaos.values(), default=0)
    fitting = [name for name in _DETECTED if chaos.get(name) == lowest and _is_plausible(name, bytes(sample))]
    return fitting[0] if fitting else "latin-1"


def _is_plausible(encoding: str, sample: bytes) -> bool:
    """Return whether a text has the characters that are usual in the languages written in an encoding."""
    text = sample.decode(encoding, "ignore")
    characters = max(1, len(_NON_ASCII.findall(text)))
    if encoding in ("euc_jp", "cp932"):
        return bool(_KANA.search(text)) and len(_HALF_WIDTH_KANA.findall(text)) < 0.2 * characters
    if encoding == "cp949":
        return len(_HANGUL.findall(text)) > 0.8 * characters
    return True
