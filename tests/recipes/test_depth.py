"""The comparison of exits: batches, arms and cuts of models, ranks, and the tables that are kept."""

import json
from pathlib import Path
from types import SimpleNamespace

import depth_report
import finetune
import numpy as np
import pytest
import torch
from arrays import Texts, load, save
from filelock import FileLock
from pretrain import FIRST_ORDINARY, mask_tokens
from retrieval import _reciprocal_ranks
from training_steps import make_optimizer, set_learning_rate


def test_a_batch_is_padded_on_the_left_and_keeps_the_last_token(tmp_path):
    rows = [[5, 6, 2], [7, 8, 9, 10, 11, 2], [12, 2]]
    save(tmp_path / "texts.npz", {"side": Texts.from_lists(rows)}, kind=np.arange(3))
    texts, columns = load(tmp_path / "texts.npz")
    assert columns["kind"].tolist() == [0, 1, 2]

    ids, mask = texts["side"].to(torch.device("cpu")).batch(torch.tensor([2, 1, 0]), 4)
    assert ids.tolist() == [[0, 0, 12, 2], [7, 8, 9, 2], [0, 5, 6, 2]]
    assert mask.tolist() == [[0, 0, 1, 1], [1, 1, 1, 1], [0, 1, 1, 1]]


def test_masks_follow_the_rule_and_spare_special_tokens():
    ids = torch.randint(0, 100, (400, 100), generator=torch.Generator().manual_seed(1))
    inputs, labels = mask_tokens(ids, torch.Generator().manual_seed(0), mask_id=3, vocabulary=100)

    chosen = labels != -100
    assert not chosen[ids < FIRST_ORDINARY].any()
    assert torch.equal(inputs[~chosen], ids[~chosen])
    assert torch.equal(labels[chosen], ids[chosen])
    assert chosen[ids >= FIRST_ORDINARY].float().mean().item() == pytest.approx(0.15, abs=0.01)
    assert (inputs[chosen] == 3).float().mean().item() == pytest.approx(0.8, abs=0.02)
    assert (inputs[chosen] == ids[chosen]).float().mean().item() == pytest.approx(0.1, abs=0.02)


def test_the_rank_is_that_of_the_best_answer():
    documents = torch.eye(4)
    queries = torch.tensor([[0.9, 0.8, 0.1, 0.0], [0.1, 0.2, 0.3, 0.4]])
    relevant = torch.tensor([[0, 1], [0, 3], [1, 0]])
    assert _reciprocal_ranks(queries, documents, relevant).tolist() == pytest.approx([1 / 2, 1 / 4])


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trunk")
    model = finetune.build_model(finetune.EXITS, None, 64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    model.save_pretrained(folder)
    return folder


def test_arms_start_from_the_trunk_with_heads_of_their_own(trunk):
    model, again = (finetune.build_model((2, 6), trunk, 64).state_dict() for _ in range(2))
    source = finetune.build_model(finetune.EXITS, trunk, 64).state_dict()
    for name in model:
        own_head = any(part in name for part in ("gate", "projection"))
        if not own_head or "norm" in name:
            assert torch.equal(model[name], source[name]), name
    weights = "exits.2.projection.weight"
    assert not torch.equal(model[weights], again[weights])


def test_a_cut_model_gives_the_deep_head_on_the_shallow_states(trunk):
    deep = finetune.build_model((6,), trunk, 64).eval()
    shallow = finetune.cut_model(deep, 2).eval()
    ids = torch.arange(4, 20)[None]

    states = deep(ids, output_hidden_states=True).hidden_states[2]
    head = deep.exits["6"]
    expected = head(head.norm(states), torch.ones_like(ids))
    torch.testing.assert_close(shallow(ids).pooler_output, expected)
    assert len(shallow.layers) == 2


def test_runs_have_names_of_their_own_and_only_those_without_a_result_that_nobody_does_are_done(
    tmp_path, monkeypatch
):
    runs = [run for seed in (0, 1) for run in finetune.planned_runs(seed, 100)]
    assert len({run.file_name for run in runs}) == len(runs)

    done = []
    monkeypatch.setattr(finetune, "Trainer", lambda *_: SimpleNamespace(run=done.append))
    options = SimpleNamespace(output_dir=tmp_path, seeds=[0, 1], few_pairs=100, only=None)
    cut = next(run for run in runs if run.cut)
    for name in (runs[0].file_name, cut.file_name):  # of the second, the cuts are missing
        (tmp_path / f"{name}.json").write_text("{}")
    with FileLock(tmp_path / f"{runs[1].file_name}.lock"):
        finetune.do_runs(options)
    assert done == runs[2:]
    assert cut in done


def test_rates_rise_fall_and_keep_their_ratio():
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.LayerNorm(2))
    optimizer = make_optimizer(model, 1e-3, {"1.": 10.0})
    rates = []
    for step in range(100):
        set_learning_rate(optimizer, step, 100)
        rates.append([group["lr"] for group in optimizer.param_groups])
    rates = np.array(rates)
    assert rates.max() == pytest.approx(1e-2)
    assert rates[:, 0].argmax() == 4
    assert (np.diff(rates[5:, 0]) < 0).all()
    assert np.unique((rates.max(axis=1) / rates.min(axis=1)).round(6)).tolist() == [10.0]


@pytest.mark.slow
def test_the_tables_in_the_documentation_are_those_of_the_results():
    data = json.loads((Path(depth_report.__file__).parent / "results.json").read_text())
    assert depth_report.tables(data) == (depth_report.DOCS / "depth-tables.md").read_text()
