"""The triples as a dataset that others load: parquet files, a card, the Hub."""

import itertools
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from pyarrow.parquet import ParquetWriter

from mose.tokenization.prompts import LANGUAGES

COLUMNS = ("text", "code_a", "code_b", "language_a", "language_b", "repository")
SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS])
DATA_FOLDER = "data"
ROWS_PER_FILE, ROWS_AT_ONCE = 200_000, 1024
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))


def write_dataset(rows: Iterable[Mapping[str, str]], folder: Path, rows_per_file: int = ROWS_PER_FILE) -> int:
    """Writes `data/train-*.parquet` below `folder`, in place of what was there, once all rows are written.

    Returns:
        How many rows there are; for none, nothing is written.
    """
    unfinished = folder / f"{DATA_FOLDER}.unfinished"
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    rows, total = iter(rows), 0
    while True:
        part = itertools.islice(rows, rows_per_file)
        path = unfinished / f"part-{total // rows_per_file:05d}.parquet"
        count = _write_part(part, path)
        total += count
        if count < rows_per_file:
            break
    if total % rows_per_file == 0:
        path.unlink()  # nothing followed the last that was full
    if not total:
        unfinished.rmdir()
        return 0
    parts = sorted(unfinished.iterdir())
    for number, path in enumerate(parts):
        path.rename(unfinished / f"train-{number:05d}-of-{len(parts):05d}.parquet")
    shutil.rmtree(folder / DATA_FOLDER, ignore_errors=True)
    unfinished.rename(folder / DATA_FOLDER)
    return total


def _write_part(rows: Iterable[Mapping[str, str]], path: Path) -> int:
    count = 0
    rows = iter(rows)
    with ParquetWriter(path, SCHEMA) as writer:
        while batch := list(itertools.islice(rows, ROWS_AT_ONCE)):
            writer.write_batch(pyarrow.RecordBatch.from_pylist(batch, SCHEMA))
            count += len(batch)
    return count


def write_card(
    folder: Path,
    counts: Counter[str],
    languages: Counter[tuple[str, str]],
    model: str,
    source: str,
    license_id: str | None = None,
) -> None:
    """Writes `README.md`: how the dataset was made, of what, and what was left out.

    Args:
        folder: The dataset's.
        counts: As `building.triples` leaves them.
        languages: (language A, language B) → triples.
        model: The translator's name.
        source: Where text and code A come from, in words or as a Hub id.
        license_id: The Hub's identifier of the licence; None leaves it out.

    Raises:
        ValueError: the Hub's client cannot read the front matter back.
    """
    total = counts["triples"]
    data = DatasetCardData(
        language=["en", "code"],
        license=license_id,
        pretty_name="Triples of a description and its code in two languages",
        task_categories=["feature-extraction", "text-retrieval"],
        tags=["code", "code-retrieval", "code-translation", "synthetic"],
        size_categories=[next((name for limit, name in _SIZES if total < limit), "1M<n<10M")],
        configs=[
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": f"{DATA_FOLDER}/train-*.parquet"}],
            }
        ],
    )
    keys = sorted({key for pair in languages for key in pair})
    header = "| from \\ to | " + " | ".join(LANGUAGES[key] for key in keys) + " |"
    table = [header, "|---|" + "---:|" * len(keys)]
    for a in keys:
        cells = " | ".join(str(languages[a, b] or "") for b in keys)
        table.append(f"| {LANGUAGES[a]} | {cells} |")
    left_out = [f"| {reason} | {n} |" for reason, n in sorted(counts.items()) if reason != "triples"]
    text = f"""
# {data.pretty_name}

{total:,} triples (text, code A, code B), made as SynthCoNL was (arXiv 2503.03008, section 4). Text and code A
are of {source}; code B is code A, translated by `{model}` into another of eight languages. Translations were
parsed by tree-sitter, not run: expect some that differ in behaviour.

| column | holds |
|---|---|
| `text` | what the code does, in words |
| `code_a`, `language_a` | the code that was found, and its language |
| `code_b`, `language_b` | its translation, and the language of that |
| `repository` | where code A comes from, "" where unknown |

Code A and code B have no near-duplicates among their like: estimated Jaccard similarity of character 5-grams
below 0.7 (MinHash, 256 permutations).

## Languages
{chr(10).join(table)}

## Left out
| reason | rows |
|---|---:|
{chr(10).join(left_out)}
"""
    card = DatasetCard(f"---\n{data.to_yaml()}\n---\n{text}")
    if card.data.to_dict() != data.to_dict():
        raise ValueError("the card's front matter does not read back as it was written")
    card.save(folder / "README.md")


def push(folder: Path, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Pushes data and card, and nothing else of the build, to a dataset repository, which is made where missing.

    Returns:
        The commit's address.

    Raises:
        ValueError: the folder holds no finished dataset, or the Hub refuses the card.
    """
    if not (folder / "README.md").is_file() or not list((folder / DATA_FOLDER).glob("*.parquet")):
        raise ValueError(f"{folder} holds no finished dataset; build it first")
    DatasetCard.load(folder / "README.md").validate(repo_type="dataset")
    api = HfApi(token=token)
    api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
    return api.upload_folder(
        repo_id=repo_id,
        repo_type="dataset",
        folder_path=folder,
        allow_patterns=["README.md", f"{DATA_FOLDER}/*.parquet"],
        delete_patterns=f"{DATA_FOLDER}/*.parquet",
        commit_message="Add triples of text and code in two languages",
    ).commit_url
