"""Clean docstrings and doc comments to plain text, and find the paragraph that describes the function."""

import html
import inspect
import re

_HTML_BREAK = re.compile(r"(?i)</?(?:p|br|pre|ul|ol|li|dl|dt|dd|table|tr|div|h[1-6]|blockquote|hr)\b[^<>]*>")
_HTML_TAG = re.compile(
    r"(?i)</?(?:a|abbr|b|big|code|em|font|i|img|kbd|q|s|samp|small|span|strong|sub|sup|td|th|thead|tbody|tt|u|var"
    r")\b[^<>]*>"
)
_INLINE_TAG = re.compile(r"\{@(\w+)\s*([^{}]*)\}")
_ROLE = re.compile(r":(?:\w+:){1,2}`([^`]*)`|:\w+:`([^`]*)`")
#: gtk-doc's `@argument`, `%NULL` and `#Type`, Doxygen's `\c word`.
_C_MARKUP = re.compile(r"(?<![\w@%#\\])(?:[@%#]|[@\\](?:a|b|c|e|em|p|ref|link)\s+)([A-Za-z_]\w*)")
#: A block tag: `@param`, `\return`, or gtk-doc's `@argument:`.
_TAG = re.compile(r"^\s*[@\\](\w+)(:?)\s*(.*)$")
#: In C and C++ other words after `@` are arguments in running text (gtk-doc).
_DOXYGEN_TAG = re.compile(
    r"(?:param|tparam|return|returns|result|retval|throw|throws|exception|see|sa|since|deprecated|author|"
    r"authors|version|date|note|warning|attention|remark|remarks|pre|post|invariant|todo|bug|file|ingroup|"
    r"defgroup|addtogroup|name|copydoc|code|endcode|verbatim|endverbatim|fn|class|struct|def|var|enum|"
    r"example|li|arg|par|internal)"
)
_PROSE_TAGS = {"brief", "short", "description", "desc", "summary", "details"}
_SECTION = re.compile(
    r"^\s*(?:(?:args|arguments|parameters?|params|returns?|return value|yields?|raises|throws|examples?|usage"
    r"|notes?|see also|references|attributes|keyword args|keyword arguments|options|inputs?|outputs?)\s*:\s*$"
    r"|(?:args|arguments|parameters|params|returns?|raises|yields|examples?|usage)\s*:\s"
    r"|:(?:param|parameter|arg|type|return|returns|rtype|raise|raises|keyword|key|yields?|var|ivar)\b"
    r"|@(?:param|returns?|rtype|type|raise|throws|keyword|see|example)\b|>>>|\.\. \w+|```"
    r"|[-=~_*^\"]{3,}\s*$)",
    re.IGNORECASE,
)
_SIGNATURE = re.compile(r"^[\w.:]+\s*\([^()]*\)\s*(?:(?:->|=>)\s*\S.*)?$")


def clean_docstring(text: str, language: str) -> str:
    """Return the prose of a docstring, without comment markers, HTML, and inline and block tags.

    Line ends are preserved. Of block tags (`@param`, `@return`), only those that hold a description (`@brief`,
    `@description`) leave their text. reST fields and `Args:` sections stay; `first_paragraph` leaves them out.

    Args:
        text: the value of a Python docstring, or doc comments with their markers.
        language: the language of the source file, which decides on markers and tags.

    Returns:
        The text; "" if nothing is left.
    """
    if language == "python":
        lines = inspect.cleandoc(text).split("\n")
    else:
        lines = [_without_marker(line, language) for line in text.split("\n")]
        lines = inspect.cleandoc("\n".join(lines)).split("\n")

    if language == "ruby":
        lines = _without_rdoc(lines)

    # Python and Go documentation has no inline tags or HTML by convention.
    if language not in ("python", "go"):
        text = _INLINE_TAG.sub(_inline_tag_text, "\n".join(lines))
        text = _HTML_TAG.sub("", _HTML_BREAK.sub("\n\n", text))
        lines = _without_tags(html.unescape(text).split("\n"), doxygen=language in ("c", "cpp"))

    if language in ("c", "cpp"):
        if lines and re.fullmatch(r"\w+(?:\(\))?:", lines[0].strip()):  # the heading that gtk-doc requires
            lines = lines[1:]
        lines = [_C_MARKUP.sub(r"\1", line) for line in lines]

    text = _ROLE.sub(lambda match: (match[1] or match[2] or "").lstrip("~!"), "\n".join(lines))
    text = re.sub(r"``([^`]*)``", r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()


def first_paragraph(docstring: str) -> str:
    """Return the first paragraph of a cleaned docstring in one line: the query text of CodeSearchNet.

    The paragraph ends at a blank line, a list of parameters or results, or an example. A signature above it is
    left out.
    """
    paragraphs: list[list[str]] = [[]]
    for line in docstring.split("\n"):
        if _SECTION.match(line):
            # An underline at the very top belongs to a heading, and ends nothing.
            if paragraphs[0] or re.fullmatch(r"\s*[-=~_*^\"]{3,}\s*", line) is None:
                break
        elif line.strip():
            paragraphs[-1].append(line.strip())
        elif paragraphs[-1]:
            paragraphs.append([])

    texts = [" ".join(" ".join(paragraph).split()) for paragraph in paragraphs]
    while len(texts) > 1 and _SIGNATURE.match(texts[0]):
        texts = texts[1:]
    return texts[0]


def _without_marker(line: str, language: str) -> str:
    """Strip the comment marker of a line."""
    if language == "ruby":
        line = re.sub(r"^\s*(?:#+|=begin\b|=end\b)", "", line)
    else:
        line = re.sub(r"^\s*(?:/\*[*!]*<?|//[/!]*<?|\*+(?!/)(?=\s|$|\S))", "", line, count=1)
        line = re.sub(r"\s*\**\*/\s*$", "", line)
    # A line without letters or digits is decoration.
    return line.expandtabs(4) if re.search(r"[^\W_]", line) else ""


def _inline_tag_text(match: re.Match[str]) -> str:
    tag, rest = match[1].lower(), match[2].strip()
    if tag in ("inheritdoc", "docroot"):
        return ""
    if tag.startswith("link"):
        target, *label = re.split(r"[\s|]+", rest, maxsplit=1)
        return label[0] if label else target.lstrip("#").replace("#", ".")
    return rest


def _without_rdoc(lines: list[str]) -> list[str]:
    """Remove RDoc's directives, and the list of call sequences with its indented lines."""
    prose: list[str] = []
    in_calls = False
    for line in lines:
        if re.match(r"\s*:?call-seq:", line):
            in_calls = True
        elif in_calls and (not line.strip() or line.startswith(" ")):
            continue
        elif not re.match(r"\s*(?::\w+:|rubocop:|frozen_string_literal:|typed:|--\s*$|\+\+\s*$)", line):
            prose.append(line)
            in_calls = False

    return prose


def _without_tags(lines: list[str], doxygen: bool) -> list[str]:
    """Remove block tags with the lines that belong to them. A blank line ends a tag in Doxygen only."""
    prose: list[str] = []
    in_tag = False

    for line in lines:
        tag = _TAG.match(line)
        if tag and not tag[2] and tag[1].lower() in _PROSE_TAGS:
            in_tag = False
            prose.append(tag[3])
        elif tag and (tag[2] or not doxygen or _DOXYGEN_TAG.fullmatch(tag[1])):
            in_tag = True
        elif in_tag and doxygen and not line.strip():
            in_tag = False
            prose.append("")
        elif not in_tag:
            prose.append(line)

    return prose
