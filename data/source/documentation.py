"""Clean docstrings and doc comments to plain text, and find the paragraph that describes the function."""

import html
import inspect
import re

_HTML_BREAK = re.compile(r"(?i)</?(?:p|br|pre|ul|ol|li|dl|dt|dd|table|tr|div|h[1-6]|blockquote|hr)\b[^<>]*>")
_HTML_TAG = re.compile(
    r"(?i)</?(?:a|abbr|b|big|code|em|font|i|img|kbd|q|s|samp|small|span|strong|sub|sup|td|th|thead|tbody|tt|u|var"
    r")\b[^<>]*>"
)
_INLINE_TAG = re.compile(r"\{@(\w+)\b([^{}]*)\}")
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
_JSDOC_PROSE_TAGS = _PROSE_TAGS | {"remarks", "classdesc", "fileoverview", "overview"}
#: Languages whose documentation has block tags such as `@param`, and those that also have inline tags and HTML.
_TAGGED = frozenset({"kotlin", "lua", "bash"})
_HTML_TAGGED = frozenset({"java", "javascript", "typescript", "php", "ruby", "c", "cpp", "scala"})
#: How a line of a comment begins, in languages other than those with `//` and `/*`.
_OPENINGS = {
    "ruby": re.compile(r"^\s*(?:#+|=begin\b|=end\b)"),
    "bash": re.compile(r"^\s*#+"),
    "lua": re.compile(r"^\s*-{2,}(?:\[=*\[-*)?"),
    "sql": re.compile(r"^\s*(?:-{2,}|/\*+|\*+(?!/)|#+)"),
    "rust": re.compile(r"^\s*(?:/\*[*!]?|//[/!]?|\*(?!\*|/)(?=\s|$))"),
}
_C_OPENING = re.compile(r"^\s*(?:/\*[*!]*<?|//[/!]*<?|\*+(?!/))")
_LUA_END = re.compile(r"(?:--)?\]=*\]$")
#: Remarks to tools above a function.
_DIRECTIVE = re.compile(
    r"\s*(?:shellcheck\s+\w+=|eslint-|prettier-ignore|@ts-|luacheck:|swiftlint:|MARK:\s|sourcery:|ktlint-|#(?:end)?region"
    r"|Name: .*; Type: )"
)
#: Links to other items: Rust and Swift write [`Item`], Kotlin [Item] and [label][Item], Scala [[Item label]].
_MARKDOWN_LINK = re.compile(r"\[`?([^\[\]`]+)`?\](?:\([^()\s]*\)|\[[^\[\]]*\])")
_MARKDOWN_REFERENCE = {
    "rust": re.compile(r"\[`([^\[\]`]+)`\]"),
    "swift": re.compile(r"``([^`]+)``"),
    "kotlin": re.compile(r"\[([\w.]+)\]"),
    "scala": re.compile(r"\[\[(?:[^\[\]\s]+[ \t]+)?([^\[\]]+)\]\]"),
    "lua": re.compile(r"@\{(?:[^{}|]*\|)?([^{}|]*)\}"),
}
_SCALA_EMPHASIS = re.compile(r"('{2,3})(?=\S)([^'\n]+)\1")
#: A callout of Swift's documentation, which ends before the next paragraph that is not indented.
_SWIFT_CALLOUT = re.compile(
    r"\s*[-*+] \s*(?:parameters?|returns?|throws|[A-Z]\w*)(?: [\w`]+)?\s*:", re.IGNORECASE
)
_XML_TAG = re.compile(r"(<[^<>]*>)")
_XML_REFERENCE = re.compile(r"\b(?:cref|name|langword|href)\s*=\s*[\"'](?:[A-Z]:)?([^\"'(]*)")
#: Elements of C#'s documentation that do not describe what is documented.
_XML_DROPPED = frozenset(
    {"param", "typeparam", "returns", "exception", "example", "seealso", "permission", "include", "inheritdoc"}
)
_XML_INLINE = frozenset(
    {"c", "see", "paramref", "typeparamref", "b", "i", "u", "em", "strong", "a", "term", "description"}
)
_XML_BLOCKS = frozenset({"summary", "remarks", "value", "para", "list", "item", "code", "br", "p", "ul", "li"})
_RUST_DOC = re.compile(r"\s*#!?\[doc\s*=\s*\"(.*)\"\]\s*")
_HEADING = re.compile(r"\s{0,3}#{1,6}\s+(\S.*)")
_SECTION = re.compile(
    r"^\s*(?:(?:args|arguments|parameters?|params|returns?|return value|yields?|raises|throws|examples?|usage"
    r"|notes?|see also|references|attributes|keyword args|keyword arguments|options|inputs?|outputs?"
    r"|globals)\s*:\s*$"
    r"|(?:args|arguments|parameters|params|returns?|raises|yields|examples?|usage)\s*:\s"
    r"|:(?:param|parameter|arg|type|return|returns|rtype|raise|raises|keyword|key|yields?|var|ivar)\b"
    r"|@(?:param|returns?|rtype|type|raise|throws|keyword|see|example)\b|>>>|\.\. \w+|```|\{\{\{"
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
    elif language == "swift":
        lines = _without_callouts(lines)
    elif language == "csharp":
        lines = _without_xml("\n".join(lines)).split("\n")

    # Documentation in other languages has no inline tags or HTML by convention.
    if language in _HTML_TAGGED:
        text = _INLINE_TAG.sub(_inline_tag_text, "\n".join(lines))
        text = _HTML_TAG.sub("", _HTML_BREAK.sub("\n\n", text))
        lines = html.unescape(text).split("\n")
    if language in _HTML_TAGGED | _TAGGED:
        lines = _without_tags(lines, doxygen=language in ("c", "cpp"))

    if reference := _MARKDOWN_REFERENCE.get(language):
        text = reference.sub(r"\1", _MARKDOWN_LINK.sub(r"\1", "\n".join(lines)))
        lines = (_SCALA_EMPHASIS.sub(r"\2", text) if language == "scala" else text).split("\n")

    if language in ("c", "cpp"):
        if lines and re.fullmatch(r"\w+(?:\(\))?:", lines[0].strip()):  # the heading that gtk-doc requires
            lines = lines[1:]
        lines = [_C_MARKUP.sub(r"\1", line) for line in lines]

    text = _ROLE.sub(lambda match: (match[1] or match[2] or "").lstrip("~!"), "\n".join(lines))
    text = re.sub(r"(?<!`)``([^`]+)``(?!`)", r"\1", text)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in text.split("\n"))).strip()


def first_paragraph(docstring: str) -> str:
    """Return the first paragraph of a cleaned docstring in one line: the query text of CodeSearchNet.

    The paragraph ends at a blank line, a list of parameters or results, or an example. A signature or a Markdown
    heading above it is left out, unless nothing else is there.
    """
    paragraphs: list[list[str]] = [[]]
    title = ""
    for line in docstring.split("\n"):
        if heading := _HEADING.fullmatch(line):
            if paragraphs[0]:
                break
            title = title or " ".join(heading[1].split())
        elif _SECTION.match(line):
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
    return texts[0] or title


def _without_marker(line: str, language: str) -> str:
    """Strip the comment marker of a line."""
    if language == "rust" and (attribute := _RUST_DOC.fullmatch(line)):
        return attribute[1]
    line = _OPENINGS.get(language, _C_OPENING).sub("", line, count=1).rstrip()
    if language == "lua":
        line = _LUA_END.sub("", line)
    elif line.endswith("*/") and language not in ("ruby", "bash"):
        line = line[:-2].rstrip("*").rstrip()

    # A line without letters or digits is decoration.
    is_prose = re.search(r"[^\W_]", line) and not _DIRECTIVE.match(line)
    return line.expandtabs(4) if is_prose or line.strip().startswith(("```", "{{{")) else ""


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


def _without_callouts(lines: list[str]) -> list[str]:
    """Remove the parameters, results and other callouts of Swift's documentation."""
    prose: list[str] = []
    in_callout = blank = False
    for line in lines:
        if _SWIFT_CALLOUT.match(line):
            in_callout = True
        elif in_callout and blank and line.strip() and not line.startswith((" ", "-", "*", "+")):
            in_callout = False
        if not in_callout:
            prose.append(line)
        blank = not line.strip()

    return prose


def _without_xml(text: str) -> str:
    """Return the summary and the remarks of C#'s documentation, with the names that it refers to."""
    pieces: list[str] = []
    dropped = ""
    for piece in _XML_TAG.split(text):
        match = re.match(r"<(/?)([A-Za-z]\w*)", piece)
        name, closes = (match[2].lower(), bool(match[1])) if match else ("", False)
        if dropped:
            dropped = "" if closes and name == dropped else dropped
        elif not match:
            pieces.append(piece)
        elif name in _XML_DROPPED:
            dropped = "" if piece.endswith("/>") or closes else name
        elif name in _XML_BLOCKS:
            pieces.append("\n\n")
        elif name not in _XML_INLINE:
            pieces.append(piece)
        elif piece.endswith("/>") and (reference := _XML_REFERENCE.search(piece)):
            pieces.append(reference[1].replace("{", "<").replace("}", ">"))

    return html.unescape("".join(pieces))


def _without_tags(lines: list[str], doxygen: bool) -> list[str]:
    """Remove block tags with the lines that belong to them. A blank line ends a tag in Doxygen only."""
    prose: list[str] = []
    in_tag = False

    for line in lines:
        tag = _TAG.match(line)
        if tag and not tag[2] and tag[1].lower() in (_PROSE_TAGS if doxygen else _JSDOC_PROSE_TAGS):
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
