"""Folders that a run must not write to."""

import pytest

from mose.training.output_folder import claim_output

FOREIGN = ("model.safetensors", "config.json", "thesis.tex", "data/rows.jsonl", ".git/HEAD", "checkpoint-x/a")


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("task", ["finetune", "pretrain", "classify"])
def test_output_folder_with_foreign_files(tmp_path, tries, name, task):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"mine")
    with pytest.raises(ValueError, match="must be empty or hold a training run"), claim_output(tmp_path, task):
        pass
    assert path.read_bytes() == b"mine"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.relative_to(tmp_path).parts[0]]
    tries.record("output folder with foreign files", "refused, left as it was", area="training")
