"""Write the triples as a dataset that others load: parquet files and a card, on disk and on the Hub."""

import itertools
import shutil
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow
from huggingface_hub import DatasetCard, DatasetCardData, HfApi
from huggingface_hub.errors import HfHubHTTPError
from pyarrow.parquet import ParquetWriter

from mose.utils.files import atomic_folder

COLUMNS = ("text", "code_a", "code_b", "language_a", "language_b", "repository")
SCHEMA = pyarrow.schema([(name, pyarrow.string()) for name in COLUMNS])
DATA_FOLDER = "data"
ROWS_PER_FILE, ROWS_PER_BATCH = 200_000, 1024
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_CARD = """
# {title}

{total:,} triples (text, code A, code B), made like SynthCoNL (arXiv 2503.03008, section 4). Text and code A are
from {source}. Code B is code A, translated by `{model}` into another of eight languages. Translations were parsed
by tree-sitter, not run: expect some that differ in behaviour.

| column | holds |
|---|---|
| `text` | description of the code |
| `code_a`, `language_a` | the original code, and its language |
| `code_b`, `language_b` | its translation, and the language of that |
| `repository` | origin of code A, "" if unknown |

There are no near-duplicates among the codes A, and none among the codes B: the estimated Jaccard similarity of
character 5-grams is below 0.7 (MinHash, 256 permutations).

## Left out
| reason | rows |
|---|---:|
{left_out}
"""


def write_dataset(rows: Iterable[Mapping[str, str]], folder: Path, rows_per_file: int = ROWS_PER_FILE) -> int:
    """Write `data/train-*.parquet` in `folder`, and replace the old files once all rows are written.

    Returns:
        The number of rows. Without rows, nothing is written.
    """
    rows, total = iter(rows), 0
    new_folder = folder / f"{DATA_FOLDER}.new"
    shutil.rmtree(new_folder, ignore_errors=True)  # of a killed build

    with atomic_folder(new_folder) as partial:
        parts: list[Path] = []
        while (first := next(rows, None)) is not None:
            parts.append(partial / f"part-{len(parts):05d}.parquet")
            total += _write_part(itertools.chain([first], itertools.islice(rows, rows_per_file - 1)), parts[-1])
        # The Hub's names have the number of files, which is known only now.
        for number, path in enumerate(parts):
            path.rename(partial / f"train-{number:05d}-of-{len(parts):05d}.parquet")

    if not total:
        new_folder.rmdir()
        return 0

    shutil.rmtree(folder / DATA_FOLDER, ignore_errors=True)
    new_folder.rename(folder / DATA_FOLDER)
    return total


def _write_part(rows: Iterable[Mapping[str, str]], path: Path) -> int:
    count = 0
    rows = iter(rows)
    with ParquetWriter(path, SCHEMA) as writer:
        while batch := list(itertools.islice(rows, ROWS_PER_BATCH)):
            writer.write_batch(pyarrow.RecordBatch.from_pylist(batch, SCHEMA))
            count += len(batch)
    return count


def write_dataset_card(
    folder: Path, counts: Counter[str], model: str, source: str, license_id: str | None = None
) -> None:
    """Write the dataset card, `README.md`: origin, contents, and what was left out.

    Args:
        folder: folder of the dataset.
        counts: as `mose.data.synthconl.translations.Translations.triples` updates them.
        model: name of the translator.
        source: origin of text and code A, in words or as a Hub id.
        license_id: the Hub's identifier of the licence; None for no licence in the card.

    Raises:
        ValueError: the front matter cannot be parsed by the Hub's client.
    """
    total = counts["triples"]
    files = [{"split": "train", "path": f"{DATA_FOLDER}/train-*.parquet"}]
    data = DatasetCardData(
        language=["en", "code"],
        license=license_id,
        pretty_name="Triples of a description and its code in two languages",
        task_categories=["feature-extraction", "text-retrieval"],
        tags=["code", "code-retrieval", "code-translation", "synthetic"],
        size_categories=[next((name for limit, name in _SIZES if total < limit), "1M<n<10M")],
        configs=[{"config_name": "default", "data_files": files}],
    )

    left_out = "\n".join(f"| {reason} | {n} |" for reason, n in sorted(counts.items()) if reason != "triples")
    text = _CARD.format(title=data.pretty_name, total=total, source=source, model=model, left_out=left_out)
    # A model name or licence can break the YAML: read it back before anything is pushed.
    card = DatasetCard(f"---\n{data.to_yaml()}\n---\n{text}")
    if card.data.to_dict() != data.to_dict():
        raise ValueError("the card's front matter changes when it is read back")

    card.save(folder / "README.md")


def push(folder: Path, repo_id: str, private: bool = False) -> str:
    """Push data and card to a dataset repository, and return the address of the commit.

    The repository is created if it is missing, privately if `private`. Nothing else of the folder is pushed.

    Raises:
        ValueError: the folder has no finished dataset, or the Hub rejects the card.
        RuntimeError: the Hub cannot be reached, or rejects the push.
    """
    if not (folder / "README.md").is_file() or not list((folder / DATA_FOLDER).glob("*.parquet")):
        raise ValueError(f"{folder} has no finished dataset. Build it first.")

    DatasetCard.load(folder / "README.md").validate(repo_type="dataset")
    api = HfApi()

    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        return api.upload_folder(
            repo_id=repo_id,
            repo_type="dataset",
            folder_path=folder,
            allow_patterns=["README.md", f"{DATA_FOLDER}/*.parquet"],
            delete_patterns=f"{DATA_FOLDER}/*.parquet",
            commit_message="Add triples of text and code in two languages",
        ).commit_url
    except HfHubHTTPError as error:  # some of its kinds are also ValueErrors, which would mean bad arguments
        raise RuntimeError(str(error)) from error
