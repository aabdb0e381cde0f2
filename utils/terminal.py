"""Text of others on a terminal, where some characters do more than to be seen, and others cannot be seen."""

import re

#: Letters and marks that show nothing: fillers, variation selectors, joiners. Python counts them as printable.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)


def printable(text: str) -> str:
    r"""Return a text in which control, bidirectional and invisible characters are escapes, such as `\u202e`.

    So no text moves the cursor, hides a part of itself, or shows code in another order than it runs.
    """
    if text.isprintable() and (text.isascii() or not _INVISIBLE.search(text)):
        return text
    return "".join(
        character if character.isprintable() and not _INVISIBLE.match(character) else _escape(character)
        for character in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
