"""The recipe of mose-nano as one command: it trains, measures on the way, resumes, and repeats nothing."""

import json
from argparse import Namespace
from collections import Counter
from pathlib import Path

import curve_figure
import pilots
import pytest
import recipe
import torch
import yaml
from curve import mean_mrr, set_mrr
from safetensors.torch import load_file
from transformers import AutoModel
from weights import check_sizes

from mose.configuration_mose import MoSEConfig

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
        "teachers": {"first": {}, "second": {"query": "query: "}},
    }
    small["common"] |= {"per_device_train_batch_size": 8, "max_query_length": 80, "max_document_length": 99}
    small["common"]["matryoshka_dims"] = [8]
    for stage in small["stages"].values():
        stage["max_steps"] = 2
    (folder / "recipe.yaml").write_text(yaml.safe_dump(small, sort_keys=False))

    development = folder / "dev"
    development.mkdir()
    texts = {"corpus": "def least(values): return min(values)", "queries": "Return the least."}
    for name, text in texts.items():
        (development / f"{name}.jsonl").write_text(json.dumps({"_id": "0", "text": text, "language": ""}) + "\n")
    (development / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\n0\t0\t1\n")

    def run_recipe(monkeypatch, name, *flags, program=recipe, over=()):
        words = [program.__file__, "--shards", folder / "shard.jsonl", "--recipe", folder / "recipe.yaml", *over]
        words += ["--teacher", tiny_teacher, tiny_teacher, "--teacher-cache", folder / "teacher"]
        words += ["--output-dir", folder / name, "--develop", development, "--develop-steps", 1, *flags]
        monkeypatch.setattr("sys.argv", list(map(str, words)))
        return program.main(), folder / name

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
    assert points[0]["mrr"] == {"dev": {"0": 1.0}} and set(points[-1]["mrr"]["dev"]) == {"0", "1", "2", "0 on 2"}
    trained, turned = (
        AutoModel.from_pretrained(folder / name, trust_remote_code=True) for name in ("blocks", "rotated")
    )
    assert trained.exit_layers == (0, 1, 2)
    # The result is what was trained, but for a rotation of every exit but the deepest.
    ids = torch.tensor([[1, 40, 80, 2], [1, 50, 60, 2]])
    with torch.no_grad():
        for exit_layer in trained.exit_layers:
            before, after = (model(ids, exit_layer=exit_layer).pooler_output for model in (trained, turned))
            assert after.equal(before) == (exit_layer == 2)
            torch.testing.assert_close(after @ after.T, before @ before.T, atol=1e-5, rtol=0)

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


@pytest.mark.slow
def test_further_training_starts_from_weights_with_a_recipe_over_the_recipe(run, monkeypatch, tmp_path, capsys):
    code, first = run(monkeypatch, "whole")
    assert code == 0
    stage = {"max_steps": 1, "learning_rate": 0.0, "align_exits": True}
    over = {"stages": {"more": stage}, "row_repeats": {"typed": 3}}
    file = tmp_path / "over.yaml"
    file.write_text(yaml.safe_dump(over))
    seen = {}
    train_stage = recipe.train_stage
    monkeypatch.setattr(recipe, "train_stage", lambda *a: (seen.update({a[0].name: a[3]}), train_stage(*a)))

    code, folder = run(monkeypatch, "more", "--start", first / "blocks", over=[file])
    assert code == 0 and list(seen) == ["more"]
    kinds = Counter(seen["more"].pairs["kind"][:])
    once = Counter(recipe.Dataset.from_parquet(str(folder / "pairs.parquet"))["kind"][:])
    assert kinds == once | Counter({"typed": 3 * once["typed"]}) and once["typed"] > 0

    # At a learning rate of 0, the weights are those that it started from.
    weights, wanted = (load_file(f / "model.safetensors") for f in (folder / "more", first / "blocks"))
    assert all(wanted[name].equal(tensor) for name, tensor in weights.items())

    # A share of other weights, by default of those that it started from.
    file.write_text(yaml.safe_dump(over | {"average": 0.25}))
    other = AutoModel.from_pretrained(first / "blocks", trust_remote_code=True)
    torch.nn.init.ones_(other.exits["1"].projection.bias)
    other.save_pretrained(tmp_path / "other")
    assert run(monkeypatch, "more", "--start", first / "blocks", over=[file])[0] == 0
    averaged = load_file(folder / "averaged" / "model.safetensors")
    assert all(wanted[name].equal(tensor) for name, tensor in averaged.items())
    (folder / "averaged" / "done").unlink()
    flags = ("--start", first / "blocks", "--average-with", tmp_path / "other")
    assert run(monkeypatch, "more", *flags, over=[file])[0] == 0
    averaged = load_file(folder / "averaged" / "model.safetensors")
    changed = {name: tensor for name, tensor in averaged.items() if not wanted[name].equal(tensor)}
    assert list(changed) == ["exits.1.projection.bias"]
    (bias,) = changed.values()
    torch.testing.assert_close(bias, 0.75 * wanted["exits.1.projection.bias"] + 0.25)

    # The mean is in one space if both were; the other weights were changed by hand, so they claim nothing.
    def space(directory):
        config = json.loads((directory / "config.json").read_text())
        return config["aligned_exits"], config["matryoshka_dims"]

    assert space(tmp_path / "other") == space(folder / "averaged") == (False, None)
    assert space(folder / "more") == (True, [8])
    (folder / "averaged" / "done").unlink()
    assert run(monkeypatch, "more", "--start", first / "blocks", over=[file])[0] == 0
    assert space(folder / "averaged") == (True, [8])
    capsys.readouterr()
    assert run(monkeypatch, "whole", over=[file])[0] == 1
    assert "Pass --start or --average-with" in capsys.readouterr().err

    file.write_text(yaml.safe_dump({"row_repeats": {"questions": 2}}))
    assert run(monkeypatch, "wrong", "--start", first / "blocks", over=[file])[0] == 1
    assert "kinds are documentation, path, typed, code, task, question, got questions" in capsys.readouterr().err


def test_weights_of_another_size_are_refused_before_the_long_work(tmp_path):
    MoSEConfig.from_preset("mose-nano-256").save_pretrained(tmp_path)
    settings = recipe.load_recipe([recipe.HERE / "recipe.yaml"])
    none = {"trunk": None, "start": None, "average_with": None}
    for flag in ("trunk", "average_with"):
        options = Namespace(**none | {flag: tmp_path})
        with pytest.raises(ValueError, match=f"--{flag.replace('_', '-')} must have hidden_size=384.*got 256"):
            check_sizes(options, settings)
        check_sizes(options, settings | {"preset": "mose-nano-256"})
    check_sizes(Namespace(**none | {"start": tmp_path}), settings)  # is widened

    with pytest.raises(ValueError, match="above 256, got 128"):
        small = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 1}
        check_sizes(Namespace(**none | {"start": tmp_path}), settings | {"model": small})


@pytest.mark.slow
def test_a_narrower_start_is_widened_once(run, monkeypatch, tmp_path, capsys):
    code, first = run(monkeypatch, "whole")
    assert code == 0
    sizes = recipe.load_recipe([first.parent / "recipe.yaml"])["model"]
    wide = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    stages = {"more": {"max_steps": 1, "learning_rate": 0.0, "matryoshka_dims": [16, 8]}}
    file = tmp_path / "wider.yaml"
    file.write_text(yaml.safe_dump({"model": sizes | wide, "stages": stages, "average": 0.5}))

    code, folder = run(monkeypatch, "wider", "--start", first / "blocks", over=[file])
    assert code == 0
    started, trained, mean = (
        load_file(folder / name / "model.safetensors") for name in ("widened", "more", "averaged")
    )
    for name, tensor in started.items():
        assert tensor.equal(trained[name]) and tensor.equal(mean[name]), name

    folders = (first / "blocks", folder / "more")
    narrow, wider = (AutoModel.from_pretrained(source, trust_remote_code=True) for source in folders)
    assert {name: getattr(wider.config, name) for name in wide} == wide
    ids = torch.tensor([[1, 40, 80, 2]])
    with torch.no_grad():
        old, new = (model(ids, exit_layer=0, truncate_dim=16).pooler_output for model in (narrow, wider))
    torch.testing.assert_close(old, new, atol=1e-5, rtol=0)

    # What is there is used again: another random start would be another model.
    (folder / "more" / "done").unlink()
    before = (folder / "widened" / "model.safetensors").stat().st_mtime_ns
    assert run(monkeypatch, "wider", "--start", first / "blocks", "--seed", 5, over=[file])[0] == 0
    assert (folder / "widened" / "model.safetensors").stat().st_mtime_ns == before

    assert (folder / "widened" / "tokenizer.json").exists()  # pilots start from this folder, arm by arm

    # Blocks of another shape would not hold the old ones.
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({"model": sizes | wide | {"intermediate_size": 48}}))
    capsys.readouterr()
    assert run(monkeypatch, "refused", "--start", first / "blocks", over=[file, other])[0] == 1
    assert "intermediate_size must be 64 to widen" in capsys.readouterr().err


@pytest.mark.slow
def test_pilots_compare_arms_of_equal_steps(run, monkeypatch, tmp_path, capsys):
    arms = {
        "all": {},
        "one teacher": {"teachers": ["second"]},
        "no typed queries": {"without": {"kind": ["typed"]}},
    }
    arms |= {"typed alone": {"only": {"kind": ["typed"]}}, "hard negatives": {"hard_negatives": {"share": 1.0}}}
    file = tmp_path / "pilots.yaml"
    file.write_text(yaml.safe_dump({"stage": "exit-0", "max_steps": 2, "arms": arms}, sort_keys=False))
    trained = {}
    train_stage = pilots.train_stage

    def recorded(folder, settings, model, material, callbacks):
        trained[callbacks[0].stage] = material
        train_stage(folder, settings, model, material, callbacks)

    monkeypatch.setattr(pilots, "train_stage", recorded)
    code, folder = run(monkeypatch, "pilots", "--pilots", file, program=pilots)
    assert code == 0
    results = json.loads((folder / "pilots-17.json").read_text())
    assert list(results) == list(arms) and all(mrr == {"dev": {"0": 1.0}} for mrr in results.values())
    printed = capsys.readouterr().out.splitlines()
    assert "| no typed queries | 0 |  |  |  |  |  | 1.0000 |" in printed

    kinds = {name: set(material.pairs["kind"][:]) for name, material in trained.items()}
    assert "typed" in kinds["all"] and kinds["no typed queries"] == kinds["all"] - {"typed"}
    assert kinds["typed alone"] == {"typed"}
    assert ["negative" in material.pairs.column_names for material in trained.values()] == [*[False] * 4, True]
    assert [material.vectors.shape[1] for material in trained.values()] == [96, 48, 96, 96, 96]

    # What is done is not done again, and an unknown arm is refused with the known ones.
    assert run(monkeypatch, "pilots", "--pilots", file, "--arm", "all", program=pilots)[0] == 0
    assert len(trained) == 5
    capsys.readouterr()
    assert run(monkeypatch, "pilots", "--pilots", file, "--arm", "none", program=pilots)[0] == 1
    assert "--arm must be one of all, one teacher, no typed queries" in capsys.readouterr().err
    assert run(monkeypatch, "pilots", "--pilots", file, "--develop", program=pilots)[0] == 1
    assert "Pass --develop" in capsys.readouterr().err


@pytest.mark.slow
def test_questions_get_code_of_the_pairs_unless_an_evaluation_set_has_them(run, monkeypatch, tmp_path, capsys):
    asked = [f"how do I {verb.lower()} every {noun}" for verb in VERBS.values() for noun in NOUNS]
    (tmp_path / "questions.txt").write_text("\n".join([*asked, "Alike: Return the Least of all These Numbers"]))
    (tmp_path / "set").mkdir()
    rows = [{"_id": "0", "text": "Alike: return the least of all these numbers now"}]
    rows.append({"_id": "1", "text": "how do I sort every planet?"})
    (tmp_path / "set" / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    seen = {}
    monkeypatch.setattr(recipe, "train_stage", lambda *a: seen.update({a[0].name: a[3]}) or a[0].mkdir())
    over = tmp_path / "over.yaml"
    over.write_text(
        yaml.safe_dump(
            {"questions": {"share": 1.0, "repeats": 99}, "stages": {"exit-0": {}}, "rotation_pairs": 0}
        )
    )
    flags = ("--questions", tmp_path / "questions.txt", "--exclude", tmp_path / "set", "--cached-only")
    code, folder = run(monkeypatch, "questions", *flags[:-1], over=[over])
    assert code == 0

    pairs = seen["exit-0"].pairs
    questions = pairs.select([row for row, kind in enumerate(pairs["kind"][:]) if kind == "question"])
    assert set(questions["query"][:]) == set(asked) - {"how do I sort every planet"}
    known = recipe.Dataset.from_parquet(str(folder / "pairs.parquet"))
    assert set(questions["document"][:]) <= set(known["teacher_document"][:])
    overlap = json.loads((folder / "overlap-questions.json").read_text())
    assert overlap == {"questions": len(asked), "left_out": 1, "texts": {"set": 1}}

    # With the vectors that are there, a later run makes the same rows.
    assert run(monkeypatch, "again", *flags, over=[over])[0] == 0
    again = recipe.Dataset.from_parquet(str(folder.parent / "again" / "questions.parquet"))
    assert again["query"][:] == questions["query"][:] and again["document"][:] == questions["document"][:]

    (tmp_path / "questions.txt").write_text("How do I sort every planet?")
    assert run(monkeypatch, "none", *flags, over=[over])[0] == 1
    assert "--questions: none is left" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_may_start_before_the_teachers_are_done(run, monkeypatch, capsys):
    code, folder = run(monkeypatch, "before")
    assert code == 0
    known = recipe.Dataset.from_parquet(str(folder / "pairs.parquet"))
    keys = [recipe.text_key(text) for text in known["teacher_query"][:]]
    cached = recipe.cached_embeddings

    def half(*arguments):
        return {key: vector for key, vector in cached(*arguments).items() if key not in keys[: len(keys) // 2]}

    monkeypatch.setattr(recipe, "cached_embeddings", half)
    capsys.readouterr()
    assert run(monkeypatch, "early", "--cached-only")[0] == 0
    left = sum(key not in keys[: len(keys) // 2] for key in keys)
    assert f"{left} of {len(keys)} rows have the vectors of all teachers" in capsys.readouterr().out


def test_a_point_has_queries_at_the_shallowest_exit_on_documents_at_the_deepest():
    across = {"0": {"0": 0.5, "1": 0.52, "3": 0.54}, "1": {}, "3": {"0": 0.1, "3": 0.6}}
    exits = {"0": {"mrr": 0.5}, "1": {"mrr": 0.56}, "3": {"mrr": 0.60004}}
    entry = {"exits": exits, "across_exits": across}
    assert set_mrr(entry) == {"0": 0.5, "1": 0.56, "3": 0.6, "0 on 3": 0.54}
    assert set_mrr({"exits": {"2": {"mrr": 0.7}}, "across_exits": {"2": {"2": 0.7}}}) == {"2": 0.7}


def test_the_curve_counts_the_pairs_of_all_stages_and_a_step_once(tmp_path):
    file = tmp_path / "curve.jsonl"
    dev = {"docs-c-dev": {"0": 0.25}, "docs-go-dev": {"0": 0.75}, "cosqa-dev": {"0": 0.5}, "mbxp-dev": {"0": 0.5}}
    deeper = {name: {"0": 0.5, "3": 0.6, "0 on 3": 0.55} for name in dev}
    rows = [("exit-0", 1, 8, {}), ("exit-0", 2, 16, dev), ("exit-0", 1, 8, dev), ("blocks", 1, 8, deeper)]
    lines = [dict(zip(("stage", "step", "pairs", "mrr"), row, strict=True)) for row in rows]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    points = curve_figure.read_curve(file)
    assert [(point["pairs"], point["mrr"]) for point in points] == [(8, dev), (16, dev), (24, deeper)]
    assert mean_mrr(dev, "0", ["docs-"]) == 0.5
    assert mean_mrr(dev, "3", ["docs-"]) is None

    assert mean_mrr(deeper, "0 on 3", ["docs-"]) == pytest.approx(0.55)

    curve_figure.draw(points, tmp_path / "curve.png")
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    file.write_text("")
    with pytest.raises(ValueError, match="has no point. Train with --develop"):
        curve_figure.read_curve(file)
