"""The retrieval sets of the published figures, built from files that their authors keep on GitHub.

Every file is pinned by commit and SHA-256, so a set is the same on every machine. `mose eval sets` writes them.
"""

import hashlib
import json
import logging
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from mose.utils.files import atomic_folder, atomic_write_json, atomic_write_text

logger = logging.getLogger("mose.eval")

#: Where files of a commit are; tests replace it.
HOST = "https://raw.githubusercontent.com"
#: Seconds without an answer.
TIMEOUT = 60

#: An id, a text and its language.
Text = tuple[str, str, str]
#: Documents, queries, and which document answers which query.
SetTables = tuple[list[Text], list[Text], list[tuple[str, str]]]


class PublicSet(NamedTuple):
    """A set, and the files that it is built from.

    Attributes:
        repository: owner and name on GitHub.
        commit: full hash.
        folder: of the files in the repository.
        licence: of the files, as the repository has it.
        files: name -> SHA-256.
        build: text of each file by name -> tables of the set.
    """

    repository: str
    commit: str
    folder: str
    licence: str
    files: Mapping[str, str]
    build: Callable[[Mapping[str, str]], SetTables]


def build_sets(
    output_dir: str | Path, names: Iterable[str] = (), clones: str | Path | None = None
) -> dict[str, Path]:
    """Write retrieval sets in the BEIR layout, and return their folders by name.

    A set appears complete or not at all. A folder that exists already is kept as it is.

    Args:
        output_dir: gets a folder for each set.
        names: of `PUBLIC_SETS`; empty means all.
        clones: folder with OWNER/NAME clones of the repositories, to read instead of GitHub.

    Raises:
        ValueError: no such set, or a file is not the one that the figures were measured on.
        FileNotFoundError: a clone lacks a file.
        OSError: GitHub cannot be reached.
    """
    names = list(names) or list(PUBLIC_SETS)
    for name in names:
        if name not in PUBLIC_SETS:
            raise ValueError(f"set must be one of {', '.join(PUBLIC_SETS)}, got {name!r}.")

    folders = {name: Path(output_dir) / name for name in names}
    missing = [name for name in names if not folders[name].exists()]
    for name in set(names) - set(missing):
        logger.info("%s exists and is kept", folders[name])

    for name in tqdm(missing, unit="set", desc="sets"):
        chosen = PUBLIC_SETS[name]
        texts = {file: _read_source(chosen, file, clones) for file in tqdm(chosen.files, desc=name, leave=False)}
        _write_set(folders[name], chosen, chosen.build(texts))
    return folders


def _read_source(chosen: PublicSet, name: str, clones: str | Path | None) -> str:
    """Return the text of a file, after its checksum was compared."""
    if clones is not None:
        place = str(Path(clones) / chosen.repository / chosen.folder / name)
        content = Path(place).read_bytes()
    else:
        place = f"{HOST}/{chosen.repository}/{chosen.commit}/{chosen.folder}/{name}"
        try:
            with urllib.request.urlopen(place, timeout=TIMEOUT) as response:
                content = response.read()
        except OSError as error:
            raise OSError(f"{place}: {error}. Try again, or pass --clones with clones made elsewhere.") from error

    if (digest := hashlib.sha256(content).hexdigest()) != chosen.files[name]:
        raise ValueError(
            f"{place} must have SHA-256 {chosen.files[name]}, got {digest}. Take commit {chosen.commit}."
        )
    # One document contains a byte that is not UTF-8.
    return content.decode(errors="replace")


def _write_set(folder: Path, chosen: PublicSet, tables: SetTables) -> None:
    documents, queries, judgements = tables
    corpus_rows = ({"_id": i, "title": "", "text": text, "language": language} for i, text, language in documents)
    query_rows = ({"_id": i, "text": text, "language": language} for i, text, language in queries)
    qrels = "".join(f"{query}\t{document}\t1\n" for query, document in judgements)

    with atomic_folder(folder) as staging:
        for name, rows in (("corpus", corpus_rows), ("queries", query_rows)):
            lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            atomic_write_text(staging / f"{name}.jsonl", "".join(lines))
        atomic_write_text(staging / "qrels.tsv", "query-id\tcorpus-id\tscore\n" + qrels)
        source = {key: getattr(chosen, key) for key in ("repository", "commit", "folder", "licence")}
        atomic_write_json(staging / "source.json", source | {"files": dict(chosen.files)})


# --- The sets ----------------------------------------------------------------------------------------------


def _numbered(prefix: str, texts: Iterable[str], language: str) -> list[Text]:
    return [(f"{prefix}{number}", text, language) for number, text in enumerate(texts)]


def _same_numbers(count: int) -> list[tuple[str, str]]:
    return [(f"q{number}", f"c{number}") for number in range(count)]


def cosqa_tables(files: Mapping[str, str]) -> SetTables:
    """Return web queries, and the Python functions of all splits."""
    codes = json.loads(files["code_idx_map.txt"])
    rows = json.loads(files["cosqa-retrieval-dev-500.json"])

    documents = [(f"c{number}", code, "python") for code, number in codes.items()]
    judgements = [(f"q{number}", f"c{row['retrieval_idx']}") for number, row in enumerate(rows)]
    return documents, _numbered("q", (row["doc"] for row in rows), "en"), judgements


def docstring_tables(files: Mapping[str, str]) -> SetTables:
    """Return first sentences of docstrings, of three words and more, each once; and their functions."""
    names = ("data_ps.descriptions.valid", "data_ps.declbodies.valid")
    descriptions, functions = (files[name].removesuffix("\n").split("\n") for name in names)

    pairs: dict[str, str] = {}
    for description, function in zip(descriptions, functions, strict=True):
        # DCNL and DCSP stand for new lines and for four spaces of indentation.
        plain = description.strip().strip("'\"").replace("DCNL", " ").replace("DCSP", " ")
        sentence = " ".join(plain.split())
        if match := re.match(r"(.+?[.!?])(?:\s|$)", sentence):
            sentence = match[1]
        lines = [
            "    " * line.count("DCSP") + line.replace("DCSP", "").strip() for line in function.split("DCNL")
        ]
        if len(sentence.split()) >= 3:
            pairs.setdefault(sentence, "\n".join(lines).strip())

    return _numbered("c", pairs.values(), "python"), _numbered("q", pairs, "en"), _same_numbers(len(pairs))


def java_csharp_tables(files: Mapping[str, str]) -> SetTables:
    """Return methods in Java, and the same in C#: line N of one file is line N of the other."""
    java, csharp = (
        [line.strip() for line in files[f"valid.java-cs.txt.{end}"].splitlines()] for end in ("java", "cs")
    )
    return _numbered("c", csharp, "csharp"), _numbered("q", java, "java"), _same_numbers(len(java))


def mbxp_tables(files: Mapping[str, str]) -> SetTables:
    """Return solutions in Python, and those of the same tasks in other languages, as far as there are any."""
    solved: dict[str, dict[int, str]] = {}
    for file, language in MBXP_LANGUAGES.items():
        rows = map(json.loads, files[file].splitlines())
        tasks = {int(row["task_id"].split("/")[1]): row for row in rows}
        solved[language] = {
            task: bare_code(tasks[task]["prompt"] + tasks[task]["canonical_solution"], language)
            for task in MBXP_TASKS
            if tasks.get(task, {}).get("canonical_solution")
        }

    queries = [(f"q{task}", solved["python"][task], "python") for task in MBXP_TASKS]
    solutions = [(language, task) for task in MBXP_TASKS for language in solved if task in solved[language]]
    others = [(language, task) for language, task in solutions if language != "python"]
    documents = [(f"{language}-{task}", solved[language][task], language) for language, task in others]
    return documents, queries, [(f"q{task}", f"{language}-{task}") for language, task in others]


def bare_code(text: str, language: str) -> str:
    """Return code without comments, docstrings, imports and blank lines: they hold the task's description."""
    if language == "python":
        text = re.sub(r"(\"{3}|'{3}).*?\1", "", text, flags=re.DOTALL)
        left_out: tuple[str, ...] = ("#",)
    else:
        text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
        left_out = ("#",) if language == "ruby" else ("import ", "#include", "using ", "<?php", "//")

    lines = [line for line in text.split("\n") if line.strip() and not line.strip().startswith(left_out)]
    return "\n".join(lines).strip()


#: File of MBXP -> its language; the order is that of a task's documents.
MBXP_LANGUAGES = {
    "mbpp_release_v1.jsonl": "python",
    "mbjp_release_v1.2.jsonl": "java",
    "mbjsp_release_v1.2.jsonl": "javascript",
    "mbrbp_release_v1.2.jsonl": "ruby",
    "mbphp_release_v1.2.jsonl": "php",
    "mbcpp_release_v1.2.jsonl": "cpp",
    "mbcsp_release_v1.2.jsonl": "csharp",
}
#: The fifth of the tasks that the figures are of; the shipped model was trained on others.
# fmt: off
MBXP_TASKS = (
    9, 10, 13, 17, 19, 34, 35, 45, 54, 55, 56, 61, 66, 69, 76, 78, 93, 99, 101, 102, 104, 112, 123, 125, 128,
    131, 134, 135, 137, 143, 150, 158, 159, 164, 173, 176, 177, 191, 193, 198, 205, 209, 210, 214, 217, 220,
    242, 247, 258, 264, 266, 269, 270, 272, 273, 276, 279, 283, 292, 294, 296, 298, 300, 303, 312, 319, 320,
    325, 331, 332, 347, 349, 352, 353, 358, 362, 366, 381, 383, 384, 388, 389, 392, 398, 399, 402, 412, 425,
    426, 432, 438, 449, 453, 454, 460, 461, 462, 464, 474, 478, 483, 502, 506, 510, 515, 520, 527, 528, 529,
    537, 538, 550, 552, 557, 569, 572, 580, 588, 594, 598, 602, 608, 612, 615, 616, 618, 625, 627, 632, 636,
    646, 651, 653, 660, 662, 667, 669, 679, 693, 694, 697, 700, 709, 716, 717, 725, 728, 731, 737, 740, 747,
    751, 753, 755, 756, 760, 763, 768, 773, 781, 783, 784, 791, 792, 795, 805, 806, 808, 814, 815, 818, 832,
    843, 847, 865, 866, 884, 896, 903, 910, 914, 918, 919, 921, 924, 931, 934, 935, 936, 943, 948, 952, 953,
    957, 958, 959, 966, 967, 970,
)
# fmt: on

#: Name of a set -> how it is built.
PUBLIC_SETS = {
    "cosqa-dev": PublicSet(
        "Jun-jie-Huang/CoCLR",
        "14ebcacf9e9bc3e7109102632bc63047876f27d2",
        "data/search",
        "MIT",
        {
            "code_idx_map.txt": "be8a910ca03cb9f1b38a0eba6dc8109eeb8040a40aaba1a467a7b8426d261f3f",
            "cosqa-retrieval-dev-500.json": "ccdfffee7ae1f1cf1a0406566a61c984f4fbce678c8ea108eedd03d11bff9518",
        },
        cosqa_tables,
    ),
    "docstring-python-dev": PublicSet(
        "EdinburghNLP/code-docstring-corpus",
        "385207e41898dece913cafb8a5b31144014db29d",
        "parallel-corpus",
        "research in machine learning; see LICENCE of the repository",
        {
            "data_ps.declbodies.valid": "283a07e28e331540062b29692f5d8e8992e03592093ac45bd31e5b238489d9ce",
            "data_ps.descriptions.valid": "1fdbe7923bc0b57b5178de4c5de95a35483687122afcf5481ba1f7143a293fa1",
        },
        docstring_tables,
    ),
    "mbxp-dev": PublicSet(
        "amazon-science/mxeval",
        "e09974f990eeaf0c0e8f2b5eaff4be66effb2c86",
        "data/mbxp",
        "CC BY 4.0",
        {
            "mbpp_release_v1.jsonl": "2ea7949f20ed5ecaacf4c9970d29430ec3f13772f4dd379665b1234f14b0ec3e",
            "mbjp_release_v1.2.jsonl": "139a0fcdff2f4c6d456c546c82f43a1f389dfe3125f5f2c3f6a12f478483dffd",
            "mbjsp_release_v1.2.jsonl": "9e443a1911bcedd8b5193f43d3217666fbf669cd00d54265941a8eb17e396f5a",
            "mbrbp_release_v1.2.jsonl": "fe8c043b7d56f5d122c6aaf24e1dcb78816175a0687a73c03873043a6349b85d",
            "mbphp_release_v1.2.jsonl": "aec706039e49bc1bd1c9aaf4cf4815a34777b8387bdc59c1b274312071f3a605",
            "mbcpp_release_v1.2.jsonl": "34a842515927e230eb2bd6e409a44c80a852b0afcbe1172786bd08cfef8b85b0",
            "mbcsp_release_v1.2.jsonl": "e11db33a6c5582a5c8d548ef75a23f0307540a765f889dcd2b7d13e99ea538e4",
        },
        mbxp_tables,
    ),
    "java-csharp-dev": PublicSet(
        "microsoft/CodeXGLUE",
        "ac74a62802a0dd159b3258c78a2df8ad36cdf2b9",
        "Code-Code/code-to-code-trans/data",
        "MIT",
        {
            "valid.java-cs.txt.cs": "513c430d61901a90895b22fb235c532dbdc26b84db9d825e1d04a5856a97aec1",
            "valid.java-cs.txt.java": "5cf92447fd81e126c7d791527f71d16dbcb91d3aa4aafda5c7d9d5c30d75a204",
        },
        java_csharp_tables,
    ),
}
