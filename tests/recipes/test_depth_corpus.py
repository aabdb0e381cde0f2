"""The pre-training corpus of the depth comparison: what is fetched, what is kept out, and how it is laid out."""

import io
import json
import random
import re
import subprocess
import sys
import tarfile
import zipfile
from argparse import Namespace
from collections import Counter
from itertools import groupby
from pathlib import Path

import fetch
import numpy as np
import pytest
from recipe_steps import evaluation_texts
from shards import RUN_TOKENS, SHARED, SHARED_RUNS, make_shards, shared_runs, token_runs

from mose.utils.command_line import ArgumentError
from mose.utils.locations import package_folder

RECIPE = package_folder() / "recipes/depth"
LIST = fetch.read_list()


def words(seed, count):
    return [f"w{number}" for number in random.Random(seed).choices(range(10_000), k=count)]


def write_rows(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def row(repository, number, text=None, language="python"):
    text = text or " ".join(words(f"{repository} {number}", 40))
    return {"text": text, "repository": repository, "language": language, "path": f"{number}.py"}


def naive_runs(text):
    tokens = re.findall(r"\w+", text.lower())
    return [tuple(tokens[i : i + RUN_TOKENS]) for i in range(len(tokens) - RUN_TOKENS + 1)]


@pytest.mark.parametrize("seed", range(4))
def test_shared_runs_are_those_of_a_naive_count(seed):
    rng = random.Random(seed)
    for _ in range(30):
        # Few words, so that runs repeat and are shared.
        text, other = (" ".join(rng.choices(["a", "A", "("], k=rng.randrange(70))) for _ in range(2))
        evaluation = set(naive_runs(other))
        expected = sum(run in evaluation for run in naive_runs(text))
        assert shared_runs(text, np.unique(token_runs(other))) == expected
        assert len(token_runs(text)) == len(naive_runs(text))
    long = " ".join(rng.choices(["b", "é", "."], k=80))
    assert shared_runs(long.upper(), np.unique(token_runs(f"c {long}"))) == len(naive_runs(long)) > 0


@pytest.fixture
def corpus(tmp_path):
    """Packages with a duplicate, an excluded project, and files that share 31 and 30 tokens with a set."""
    evaluated = words("evaluated", 90)
    least = RUN_TOKENS + SHARED_RUNS - 1
    write_rows(tmp_path / "set/corpus.jsonl", [{"_id": "1", "text": " ".join(evaluated)}])
    write_rows(tmp_path / "set/queries.jsonl", [{"_id": "1", "text": "a short query"}])
    write_rows(
        tmp_path / "files.jsonl", [{"path": "a.py", "content": "Longer: " + " ".join(words("content", 60))}]
    )

    def planted(count):
        copy = ", ".join(evaluated[20 : 20 + count]).upper()
        return " ".join([*words("before", 9), copy, *words("after", 9)])

    rows = [row("pip/a", number, language="c" if number % 3 else "go") for number in range(37)]
    copied = [row("pip/b", 0, planted(least)), row("pip/b", 1, planted(least - 1)), row("pip/b", 2)]
    copied += [row("pip/b", 3, "x " + " ".join(words("content", 60)))]
    copied += [row("pip/b", 4, rows[5]["text"].replace(" ", "\n\n  ") + "\n")]
    write_rows(tmp_path / "corpus/pip-a.jsonl", rows)
    write_rows(tmp_path / "corpus/pip-b.jsonl", copied)
    write_rows(tmp_path / "corpus/npm-@c_d.jsonl", [row("npm/@c/d", number) for number in range(20)])
    write_rows(tmp_path / "corpus/deb-librust-serde-dev.jsonl", [row("deb/librust-serde-dev", 0)])
    return tmp_path


def make(folder, name, **changes):
    """Make shards in a folder `name`, and return the rows of each and the report."""
    options = {"corpus": folder / "corpus", "evaluation": [folder / "set", folder / "files.jsonl"], "seed": 16}
    options |= {"output_dir": folder / name, "report": folder / f"{name}.json", "shards": 3} | changes
    make_shards(Namespace(**options))
    contents = [path.read_text().splitlines() for path in sorted((folder / name).iterdir())]
    return [[json.loads(line) for line in lines] for lines in contents], json.loads(options["report"].read_text())


def test_what_shares_text_goes_and_its_neighbour_stays(corpus):
    shards, report = make(corpus, "shards")
    kept = Counter((row["repository"], row["path"]) for shard in shards for row in shard)
    expected = [("pip/a", f"{n}.py") for n in range(37)] + [("npm/@c/d", f"{n}.py") for n in range(20)]
    assert kept == Counter([*expected, ("pip/b", "1.py"), ("pip/b", "2.py")])

    assert report["left_out"] == {SHARED: 2, "duplicate": 1, "excluded repository": 1}
    assert (report["repositories"], report["kept"]) == (3, 59)
    assert report["files"] == {"c": 24, "go": 13, "python": 22}
    characters = Counter()
    for shard in shards:
        for row in shard:
            characters[row["language"]] += len(row["text"])
    assert report["characters"] == characters
    assert report["evaluation"] == {"runs": 90 - 23 + 61 - 23, "texts_shorter_than_a_run": 1}


def test_files_of_a_repository_stay_together(corpus):
    shards, _ = make(corpus, "shards")
    groups = [[row["repository"] for row in shard] for shard in shards]
    groups = Counter(name for shard in groups for name, _ in groupby(shard))
    # 37, 20 and 2 files in parcels of at most 16; those that meet in a shard are one group.
    assert all(groups[name] <= most for name, most in {"pip/a": 3, "npm/@c/d": 2, "pip/b": 1}.items())
    mixed = [{row["language"] for row in shard if row["repository"] == "pip/a"} for shard in shards]
    assert sum(len(languages) for languages in mixed) <= 4


def test_shards_depend_on_the_seed_alone(corpus):
    first, again = make(corpus, "one"), make(corpus, "two")
    assert first == again
    shards, report = make(corpus, "other", seed=1)
    assert shards != first[0] and report == first[1]


def test_nothing_is_overwritten_and_damage_is_named(corpus):
    make(corpus, "shards")
    before = {path: path.read_bytes() for path in corpus.rglob("*.json*")}
    with pytest.raises(FileExistsError, match="shards exists"):
        make(corpus, "shards", report=corpus / "other.json")
    with pytest.raises(ArgumentError, match=r"shards\.json exists"):
        make(corpus, "new", report=corpus / "shards.json")
    assert {path: path.read_bytes() for path in corpus.rglob("*.json*")} == before

    with (corpus / "corpus/pip-b.jsonl").open("a") as stream:
        stream.write('{"text": "cut of')
    with pytest.raises(ValueError, match=r"pip-b\.jsonl, line 6"):
        make(corpus, "new")
    with pytest.raises(ArgumentError, match=r"no \.jsonl file"):
        make(corpus, "new", corpus=corpus / "nowhere")
    assert not (corpus / "new").exists()


def test_evaluation_sets_without_text_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no \.jsonl file"):
        list(evaluation_texts([tmp_path]))
    path = write_rows(tmp_path / "a.jsonl", [{"text": "x"}, {"code": "y"}])
    with pytest.raises(ValueError, match=r"a\.jsonl, line 2"):
        list(evaluation_texts([path]))


CODE = "\n".join(f"value_{number} = {number} * other({number})" for number in range(20))
KEPT = {"src/a.py": CODE, "lib/b.mjs": CODE + "\n// b", "po.c": CODE + "\n/* c */", "e.py": "# été\n" + CODE}
LEFT_OUT = {
    "z/copy.py": CODE,
    "notes.md": CODE,
    "short.py": "x = 1",
    "Vendor/a.py": CODE + "\n# vendored",
    "po/a.c": CODE + "\n/* po */",
    "a.min.js": CODE + "\n// min",
    "a.d.ts": CODE + "\n// types",
    "api_pb2.py": CODE + "\n# protobuf",
    "generated.py": "# Generated by make. Do not edit.\n" + CODE,
    "long.py": CODE + "\n# " + "long " * 250,
    "large.py": CODE * 400,
    "binary.py": CODE + "\0",
    "latin.py": b"# \xe9\n" + CODE.encode(),
}


def write_archive(kind, work, files):
    """Write the archive of a package as a download leaves it; source packages have a signature and a link."""
    files = {name: text if isinstance(text, bytes) else text.encode() for name, text in files.items()}
    if kind == "pip":
        with zipfile.ZipFile(work / "p-1.0-py3-none-any.whl", "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return

    name = {"npm": "p.tgz", "debian_source": "p_1.orig.tar.xz", "native": "p_1.tar.xz"}[kind]
    with tarfile.open(work / name, "w:gz" if kind == "npm" else "w:xz") as archive:
        link = tarfile.TarInfo("link.py")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    if kind == "debian_source":
        (work / "p_1.orig.tar.xz.asc").write_text("signature")
        (work / "p_1.debian.tar.xz").write_text("not to be read")


@pytest.fixture
def downloads(monkeypatch):
    """A list of four packages, one of which cannot be fetched, and the names of those downloaded."""
    packages = {"pip": ["wheel"], "npm": ["@scope/name"], "src": ["split", "native"], "deb": ["missing"]}
    monkeypatch.setattr(fetch, "read_list", lambda _: {**LIST, "packages": packages})
    names = []

    def download(kind, package, work):
        names.append(package)
        if package == "missing":
            raise FileNotFoundError("no such package")
        write_archive("native" if package == "native" else kind, Path(work), KEPT | LEFT_OUT)

    monkeypatch.setattr(fetch, "download_package", download)
    return names


def test_sources_are_kept_failures_named_and_the_rest_resumed(tmp_path, downloads):
    with pytest.raises(RuntimeError, match=r"not fetched:\ndeb/missing: FileNotFoundError: no such package$"):
        fetch.fetch_corpus(tmp_path)
    names = {"pip/wheel", "npm/@scope/name", "src/split", "src/native"}
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{name.replace('/', '-', 1).replace('/', '_')}.jsonl" for name in names
    }

    languages = {"src/a.py": "python", "lib/b.mjs": "javascript", "po.c": "c", "e.py": "python"}
    for path in tmp_path.iterdir():
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        assert {row["path"]: row["text"] for row in rows} == KEPT
        assert {row["path"]: row["language"] for row in rows} == languages
        assert {row["repository"] for row in rows} <= names

    downloads.clear()
    with pytest.raises(RuntimeError, match="deb/missing"):
        fetch.fetch_corpus(tmp_path)
    assert downloads == ["missing"]
    fetch.fetch_corpus(tmp_path, ["wheel"])
    with pytest.raises(ArgumentError, match="got wheels"):
        fetch.fetch_corpus(tmp_path, ["wheels"])
    assert downloads == ["missing"]


def test_another_list_of_packages_excludes_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "download_package", lambda kind, *_: pytest.fail(f"{kind} was asked"))
    path = tmp_path / "further.yaml"
    path.write_text("packages: {pip: [one, two]}")
    sources = fetch.read_list(path)
    assert fetch.chosen_packages(sources, []) == [("pip", "one"), ("pip", "two")]
    assert sources["excluded"] == LIST["excluded"] and sources["languages"] == LIST["languages"]

    for wrong in ("packages: {gem: [rails]}", "packages: [one]", "packages: 5", "[one]", ""):
        path.write_text(wrong)
        with pytest.raises(ArgumentError, match="must have `packages` with sections of deb, npm, pip, src"):
            fetch.read_list(path)

    path.write_text("packages: {npm: [zod]}")
    with pytest.raises(ArgumentError, match="zod"):
        fetch.fetch_corpus(tmp_path / "out", sources_path=path)
    assert not (tmp_path / "out").exists()


def test_a_failed_program_is_quoted():
    script = "import sys; sys.exit('reading\\nE: no package cömmons\\n')"
    with pytest.raises(subprocess.CalledProcessError) as failure:
        subprocess.run([sys.executable, "-S", "-c", script], check=True, capture_output=True)
    assert fetch.failure_reason(failure.value) == "CalledProcessError: E: no package cömmons"
    assert fetch.failure_reason(OSError("disk full")) == "OSError: disk full"


def test_no_giant_makes_up_the_corpus():
    rows = [{"path": f"{number}", "text": "x" * 50_000} for number in range(150)]
    kept = fetch.sampled_rows(rows, "p")
    assert len(kept) == 100 and fetch.sampled_rows(rows[::-1], "p") == kept
    assert [row["path"] for row in kept] != sorted(row["path"] for row in kept)
    small = [{"path": f"{number}", "text": "x" * 100} for number in range(150)]
    assert len(fetch.sampled_rows(small, "p")) == 150


@pytest.mark.parametrize(
    ("package", "project"),
    [
        ("golang-github-go-chi-chi-dev", "chi"),
        ("librust-tokio-util-dev", "tokio"),
        ("php-laravel-framework", "laravel"),
        ("pdfjs-dist", "pdf.js"),
        ("git", "git"),
        ("NetworkX", "networkx"),
        ("git-annex", None),
        ("librust-serde-cbor-dev", None),
    ],
)
def test_packages_of_excluded_projects(package, project):
    assert fetch.excluded_project(package, LIST["excluded"]) == project


def test_the_list_has_no_excluded_package_and_what_was_counted_is_of_it():
    packages = fetch.chosen_packages(LIST, [])
    assert len(packages) == len(set(packages)) >= 400
    listed = {**LIST, "packages": {**LIST["packages"], "npm": ["zod"]}}
    with pytest.raises(ArgumentError, match="the list has zod"):
        fetch.chosen_packages(listed, [])

    nano = RECIPE.parent / "mose-nano"
    further = fetch.chosen_packages(fetch.read_list(nano / "further_sources.yaml"), [])
    assert len(further) == len(set(further)) >= 1000 and not set(further) & set(packages)

    for path, listed in ((RECIPE / "corpus.json", packages), (nano / "further_corpus.json", further)):
        report = json.loads(path.read_text())
        assert sum(report["files"].values()) == report["kept"] > 0
        assert set(report["files"]) == set(report["characters"]) <= set(LIST["languages"])
        assert 400 <= report["repositories"] <= len(listed)
