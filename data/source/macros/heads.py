"""Macros in what stands before a body or a semicolon: the heads of functions, classes and namespaces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mose.data.source.macros.tokens import ANNOTATION, LITERAL, WORD, Mask, Token, is_macro

#: Types that are written like macros.
_TYPES_IN_CAPITALS = frozenset(
    b"""BOOL BYTE CHAR DWORD FARPROC FILE HANDLE HINSTANCE HMODULE HRESULT HWND INT INT_PTR LONG LONGLONG LPARAM
    LPCSTR LPCWSTR LPSTR LPVOID LPWSTR LRESULT NTSTATUS PVOID SIZE_T SOCKET TCHAR UCHAR UINT ULONG ULONGLONG USHORT
    U8 U16 U32 U64 S8 S16 S32 S64 VOID WCHAR WORD WPARAM""".split()
)
_PRIMITIVES = frozenset(b"void char short int long float double signed unsigned bool _Bool auto wchar_t".split())
_ELABORATED = frozenset(b"struct union enum class typename".split())
CLASS_WORDS = frozenset(b"struct union class enum".split())
_SPECIFIERS = frozenset(
    b"""static extern inline const constexpr consteval constinit volatile register typedef virtual explicit friend
    mutable thread_local _Thread_local _Noreturn __inline __inline__ __forceinline __restrict restrict __const
    template namespace using export operator requires concept final override noexcept throw try default delete
    __extension__""".split()
)
#: Keywords that begin a declaration.
_STARTERS = CLASS_WORDS | frozenset(
    b"static extern inline constexpr consteval constinit typedef virtual explicit friend mutable template namespace "
    b"using export public private protected".split()
)
_CALLS_THAT_STAY = frozenset(
    b"""__attribute__ __attribute __declspec alignas _Alignas noexcept throw decltype __decltype typeof __typeof__
    __typeof asm __asm __asm__ explicit requires static_assert _Static_assert""".split()
)
_CONTROL = frozenset(b"if else for while do switch case return goto break continue catch sizeof".split())
KEYWORDS = _PRIMITIVES | _ELABORATED | _SPECIFIERS | _CONTROL
_AFTER_PARAMETERS = _SPECIFIERS | frozenset([b"&", b"->", b"*"])
#: An angle bracket without an end within so many tokens compares numbers.
_LONGEST_ARGUMENTS = 300

NAME, CALL, GROUP, OTHER = "name", "call", "group", "other"


@dataclass(frozen=True, slots=True)
class Item:
    """A part of a head: a qualified name, a name with parentheses, brackets on their own, or another token.

    Attributes:
        kind: one of the constants above.
        first, last: positions of its first and last token.
        text: the name without template arguments; the token of any other.
        plain: it is a single word, so it can be a macro.
        opening: position of the bracket that it ends with, for a call or group.
    """

    kind: str
    first: int
    last: int
    text: bytes
    plain: bool = False
    opening: int = -1


def read_items(tokens: Sequence[Token], closings: Mapping[int, int], first: int, end: int) -> list[Item]:
    """Return the items of the tokens from `first` to `end`, exclusive."""
    items = []
    while first < end:
        item = _read_item(tokens, closings, first, end)
        items.append(item)
        first = item.last + 1
    return items


def _read_item(tokens: Sequence[Token], closings: Mapping[int, int], first: int, end: int) -> Item:
    token = tokens[first]
    if token.text in (b"(", b"[", b"{") and closings.get(first, end) < end:
        return Item(GROUP, first, closings[first], token.text, opening=first)
    if token.text in _CALLS_THAT_STAY and closings.get(first + 1, end) < end:
        return Item(OTHER, first, closings[first + 1], token.text)
    starts_name = token.kind == WORD or token.text in (b"::", b"~")
    if not starts_name or token.text in KEYWORDS and token.text != b"operator":
        return Item(OTHER, first, first, token.text)

    position, words, plain = first, [], True
    while position < end:
        text = tokens[position].text
        if text == b"operator":
            position, plain = _after_operator(tokens, position, end), False
            words.append(b"operator")
            break
        words.append(text)
        position += 1
        if text in (b"::", b"~"):
            plain = False
            continue
        if position < end and tokens[position].text == b"<":
            after = _after_arguments(tokens, closings, position, end)
            plain, position = plain and after == position, after
        if position >= end or tokens[position].text not in (b"::", b"~"):
            break

    name = b"".join(words)
    if position < end and tokens[position].text == b"(" and closings.get(position, end) < end:
        return Item(CALL, first, closings[position], name, plain, position)
    return Item(NAME, first, position - 1, name, plain)


def _after_operator(tokens: Sequence[Token], position: int, end: int) -> int:
    """Return the position after an operator's name, which is that of its parameters."""
    position += 1
    if position + 1 < end and tokens[position].text == b"(" and tokens[position + 1].text == b")":
        position += 2
    while position < end and tokens[position].text != b"(":
        position += 1
    return position


def _after_arguments(tokens: Sequence[Token], closings: Mapping[int, int], first: int, end: int) -> int:
    """Return the position after template arguments, or `first` if there are none."""
    depth, position = 0, first
    while position < min(end, first + _LONGEST_ARGUMENTS):
        text = tokens[position].text
        depth += (text == b"<") - (text == b">")
        position = closings.get(position, position) + 1
        if depth == 0:
            return position
        if text in (b";", b"{", b"}"):
            break
    return first


def find_function(items: Sequence[Item]) -> int | None:
    """Return the index of the item that names the function in its head, or None if it is no function's."""
    end = next((index for index, item in enumerate(items) if item.text in (b":", b"=", b"->")), len(items))
    calls = [index for index in range(end) if items[index].kind == CALL]
    named = [index for index in calls if not is_macro(items[index].text)]
    if named:
        # A macro around the return type comes first, and one around parameters is written like a macro.
        return named[-1]
    typed = [index for index in calls if index and items[index - 1].text not in (b">", b")", b"]")]
    typed = [index for index in typed if items[index - 1].kind in (NAME, OTHER)]
    if typed:
        return typed[0]
    return calls[-1] if calls else None


class HeadMasker:
    """Masks the macros in heads.

    Attributes:
        tokens: the tokens of the text.
        closings: position of each opening bracket -> that of its closing one.
        mask: where to write.
        language: "c" or "cpp".
    """

    def __init__(self, tokens: list[Token], closings: Mapping[int, int], mask: Mask, language: str):
        self.tokens, self.closings, self.mask, self.language = tokens, closings, mask, language

    def blank(self, item: Item, filler: bytes = b"") -> None:
        self.mask.blank(self.tokens[item.first].start, self.tokens[item.last].end, filler)

    def mask_class(self, items: Sequence[Item]) -> bytes:
        """Mask the macros in the head of a class, struct, union or enum, and return its name."""
        word = next(index for index, item in enumerate(items) if item.text in CLASS_WORDS)
        self._mask_before(items[:word])
        end = next((index for index, item in enumerate(items) if item.text == b":" and index > word), len(items))
        names = [item for item in items[word + 1 : end] if item.kind in (NAME, CALL)]
        while names and names[-1].kind == CALL:
            self.blank(names.pop())
        for item in names[:-1]:
            self.blank(item)
        return names[-1].text if names else b""

    def mask_namespace(self, items: Sequence[Item]) -> None:
        """Mask the macros before `namespace` or `extern`, and those between it and the name."""
        word = next(index for index, item in enumerate(items) if item.text in (b"namespace", b"extern"))
        self._mask_before(items[:word])
        names = [item for item in items[word + 1 :] if item.kind in (NAME, CALL)]
        for item in names:
            if item.kind == CALL or item is not names[-1] and is_macro(item.text):
                self.blank(item)

    def mask_function(self, items: Sequence[Item], owner: bytes, defined: bool) -> None:
        """Mask the macros in the head of a function.

        Args:
            items: the head.
            owner: name of the class around it, whose constructors have no type.
            defined: it has a body; what follows the parameters of a declaration can be an initial value.
        """
        index = find_function(items)
        if index is None:
            return

        function, before = items[index], items[:index]
        if not defined and is_macro(function.text) and (not before or _is_variable(before)):
            self.blank(function)
            return
        self._mask_type(before, function, owner)
        self._mask_parameters(function)
        after = index + 1
        if after < len(items) and items[after].text == b"(":  # parameters of `int (f)(int a)`
            self._mask_group(items[after].opening)
            after += 1
        for item in items[after:]:
            if item.text in (b"->", b":", b"=", b"requires"):
                break
            if item.kind == CALL or item.kind == NAME and item.text not in _AFTER_PARAMETERS:
                if defined or is_macro(item.text):
                    self.blank(item)

        if defined and not any(item.kind in (NAME, OTHER) for item in before):
            opening, closing = self.tokens[function.opening], self.tokens[function.last]
            if self.language == "c":
                # The grammar of C needs a type and a declarator: the name becomes the type.
                self.mask.blank(opening.start, closing.end, b" v")
            elif is_macro(function.text) and function.text != owner:
                self.mask.blank(opening.end, closing.start)

    def mask_prefix(self, items: Sequence[Item]) -> Sequence[Item]:
        """Mask the macros before the first keyword that can begin a declaration, and return the items after them."""
        end = 0
        while end < len(items) and items[end].plain and (items[end].kind == CALL or is_macro(items[end].text)):
            end += 1
        if end == len(items) or items[end].text not in _STARTERS:
            return items
        for item in items[:end]:
            self.blank(item)
        return items[end:]

    def _mask_before(self, items: Sequence[Item]) -> None:
        for item in items:
            if item.plain and (item.kind == CALL or is_macro(item.text)):
                self.blank(item)

    def _mask_names(self, names: Sequence[Item], has_type: bool) -> None:
        """Mask the names in front of another, except that of its type."""
        kept = None if has_type else _type_among(names)
        for item in names:
            if item.kind == CALL:
                self._unwrap(item, kept is item)
            elif item is not kept and item.plain:
                self.blank(item)

    def _mask_type(self, before: list[Item], function: Item, owner: bytes) -> None:
        """Mask the names before a function's own, except that of its type."""
        *scopes, last_word = function.text.split(b"::")
        constructs = last_word in (owner, *scopes[-1:]) or b"~" in function.text
        has_type = constructs or last_word == b"operator" and self._converts(function)
        self._mask_words(before, has_type)

    def _mask_words(self, items: Sequence[Item], has_type: bool = False) -> None:
        """Mask the names in front of another, except that of its type, which ends before `*` and `&`."""
        names: list[Item] = []
        for item, preceding in zip(items, [None, *items], strict=False):
            if item.text in (b"*", b"&") or item.text.endswith(b"::"):  # `C::*`, a pointer to a member
                self._mask_names(names, has_type)
                names, has_type = [], True
            elif item.kind == OTHER:
                has_type = has_type or item.text in _PRIMITIVES | {b"decltype", b"typeof", b"__typeof__"}
            elif item.kind in (NAME, CALL) and preceding is not None and preceding.text in _ELABORATED:
                has_type = True
            elif item.kind in (NAME, CALL):
                names.append(item)
        self._mask_names(names, has_type)

    def _converts(self, function: Item) -> bool:
        """Return True if an operator converts to a type: its name is a word."""
        names = [self.tokens[position] for position in range(function.first, function.opening)]
        return names[-1].kind == WORD and names[-1].text not in (b"new", b"delete", b"operator", b"co_await")

    def _unwrap(self, item: Item, is_type: bool) -> None:
        """Mask a macro with arguments; if it is the type, as in `PyAPI_FUNC(int)`, its arguments stay."""
        inner = self.tokens[item.opening + 1 : item.last]
        if is_type and inner and all(token.kind == WORD or token.text == b"*" for token in inner):
            self.mask.blank(self.tokens[item.first].start, self.tokens[item.opening].end)
            self.mask.blank(self.tokens[item.last].start, self.tokens[item.last].end)
        else:
            self.blank(item)

    def _mask_parameters(self, function: Item) -> None:
        self._mask_group(function.opening)

    def _mask_group(self, opening: int) -> None:
        """Mask the macros in each parameter between parentheses."""
        first, closing = opening + 1, self.closings[opening]
        items = read_items(self.tokens, self.closings, first, closing)
        start = 0
        for index, item in enumerate([*items, None]):
            if item is None or item.text == b",":
                self._mask_parameter(items[start:index])
                start = index + 1

    def _mask_parameter(self, items: Sequence[Item]) -> None:
        """Mask the macros beside the type and the name of a parameter."""
        end = next((index for index, item in enumerate(items) if item.text == b"="), len(items))
        if any(item.kind == GROUP and item.text == b"(" for item in items[:end]):
            return  # a function's type, such as `T (*f)(int)`
        words = [item for item in items[:end] if not self._mask_annotation(item)]
        star = max((index for index, item in enumerate(words) if item.text in (b"*", b"&")), default=-1)
        names = [index for index, item in enumerate(words) if item.kind in (NAME, CALL) and index > star]
        self._mask_words(words[: names[-1]] if names else words)

    def _mask_annotation(self, item: Item) -> bool:
        """Mask an annotation of a parameter, such as `_In_`, and return True if it is one."""
        annotates = item.plain and ANNOTATION.fullmatch(item.text) is not None
        if annotates:
            self.blank(item)
        return annotates


def _type_among(names: Sequence[Item]) -> Item | None:
    """Return which of the names before a function's own is its type: the last not written like a macro."""
    ordinary = [item for item in names if item.kind == NAME and not is_macro(item.text)]
    capitals = [item for item in names if item.text in _TYPES_IN_CAPITALS]
    calls = [item for item in names if item.kind == CALL]
    for choice in (ordinary, capitals, calls, names):
        if choice:
            return choice[-1]
    return None


def _is_variable(items: Sequence[Item]) -> bool:
    """Return True if items end with a type and a name, so that what follows annotates a variable."""
    words = [item for item in items if item.kind == NAME or item.text in _PRIMITIVES]
    return len(words) > 1 and items[-1] is words[-1] and not is_macro(words[-1].text) and items[-1].kind == NAME


def after_template(items: Sequence[Item]) -> Sequence[Item]:
    """Return a head without `template <…>` in front."""
    while items and items[0].text == b"template":
        depth = 0
        for index, item in enumerate(items):
            depth += (item.text == b"<") - (item.text == b">")
            if item.text == b">" and depth == 0:
                items = items[index + 1 :]
                break
        else:
            return ()
    return items


def is_string(token: Token) -> bool:
    """Return True for a string literal."""
    return token.kind == LITERAL and token.text.endswith(b'"')
