from collections import Counter
from pathlib import Path

from datasets import load_dataset
from huggingface_hub import HfApi, snapshot_download

from mose.data.synthconl.__main__ import main
from mose.data.synthconl.dataset import write_dataset, write_dataset_card


def test_a_pushed_dataset_is_loaded_by_its_id(online, tmp_path, capsys):
    rows = [
        {
            "text": f"t{i}",
            "code_a": f"a{i}",
            "code_b": f"b{i}",
            "language_a": "c",
            "language_b": "go",
            "repository": "",
        }
        for i in range(5)
    ]
    write_dataset(rows, tmp_path, rows_per_file=2)
    write_dataset_card(tmp_path, Counter(triples=5), "owner/translator", "owner/source", "mit")
    (tmp_path / "answers.jsonl").write_text("not to be pushed\n")
    assert main(["push", str(tmp_path), "owner/triples"]) == 0
    assert "owner/triples" in capsys.readouterr().out
    fetched = Path(snapshot_download("owner/triples", repo_type="dataset", local_dir=tmp_path / "fetched"))
    assert not (fetched / "answers.jsonl").exists()
    assert load_dataset(str(fetched), split="train", cache_dir=str(tmp_path / "cache")).to_list() == rows
    # A smaller build takes the place of the larger one.
    write_dataset(rows[:1], tmp_path)
    assert main(["push", str(tmp_path), "owner/triples"]) == 0
    names = [name for name in HfApi().list_repo_files("owner/triples", repo_type="dataset") if "parquet" in name]
    assert names == ["data/train-00000-of-00001.parquet"]
