"""Mask the macros in the heads of functions, classes and namespaces of C and C++."""

from collections.abc import Sequence

from mose.data.source.macros.items import (
    CALL,
    ELABORATED,
    GROUP,
    NAME,
    OTHER,
    PRIMITIVES,
    SPECIFIERS,
    STARTERS,
    Item,
    ItemReader,
    find_function,
    type_among,
)
from mose.data.source.macros.tokens import ANNOTATION, WORD, Mask, is_macro

_OPERATOR_WORDS = frozenset([b"new", b"delete", b"co_await"])
_AFTER_PARAMETERS = SPECIFIERS | {b"&", b"->", b"*"}
_END_OF_SIGNATURE = frozenset([b"->", b":", b"=", b"requires"])
_TYPE_WORDS = PRIMITIVES | {b"decltype", b"typeof", b"__typeof__"}


class HeadMasker:
    """Masks the macros in heads.

    Args:
        reader: reads the items of the text.
        mask: where to write.
        language: "c" or "cpp".
    """

    def __init__(self, reader: ItemReader, mask: Mask, language: str):
        self.reader, self.tokens, self.mask, self.language = reader, reader.tokens, mask, language

    def blank(self, item: Item) -> None:
        """Mask an item."""
        self.mask.blank(self.tokens[item.first].start, self.tokens[item.last].end)

    def mask_prefix(self, items: Sequence[Item]) -> Sequence[Item]:
        """Mask the macros before the first keyword of a declaration, and return the items after them."""
        end = 0
        while end < len(items) and items[end].plain and (items[end].kind == CALL or is_macro(items[end].text)):
            end += 1
        if end == len(items) or items[end].text not in STARTERS:
            return items

        for item in items[:end]:
            self.blank(item)
        return items[end:]

    def mask_class(self, items: Sequence[Item], word: int) -> bytes:
        """Mask the macros in the head of a class, and return its name; `word` is the index of `class`."""
        end = next((index for index in range(word, len(items)) if items[index].text == b":"), len(items))
        for item in items[:word]:
            if item.plain and (item.kind == CALL or is_macro(item.text)):
                self.blank(item)

        names = [item for item in items[word + 1 : end] if item.kind in (NAME, CALL)]
        for item in names[:-1]:
            self.blank(item)
        return names[-1].text if names else b""

    def mask_namespace(self, items: Sequence[Item]) -> None:
        """Mask the macros between `namespace` and the name."""
        names = [item for item in items if item.kind in (NAME, CALL)]
        for item in names:
            if item.kind == CALL or item is not names[-1] and is_macro(item.text):
                self.blank(item)

    def mask_function(self, items: Sequence[Item], owner: bytes, defined: bool) -> None:
        """Mask the macros in the head of a function.

        Args:
            items: the head, without `template <…>`.
            owner: name of the class around it, whose constructors have no type.
            defined: it has a body.
        """
        index = find_function(items)
        if index is None:
            return
        function, before, after = items[index], items[:index], items[index + 1 :]
        if not defined and is_macro(function.text):
            if not before:
                self._mask_arguments(function, owner)
                return
            if _is_variable(before):
                self.blank(function)
                return

        self._mask_names(before, self._has_no_type(function, owner))
        self._mask_parameters(function.opening)
        if after and after[0].text == b"(":  # the parameters of `int (f)(int a)`
            self._mask_parameters(after[0].opening)
        self._mask_suffix(after, defined)
        if defined and not any(item.kind in (NAME, OTHER) or self._wraps_type(item) for item in before):
            self._mask_arguments(function, owner)

    def _mask_suffix(self, items: Sequence[Item], defined: bool) -> None:
        """Mask the macros after a function's parameters. What follows a declaration is one if written so."""
        if any(item.text == b";" for item in items):  # declarations of old-style parameters
            self.mask.blank(self.tokens[items[0].first].start, self.tokens[items[-1].last].end)
            return
        for item in items:
            if item.text in _END_OF_SIGNATURE:
                break
            unknown = item.kind == CALL or item.kind == NAME and item.text not in _AFTER_PARAMETERS
            if unknown and (defined or is_macro(item.text)):
                self.blank(item)

    def _mask_arguments(self, function: Item, owner: bytes) -> None:
        """Mask the arguments of a macro that stands for a signature, such as `TEST(suite, name)`."""
        opening, closing = self.tokens[function.opening], self.tokens[function.last]
        if self.language == "c":
            # The grammar of C needs a type and a declarator: the name becomes the type.
            self.mask.blank(opening.start, closing.end, b" v")
        elif is_macro(function.text) and function.text != owner:
            self.mask.blank(opening.end, closing.start)

    def _has_no_type(self, function: Item, owner: bytes) -> bool:
        """Return True for a constructor, a destructor or a conversion."""
        *scopes, name = function.text.split(b"::")
        if name in (owner, *scopes[-1:]) or b"~" in function.text:
            return True
        if name != b"operator":
            return False
        words = [self.tokens[position] for position in range(function.first, function.opening)]
        operator = max(index for index, token in enumerate(words) if token.text == b"operator")
        following = words[operator + 1 : operator + 2]
        return any(token.kind == WORD and token.text not in _OPERATOR_WORDS for token in following)

    def _mask_names(self, items: Sequence[Item], has_type: bool = False) -> None:
        """Mask the names in front of another, except that of its type, which ends before `*` and `&`."""
        names: list[Item] = []
        for index, item in enumerate(items):
            if item.text in (b"*", b"&") or item.text.endswith(b"::"):  # `C::*`, a pointer to a member
                self._mask_all_but_type(names, has_type)
                names, has_type = [], True
            elif item.kind == OTHER:
                has_type = has_type or item.text in _TYPE_WORDS
            elif item.kind in (NAME, CALL) and index and items[index - 1].text in ELABORATED:
                has_type = True
            elif item.kind in (NAME, CALL):
                names.append(item)
        self._mask_all_but_type(names, has_type)

    def _mask_all_but_type(self, names: Sequence[Item], has_type: bool) -> None:
        type_item = None if has_type else type_among(names)
        for item in names:
            if item.kind == CALL:
                self._unwrap(item, type_item is item)
            elif item is not type_item and item.plain:
                self.blank(item)

    def _unwrap(self, item: Item, is_type: bool) -> None:
        """Mask a macro with arguments; if it is the type, as in `PyAPI_FUNC(int)`, its arguments stay."""
        if is_type and self._wraps_type(item):
            self.mask.blank(self.tokens[item.first].start, self.tokens[item.opening].end)
            self.mask.blank(self.tokens[item.last].start, self.tokens[item.last].end)
        else:
            self.blank(item)

    def _wraps_type(self, item: Item) -> bool:
        inner = self.tokens[item.opening + 1 : item.last] if item.kind == CALL else []
        return bool(inner) and all(token.kind == WORD or token.text == b"*" for token in inner)

    def _mask_parameters(self, opening: int) -> None:
        """Mask the macros in each parameter between parentheses."""
        items = self.reader.read(opening + 1, self.reader.closings[opening])
        start = 0
        for index in range(len(items) + 1):
            if index == len(items) or items[index].text == b",":
                self._mask_parameter(items[start:index])
                start = index + 1

    def _mask_parameter(self, items: Sequence[Item]) -> None:
        """Mask the macros beside the type and the name of a parameter."""
        end = next((index for index, item in enumerate(items) if item.text == b"="), len(items))
        if any(item.kind == GROUP and item.text == b"(" for item in items[:end]):
            return  # a function's type, such as `T (*f)(int)`

        annotations = [item for item in items[:end] if item.plain and ANNOTATION.fullmatch(item.text)]
        for item in annotations:
            self.blank(item)
        words = [item for item in items[:end] if item not in annotations]
        star = max((index for index, item in enumerate(words) if item.text in (b"*", b"&")), default=-1)
        names = [index for index, item in enumerate(words) if item.kind in (NAME, CALL) and index > star]
        self._mask_names(words[: names[-1]] if names else words)


def _is_variable(items: Sequence[Item]) -> bool:
    """Return True if items end with a type and a name, so that what follows annotates a variable."""
    words = [item for item in items if item.kind == NAME or item.text in PRIMITIVES]
    last = items[-1]
    return len(words) > 1 and last is words[-1] and last.kind == NAME and not is_macro(last.text)
