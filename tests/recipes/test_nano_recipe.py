"""The recipe of mose-nano as one command: it trains, measures on the way, resumes, and repeats nothing."""

import json
from pathlib import Path

import pytest
import recipe
import yaml
from safetensors.torch import load_file
from transformers import AutoModel

FUNCTION = 'def {0}_{1}(x, {1}):\n    """{2} the {1} of all values."""\n    y = {0}(x)\n    return y + {1}\n\n\n'
VERBS = {"least": "Return", "sorted": "Sort", "total": "Add", "length": "Count", "median": "Find"}
NOUNS = ("price", "weight", "colour", "height", "number", "letter", "planet", "river")


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_teacher):
    """Run the recipe at a tiny size with further flags; returns the exit code and the output folder."""
    folder = tmp_path_factory.mktemp("recipe")
    code = "".join(FUNCTION.format(verb, noun, VERBS[verb]) for verb in VERBS for noun in NOUNS)
    row = {"repository": "r", "path": "a.py", "language": "python", "text": code}
    (folder / "shard.jsonl").write_text(json.dumps(row) + "\n")

    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "exit_layers": [0, 1, 2]}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 320, "gate_size": 8}
    small = yaml.safe_load((Path(recipe.HERE) / "recipe.yaml").read_text())
    small |= {
        "model": sizes,
        "functions": {"python": 99},
        "hard_negatives": {"share": 0.5, "below": 2.0, "among": 3},
    }
    small["common"] |= {"per_device_train_batch_size": 8, "max_query_length": 80, "max_document_length": 99}
    for stage in small["stages"].values():
        stage["max_steps"] = 2
    (folder / "recipe.yaml").write_text(yaml.safe_dump(small, sort_keys=False))

    development = folder / "dev"
    development.mkdir()
    texts = {"corpus": "def least(values): return min(values)", "queries": "Return the least."}
    for name, text in texts.items():
        (development / f"{name}.jsonl").write_text(json.dumps({"_id": "0", "text": text, "language": ""}) + "\n")
    (development / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n0\t0\t1\n")

    def run_recipe(monkeypatch, name, *flags):
        words = ["recipe.py", "--shards", folder / "shard.jsonl", "--recipe", folder / "recipe.yaml"]
        words += ["--teacher", tiny_teacher, tiny_teacher, "--teacher-cache", folder / "teacher"]
        words += ["--output-dir", folder / name, "--develop", development, "--develop-steps", 1, *flags]
        monkeypatch.setattr("sys.argv", list(map(str, words)))
        return recipe.main(), folder / name

    return run_recipe


@pytest.mark.slow
def test_the_command_trains_measures_and_repeats_nothing(run, monkeypatch):
    code, folder = run(monkeypatch, "whole")
    assert code == 0
    points = [json.loads(line) for line in (folder / "curve.jsonl").read_text().splitlines()]
    assert [(point["stage"], point["step"], point["pairs"]) for point in points] == [
        *(("exit-0", 1, 8), ("exit-0", 2, 16)),
        *(("blocks", 1, 8), ("blocks", 2, 16)),
    ]
    assert points[0]["mrr"] == {"dev": {"0": 1.0}} and set(points[-1]["mrr"]["dev"]) == {"0", "1", "2"}
    model = AutoModel.from_pretrained(folder / "blocks", trust_remote_code=True)
    assert model.exit_layers == (0, 1, 2)

    before = (folder / "curve.jsonl").read_bytes()
    assert run(monkeypatch, "whole")[0] == 0
    assert (folder / "curve.jsonl").read_bytes() == before

    # A killed stage resumes from its checkpoint, and ends with the same weights.
    wanted = load_file(folder / "blocks" / "model.safetensors")
    (folder / "blocks" / "done").unlink()
    assert run(monkeypatch, "whole")[0] == 0
    resumed = load_file(folder / "blocks" / "model.safetensors")
    assert all(wanted[name].equal(tensor) for name, tensor in resumed.items())

    # The result is a trunk with its tokenizer: from one, all blocks are trained at once.
    code, second = run(monkeypatch, "second", "--trunk", folder / "blocks")
    assert code == 0 and (second / "blocks" / "done").exists() and not (second / "exit-0").exists()
