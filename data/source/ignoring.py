"""Which files of a tree git ignores: its patterns, and the tracked files that it keeps in spite of them.

Patterns are matched by ripgrep's matcher (`rignore`), whose time is linear in the number of files. It reads a few
patterns otherwise than git, such as braces, and no names or patterns that are not UTF-8. Trees with such patterns
or names are matched in a copy: a temporary tree of empty files with the same structure and translated patterns.
"""

import contextlib
import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import rignore

#: Undecodable bytes of names, as Python has them in strings, and what stands for them in a copy.
_ESCAPED_BYTES = range(0xDC80, 0xDD00)
_TO_COPY = {code: code - 0xDC80 + 0xF680 for code in _ESCAPED_BYTES}
_FROM_COPY = {copy: code for code, copy in _TO_COPY.items()}
#: Patterns that both read alike, without the spaces at the end. Any other is translated.
_PLAIN_PATTERN = re.compile(
    r"!?(?:\*\*(?=/|$))?"
    r"(?:[^\[\]{}*\\\s]|[ ]|\\[#! ]|\*(?!\*)|(?<=/)\*\*(?=/|$)|\[(?:[a-zA-Z0-9]-[a-zA-Z0-9]|[a-zA-Z0-9])+\])*+"
)
_POSIX_CLASSES = {
    "alnum": str.isalnum,
    "alpha": str.isalpha,
    "blank": lambda c: c in " \t",
    "cntrl": lambda c: ord(c) < 32 or ord(c) == 127,
    "digit": str.isdigit,
    "graph": lambda c: 32 < ord(c) < 127,
    "lower": str.islower,
    "print": lambda c: 32 <= ord(c) < 127,
    "punct": lambda c: 32 < ord(c) < 127 and not c.isalnum(),
    "space": lambda c: c in " \t\n\v\f\r",
    "upper": str.isupper,
    "xdigit": lambda c: c in "0123456789abcdefABCDEF",
}
#: A named class ends at the first bracket, if a colon stands before it.
_NAMED_CLASS = re.compile(r"\[:([^\]]*):\]")
_ASCII = [chr(code) for code in range(128)]


class UnusualTreeError(Exception):
    """A tree with names or patterns that the matcher reads otherwise than git."""


def repository_top(folder: Path) -> Path | None:
    """Return the folder of the git work tree around an absolute path, or None if there is none."""
    return next((top for top in (folder, *folder.parents) if (top / ".git").exists()), None)


def visible_paths(
    root: Path, skipped: Collection[str] = (), closed: Collection[str] = (), in_copy: bool = False
) -> set[str]:
    """Return the paths below a folder that git's patterns do not ignore, relative to it, folders included.

    These are the patterns of `.gitignore` files, also of the folders above in the same work tree, of
    `.git/info/exclude` and of the user's own excludes. If the folder itself is ignored, only those in it apply:
    whoever names it wants it read.

    Args:
        root: absolute path, without symbolic links.
        skipped: names of folders and files to leave out.
        closed: names of folders whose contents to leave out.
        in_copy: match in a copy of the tree.

    Returns:
        Paths with forward slashes.

    Raises:
        UnusualTreeError: a copy is needed, and `in_copy` is False.
    """
    overrides = [*(f"!{name}" for name in skipped), *(f"!**/{name}/*" for name in closed)]
    repository = repository_top(root)
    top = repository or Path(root.anchor)
    parts = root.relative_to(top).parts
    above = [top.joinpath(*parts[:depth]) for depth in range(len(parts))]
    rules = [
        path for path in (*(folder / ".gitignore" for folder in above), _exclude_file(top)) if path.is_file()
    ]

    if not in_copy:
        if any(map(is_unusual, rules)):
            raise UnusualTreeError(root)
        if not above or not rules:
            return set(_walk(root, overrides, parents=False, in_repository=repository is not None))

    with tempfile.TemporaryDirectory(prefix="mose-") as folder:
        copy = _copy_rules_above(top, parts, Path(folder))
        chain = copy.relative_to(folder).as_posix()
        is_ignored = bool(parts) and chain not in set(_walk(Path(folder), [], parents=False))
        if not in_copy:
            return set(_walk(root, overrides, not is_ignored, in_repository=repository is not None))
        _copy_tree(root, copy, skipped, closed)
        return {path.translate(_FROM_COPY) for path in _walk(copy, overrides, not is_ignored)}


def is_unusual(path: Path) -> bool:
    """Return whether an ignore file has lines that the matcher reads otherwise than git."""
    return not all(map(_is_plain, _read_lines(path)))


def has_unusual_excludes(top: Path) -> bool:
    """Return whether the matcher reads the `info/exclude` of a work tree otherwise than git."""
    return is_unusual(_exclude_file(top))


def _is_plain(line: str) -> bool:
    # The matcher reads a file up to its first line that is not UTF-8, even if that is a comment.
    if any(ord(character) in _ESCAPED_BYTES for character in line):
        return False
    pattern = line.rstrip(" ")
    return pattern.startswith("#") or (
        not pattern.endswith("\\") and _PLAIN_PATTERN.fullmatch(pattern) is not None
    )


def tracked_paths(folder: Path) -> set[str]:
    """Return the paths of the files that git tracks below a folder, relative to it; none without git."""
    # No configuration of the repository may run a program or reach the network.
    settings = ("core.fsmonitor=false", "safe.directory=*", "protocol.allow=never", "core.hooksPath=/dev/null")
    command = ["git", *(word for setting in settings for word in ("-c", setting)), "ls-files", "-z", "--cached"]
    # A hook's variables would name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    environment["GIT_OPTIONAL_LOCKS"] = environment["GIT_TERMINAL_PROMPT"] = "0"

    try:
        listed = subprocess.run(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
    except (OSError, subprocess.SubprocessError):
        return set()
    return {os.fsdecode(path) for path in listed.stdout.split(b"\0") if path} if not listed.returncode else set()


def _walk(root: Path, overrides: list[str], parents: bool, in_repository: bool = True) -> Iterator[str]:
    """Yield the visible paths below a folder, relative to it.

    In a repository, no patterns apply from above it or from around a repository in it. Outside, they do.

    Raises:
        UnusualTreeError: a name is not UTF-8.
    """
    walker = rignore.walk(
        root,
        ignore_hidden=False,
        read_ignore_files=False,
        read_parents_ignores=parents,
        require_git=in_repository,
        # An override that begins with `!` leaves out what it matches.
        overrides=overrides or None,
    )

    start = len(str(root).rstrip(os.sep)) + 1
    while True:
        try:
            path = next(walker)
        except StopIteration:
            return
        except OSError:  # an unreadable folder, which is reported by who lists it
            continue
        except ValueError as error:
            raise UnusualTreeError(root) from error
        yield str(path)[start:].replace(os.sep, "/")


def _exclude_file(top: Path) -> Path:
    """Return where a work tree has its `info/exclude`, if it has one."""
    git = top / ".git"
    if git.is_file():  # a linked work tree or a submodule
        with contextlib.suppress(OSError):
            git = top / git.read_text(encoding="utf-8", errors="surrogateescape").partition("gitdir:")[2].strip()
            git /= (git / "commondir").read_text(encoding="utf-8", errors="surrogateescape").strip()
    return git / "info" / "exclude"


def _copy_rules_above(top: Path, parts: Sequence[str], target: Path) -> Path:
    """Copy the patterns that apply to the folder `top/parts` from above, and return its copy, which is empty."""
    copy = target.joinpath(*map(_copied, parts))
    copy.mkdir(parents=True, exist_ok=True)
    _copy_rules(_exclude_file(top), target / ".git" / "info" / "exclude")
    for depth in range(len(parts)):
        names = parts[:depth]
        _copy_rules(top.joinpath(*names, ".gitignore"), target.joinpath(*map(_copied, names), ".gitignore"))
    return copy


def _copy_tree(root: Path, copy: Path, skipped: Collection[str], closed: Collection[str]) -> None:
    """Copy the names of a tree, and its ignore files."""
    pending = [(root, copy)]
    while pending:
        folder, target = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue

        for entry in entries:
            path = target / _copied(entry.name)
            # A path can be too long for the copy.
            with contextlib.suppress(OSError):
                if entry.name == ".git":  # patterns of the folders above do not apply below it
                    _copy_rules(_exclude_file(folder), path / "info" / "exclude")
                elif entry.name == ".gitignore":
                    _copy_rules(Path(entry.path), path)
                elif not entry.is_dir(follow_symlinks=False):
                    path.touch()
                elif entry.name not in skipped:
                    path.mkdir()
                    if entry.name not in closed:
                        pending.append((Path(entry.path), path))


def _copied(name: str) -> str:
    return name.translate(_TO_COPY)


def _copy_rules(source: Path, target: Path) -> None:
    """Write an ignore file with its patterns translated; an empty one if it cannot be read."""
    patterns = (_translate(_copied(line)) for line in _read_lines(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text("".join(f"{line}\n" for line in patterns if line is not None), encoding="utf-8")


def _read_lines(path: Path) -> list[str]:
    """Return the lines of an ignore file as git splits them; [] if it is a folder or unreadable."""
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError:
        return []
    lines = (line.removesuffix(b"\r").partition(b"\0")[0] for line in data.split(b"\n"))
    return [line.decode("utf-8", "surrogateescape") for line in lines]


def _translate(line: str) -> str | None:
    """Return a line for the matcher that means what git reads in it, or None if it can match nothing."""
    line = _without_trailing_spaces(line)
    if not line or line.startswith("#"):
        return None
    negation, pattern = ("!", line[1:]) if line.startswith("!") else ("", line)
    folder = "/" if pattern.endswith("/") else ""
    pattern = pattern.removesuffix("/")
    # A pattern without a slash matches names at any depth.
    prefix = "/" if "/" in pattern else "/**/"
    glob = _translate_glob(pattern.removeprefix("/"))
    return negation + prefix + glob + folder if glob else None


def _without_trailing_spaces(line: str) -> str:
    end = 0
    position = 0
    while position < len(line):
        escaped = line[position] == "\\"
        if line[position] != " ":
            end = position + 1 + escaped
        position += 1 + escaped
    return line[:end]


def _translate_glob(pattern: str) -> str | None:
    parts: list[str] = []
    position = 0
    while position < len(pattern):
        character = pattern[position]
        start, position = position, position + 1

        if character == "*":
            while pattern[position : position + 1] == "*":
                position += 1
            # Two stars or more reach over folders only if they are a whole part of the path.
            whole = pattern[start - 1 : start] in ("", "/") and pattern[position : position + 1] in ("", "/")
            parts.append("**" if whole and position - start > 1 and "/" in pattern else "*")
        elif character == "?":
            parts.append("?")
        elif character == "[":
            members = _translate_class(pattern, position)
            if members is None:
                return None
            position, text = members
            parts.append(text)
        else:
            if character == "\\":
                if position == len(pattern):
                    return None
                character, position = pattern[position], position + 1
            parts.append(character if character == "/" else _escaped(character))
    return "".join(parts)


def _escaped(character: str) -> str:
    if character.isspace():
        return f"[{character}]"
    return character if character.isalnum() or ord(character) > 127 else f"\\{character}"


def _translate_class(pattern: str, position: int) -> tuple[int, str] | None:
    """Return where the class that begins before `position` ends, and its translation; None if it is invalid."""
    negated = pattern[position : position + 1] in ("!", "^")
    position += negated
    members: set[str] = set()
    previous, first = "", True

    while first or pattern[position : position + 1] != "]":
        first = False
        if (named := _NAMED_CLASS.match(pattern, position)) is not None:
            if named[1] not in _POSIX_CLASSES:
                return None
            members.update(filter(_POSIX_CLASSES[named[1]], _ASCII))
            previous, position = "", named.end()
            continue

        sign = pattern[position : position + 1]
        is_range = sign == "-" and previous != "" and pattern[position + 1 : position + 2] not in ("", "]")
        position += is_range
        position += pattern[position : position + 1] == "\\"
        character = pattern[position : position + 1]
        if not character:
            return None

        members.update(map(chr, range(ord(previous), ord(character) + 1)) if is_range else character)
        previous = "" if is_range else character
        position += 1

    text = _class_of(members, negated)
    return None if text is None else (position + 1, text)


def _class_of(members: set[str], negated: bool) -> str | None:
    """Return a class that never matches a slash, or None if it is empty."""
    members = members | {"/"} if negated else members - {"/"}
    if not members:
        return None
    if members <= set("!^-"):
        return "{" + ",".join(map(_escaped, sorted(members))) + "}"

    # Nothing in a class can be escaped, so the order counts.
    inner = "".join(sorted(members - set("]!^-")))
    first, last = "]" * ("]" in members), "".join(sign for sign in "!^-" if sign in members)
    return f"[{'!' if negated else ''}{first}{inner}{last}]"
