"""The files that are listed are those that git lists."""

import os
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mose.data.source.files import candidate_files
from mose.data.source.ignoring import tracked_paths
from mose.data.source.report import ReadingReport

NAMES = ("a", "b", "ab", "a b", "é", "[x]", "{a,b}", "!n", "#h", "-", ".hid", "A")
FOLDERS = ("d", "e", "d e", ".f", "é", "x{y}")
LITERALS = [*"abdexyAé", " ", "-", ".py", "d/", "e/", "\\#", "\\!", "\\*", "\\ ", ".hid", "{", "}", ","]
WILDCARDS = [*"*?", "**", "/**/", "[ab]", "[!a]", "[^-b]", "[a-x]", "[[:alpha:]]", "[]x]", "[\\]a]", "[+-9]"]


def git(folder: Path, *words: str) -> bytes:
    environment = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    return subprocess.run(["git", *words], cwd=folder, env=environment, check=True, capture_output=True).stdout


def listed_by_git(folder: Path) -> list[bytes]:
    """Return the paths that git shows: tracked files, and others that it does not ignore."""
    listed = set(git(folder, "ls-files", "-co", "--exclude-standard", "-z").split(b"\0"))
    return sorted(path for path in listed if path.endswith(b".py"))


def listed_by_us(folder: Path) -> list[bytes]:
    return sorted(os.fsencode(path.relative_to(folder)) for path in candidate_files(folder, ["python"]))


def plant(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def pattern() -> st.SearchStrategy[str]:
    parts = st.lists(st.sampled_from([*LITERALS, *WILDCARDS]), min_size=1, max_size=5)
    sign = st.sampled_from(["", "", "", "!", "/", "!/"])
    end = st.sampled_from(["", "", "", ".py", "/", " ", "\t", "\r"])
    return st.builds(lambda sign, parts, end: sign + "".join(parts) + end, sign, parts, end).filter(is_defined)


def is_defined(line: str) -> bool:
    """Return False if `**` follows another character: there, git compares unrelated pointers."""
    segments = line.rstrip().removeprefix("!").split("/")
    return all(segment == "**" or "**" not in segment for segment in segments)


def path() -> st.SearchStrategy[str]:
    folders = st.lists(st.sampled_from(FOLDERS), max_size=3)
    return st.builds(lambda folders, name: "/".join([*folders, name + ".py"]), folders, st.sampled_from(NAMES))


ignore_file = st.lists(pattern(), max_size=4).map("\n".join)


@settings(max_examples=60, deadline=None)
@given(
    paths=st.lists(path(), min_size=1, max_size=25),
    ignore_files=st.dictionaries(st.sampled_from(["", "d/", "e/", "d/e/", ".f/"]), ignore_file, max_size=3),
    exclude=ignore_file,
    prefix=st.sampled_from([b"", b"\xef\xbb\xbf", b"# caf\xe9\n"]),
    tracked=st.integers(0, 3),
    below=st.sampled_from(["", "d", "d/e"]),
)
@example(["d/a.py", "a.py"], {"": "*.py\n!a.py"}, "", b"", 0, "d")
def test_we_list_what_git_lists(paths, ignore_files, exclude, prefix, tracked, below):
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        git(root, "init", "-q")
        plant(root, dict.fromkeys(paths, b""))
        plant(root, {f"{name}.gitignore": prefix + text.encode() for name, text in ignore_files.items()})
        (root / ".git/info/exclude").write_text(exclude)
        git(root, "--literal-pathspecs", "add", "-f", "--", *paths[:tracked]) if tracked else None
        assert listed_by_us(root) == listed_by_git(root)

        # A folder below is listed by the same rules, unless it is ignored: whoever names it wants it read.
        start = root / below
        if below and start.is_dir() and not is_ignored(root, below):
            assert listed_by_us(start) == listed_by_git(start)


def is_ignored(root: Path, below: str) -> bool:
    status = subprocess.run(["git", "check-ignore", "-q", "--no-index", below], cwd=root, check=False)
    return status.returncode == 0


@pytest.mark.parametrize(
    "lines",
    [
        "*.{py,js}\n",
        "[[:upper:]]*\n[[:digit:]-]*\n",
        "a.py\t\nd/ \n",
        "sec\\[ret*\n!sec*s.py\n",
        "**/b/**\n!**/b/keep\n",
        "/***/b/\n",
        "[a-\n[[:nothing:]]*\n\\\n",
        "d?a.py\nd[!x]a.py\nd[/]a.py\n",
        "x\0y.py\n[!-\\]]x.py\n",
        "*\n!*/\n!*.py\n",
    ],
)
def test_patterns_that_matchers_read_differently(tmp_path, lines):
    names = (
        "a.py b.py A.py 1.py -/f.py x.js/f.py {py,js}.py sec[ret.py secrets.py d/a.py dxa.py dya.py b/keep/f.py"
    )
    plant(
        tmp_path, dict.fromkeys([*names.split(), "b/c/b/e.py", "x/f.py", "x.py", "]x.py", "x.{py,js}/f.py"], b"")
    )
    git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text(lines)
    assert listed_by_us(tmp_path) == listed_by_git(tmp_path)


def test_names_and_patterns_that_are_not_utf8(tmp_path):
    plant(tmp_path, dict.fromkeys(["caf\udce9.py", "secret\udcff.py", "\udcff/b.py", "\udcff/c.py", "é.py"], b""))
    plant(tmp_path, {".gitignore": b"secret*\n/\xff/b*\n"})
    git(tmp_path, "init", "-q")
    assert listed_by_us(tmp_path) == listed_by_git(tmp_path) == [b"caf\xe9.py", b"\xc3\xa9.py", b"\xff/c.py"]


def test_worktrees_and_nested_repositories_have_their_own_rules(tmp_path):
    main, linked = tmp_path / "main", tmp_path / "linked"
    plant(main, {"a.py": b"", ".gitignore": b"ignored.py\n", "nested/ignored.py": b"", "nested/private.py": b""})
    git(main, "init", "-q")
    git(main, "add", "a.py", ".gitignore")
    git(main, "-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "first")
    git(main, "worktree", "add", "-q", str(linked))
    git(main / "nested", "init", "-q")
    (main / "nested/.git/info/exclude").write_text("private.py\n")
    (main / ".git/info/exclude").write_text("excluded.py\n")
    plant(linked, {"excluded.py": b"", "ignored.py": b"", "b.py": b""})

    assert listed_by_us(linked) == listed_by_git(linked) == [b"a.py", b"b.py"]
    assert listed_by_us(main) == [b"a.py", b"nested/ignored.py"]
    assert listed_by_us(main / "nested") == listed_by_git(main / "nested") == [b"ignored.py"]

    # A folder of repositories is none itself.
    plant(tmp_path, {".gitignore": b"*.py\n", "linked/c.py": b""})
    assert listed_by_us(tmp_path) == [
        b"linked/a.py",
        b"linked/b.py",
        b"linked/c.py",
        b"main/a.py",
        b"main/nested/ignored.py",
    ]
    assert listed_by_us(linked) == listed_by_git(linked) == [b"a.py", b"b.py", b"c.py"]
    (main / ".git/info/exclude").write_text("{c,b}.py\n/a.py\n")
    (linked / "{c,b}.py").touch()
    assert listed_by_us(linked) == listed_by_git(linked) == [b"a.py", b"b.py", b"c.py", b"excluded.py"]
    assert listed_by_us(tmp_path)[:4] == [b"linked/a.py", b"linked/b.py", b"linked/c.py", b"linked/excluded.py"]


def test_an_ignored_folder_that_is_asked_for_is_read(tmp_path):
    """As with a virtual environment, whose own `.gitignore` ignores everything in it."""
    plant(
        tmp_path, {"env/.gitignore": b"*\n", "env/lib/package/a.py": b"", "env/lib/package/.gitignore": b"b.py\n"}
    )
    plant(tmp_path, {"env/lib/package/b.py": b""})
    assert listed_by_us(tmp_path) == []
    assert listed_by_us(tmp_path / "env/lib/package") == [b"a.py"]


def test_hostile_patterns_take_linear_time(tmp_path):
    plant(tmp_path, {".gitignore": b"*a" * 20 + b"*b\n", "a" * 200 + ".py": b"", "c/" + "a" * 200 + ".py": b""})
    start = time.process_time()
    assert len(listed_by_us(tmp_path)) == 2
    assert time.process_time() - start < 2

    (tmp_path / ".gitignore").write_bytes(b"{" + b"*a" * 20 + b"*b\n" + b" " * 100_000 + b"x\n" + b"[" * 50_000)
    assert len(listed_by_us(tmp_path)) == 2
    assert time.process_time() - start < 4


@pytest.mark.parametrize("kind", ["folder", "link to itself"])
def test_an_ignore_file_that_cannot_be_read_is_none(tmp_path, kind):
    plant(tmp_path, {"a.py": b"", "b/c.py": b""})
    if kind == "folder":
        (tmp_path / ".gitignore").mkdir()
    else:
        (tmp_path / ".gitignore").symlink_to(".gitignore")
    report = ReadingReport()
    assert len(list(candidate_files(tmp_path, report=report))) == 2
    assert (kind == "folder") == (report.left_out == {})


def test_the_configuration_of_a_repository_runs_nothing(tmp_path):
    plant(tmp_path, {"a.py": b"", "b.py": b"", ".gitignore": b"*\n"})
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-f", "a.py")
    for name in ("core.fsmonitor", "core.sshCommand", "core.pager", "alias.ls-files", "core.editor"):
        git(
            tmp_path,
            "config",
            name,
            f"!touch {tmp_path}/ran; false" if "alias" in name else f"touch {tmp_path}/ran",
        )
    assert listed_by_us(tmp_path) == [b"a.py"]
    assert not (tmp_path / "ran").exists()


def test_without_git_the_patterns_alone_count(tmp_path, monkeypatch):
    plant(tmp_path, {"a.py": b"", "b.py": b"", ".gitignore": b"a.py\n"})
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-f", "a.py")
    assert tracked_paths(tmp_path) == {"a.py"}
    monkeypatch.setenv("GIT_DIR", "/nowhere")  # as in a hook of another repository
    assert tracked_paths(tmp_path) == {"a.py"}
    monkeypatch.setenv("PATH", "")
    assert tracked_paths(tmp_path) == set()
    assert listed_by_us(tmp_path) == [b"b.py"]
