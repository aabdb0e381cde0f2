"""The parts of what stands before a body or a semicolon in C and C++: names, calls, brackets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mose.data.source.macros.tokens import WORD, Token, is_macro

CLASS_WORDS = frozenset(b"struct union class enum".split())
ELABORATED = CLASS_WORDS | {b"typename"}
PRIMITIVES = frozenset(b"void char short int long float double signed unsigned bool _Bool auto wchar_t".split())
#: Keywords that begin a declaration.
STARTERS = CLASS_WORDS | frozenset(
    b"""static extern inline constexpr consteval constinit typedef virtual explicit friend mutable template
    namespace using export public private protected""".split()
)
SPECIFIERS = STARTERS | frozenset(
    b"""const volatile register thread_local _Thread_local _Noreturn __inline __inline__ __forceinline __restrict
    restrict __const operator requires concept final override noexcept throw try default delete __extension__
    """.split()
)
CONTROL = frozenset(b"if else for while do switch case return goto break continue catch sizeof".split())
KEYWORDS = PRIMITIVES | ELABORATED | SPECIFIERS | CONTROL
#: What the grammars understand with parentheses after it.
_KNOWN_CALLS = frozenset(
    b"""__attribute__ __attribute __declspec alignas _Alignas noexcept throw decltype __decltype typeof __typeof__
    __typeof asm __asm __asm__ explicit requires static_assert _Static_assert""".split()
)
#: Types that are written like macros.
_TYPES_IN_CAPITALS = frozenset(
    b"""BOOL BYTE CHAR DWORD FARPROC FILE HANDLE HINSTANCE HMODULE HRESULT HWND INT INT_PTR LONG LONGLONG LPARAM
    LPCSTR LPCWSTR LPSTR LPVOID LPWSTR LRESULT NTSTATUS PVOID SIZE_T SOCKET TCHAR UCHAR UINT ULONG ULONGLONG
    USHORT U8 U16 U32 U64 S8 S16 S32 S64 VOID WCHAR WORD WPARAM""".split()
)
#: An angle bracket without an end within so many tokens compares numbers.
_LONGEST_ARGUMENTS = 300

NAME, CALL, GROUP, OTHER = "name", "call", "group", "other"


@dataclass(frozen=True, slots=True)
class Item:
    """A part of a head: a qualified name, a name with parentheses, brackets on their own, or another token.

    Attributes:
        kind: one of the constants above.
        first: position of its first token.
        last: position of its last token.
        text: the name without template arguments; the token of any other.
        plain: it is a single word, so it can be a macro.
        opening: position of the bracket that a call or group ends with.
    """

    kind: str
    first: int
    last: int
    text: bytes
    plain: bool = False
    opening: int = -1


class ItemReader:
    """Reads the items of heads.

    Args:
        tokens: the tokens of the text.
        closings: position of each opening bracket -> that of its closing one.
    """

    def __init__(self, tokens: Sequence[Token], closings: Mapping[int, int]):
        self.tokens, self.closings = tokens, closings

    def read(self, first: int, end: int) -> list[Item]:
        """Return the items of the tokens from `first` to `end`, exclusive."""
        items = []
        while first < end:
            item = self._read_item(first, end)
            items.append(item)
            first = item.last + 1
        return items

    def _read_item(self, first: int, end: int) -> Item:
        token = self.tokens[first]
        if token.text in (b"(", b"[", b"{") and self._closes(first, end):
            return Item(GROUP, first, self.closings[first], token.text, opening=first)
        if token.text in _KNOWN_CALLS and self._closes(first + 1, end):
            return Item(OTHER, first, self.closings[first + 1], token.text)
        if token.kind != WORD and token.text not in (b"::", b"~"):
            return Item(OTHER, first, first, token.text)
        if token.text in KEYWORDS and token.text != b"operator":
            return Item(OTHER, first, first, token.text)

        position, name, plain = self._read_name(first, end)
        if position < end and self.tokens[position].text == b"(" and self._closes(position, end):
            return Item(CALL, first, self.closings[position], name, plain, position)
        return Item(NAME, first, position - 1, name, plain)

    def _closes(self, opening: int, end: int) -> bool:
        return self.closings.get(opening, end) < end

    def _read_name(self, position: int, end: int) -> tuple[int, bytes, bool]:
        """Return the position after a qualified name, its text, and whether it is a single word."""
        words: list[bytes] = []
        plain = True
        while position < end:
            text = self.tokens[position].text
            words.append(text)
            if text == b"operator":
                return self._after_operator(position + 1, end), b"".join(words), False

            position += 1
            if text in (b"::", b"~"):
                plain = False
                continue
            if position < end and self.tokens[position].text == b"<":
                after = self._after_arguments(position, end)
                plain, position = plain and after == position, after
            if position >= end or self.tokens[position].text not in (b"::", b"~"):
                break
        return position, b"".join(words), plain

    def _after_operator(self, position: int, end: int) -> int:
        """Return the position of an operator's parameters."""
        if position + 1 < end and self.tokens[position].text == b"(" and self.tokens[position + 1].text == b")":
            position += 2
        while position < end and self.tokens[position].text != b"(":
            position += 1
        return position

    def _after_arguments(self, first: int, end: int) -> int:
        """Return the position after template arguments, or `first` if there are none."""
        depth, position = 0, first
        while position < min(end, first + _LONGEST_ARGUMENTS):
            text = self.tokens[position].text
            depth += (text == b"<") - (text == b">")
            position = self.closings.get(position, position) + 1
            if depth == 0:
                return position
            if text in (b";", b"{", b"}"):
                break
        return first


def find_function(items: Sequence[Item]) -> int | None:
    """Return the index of the item that names the function in a head, or None if it is no function's."""
    end = next((index for index, item in enumerate(items) if item.text in (b":", b"=", b"->")), len(items))
    calls = [index for index in range(end) if items[index].kind == CALL]
    named = [index for index in calls if not is_macro(items[index].text)]
    if named:
        # A macro around the return type comes first, and one after the parameters is written like a macro.
        return named[-1]
    typed = [index for index in calls if index and items[index - 1].kind in (NAME, OTHER)]
    typed = [index for index in typed if items[index - 1].text not in (b">", b")", b"]")]
    return next(iter(typed + calls[-1:]), None)


def find_class(items: Sequence[Item]) -> int | None:
    """Return the index of `class`, `struct`, `union` or `enum` in the head of one; None in any other head."""
    depth = 0
    for index, item in enumerate(items):
        depth += (item.text == b"<") - (item.text == b">")
        if item.text in CLASS_WORDS and depth == 0:
            end = next((end for end in range(index, len(items)) if items[end].text == b":"), len(items))
            last = items[end - 1]
            ends_name = last.kind == NAME or last.text in CLASS_WORDS | {b"final", b">"}
            return index if ends_name else None
    return None


def after_template(items: Sequence[Item]) -> Sequence[Item]:
    """Return a head without `template <…>` in front."""
    start = 0
    while start < len(items) and items[start].text == b"template":
        depth = 0
        for index in range(start, len(items)):
            depth += (items[index].text == b"<") - (items[index].text == b">")
            if items[index].text == b">" and depth == 0:
                start = index + 1
                break
        else:
            return ()
    return items[start:]


def type_among(names: Sequence[Item]) -> Item | None:
    """Return which of the names before another is a type: the last that is not written like a macro."""
    ordinary = [item for item in names if item.kind == NAME and not is_macro(item.text)]
    capitals = [item for item in names if item.text in _TYPES_IN_CAPITALS]
    calls = [item for item in names if item.kind == CALL]
    return next((choice[-1] for choice in (ordinary, capitals, calls, names) if choice), None)
