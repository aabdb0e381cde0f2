"""`MoSEForMaskedLM` reads pre-trained checkpoints at any exit."""

import subprocess
import sys

import pytest
import torch
from pretraining_reference import masked_labels
from torch.nn import functional as F
from transformers import pipeline

from mose.modeling_mose import MoSEForMaskedLM, MoSEForPreTraining

SCRIPT = """
import sys
sys.modules["mose"] = None  # what the Hub's user does not have
from transformers import AutoModelForMaskedLM, pipeline
folder = sys.argv[1]
for exit_layer in (0, 1, 3):
    fill = pipeline("fill-mask", model=folder, trust_remote_code=True, model_kwargs={"exit_layer": exit_layer})
    assert len(fill.model.model.layers) == exit_layer
    found = fill("def <mask>(first):", top_k=2)
    print(exit_layer, *(f"{row['token']}:{row['score']:.5f}" for row in found))
"""


@pytest.fixture(scope="module")
def pretrained_folder(build_model, trained_config, tiny_tokenizer, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("pretrained"))
    build_model(MoSEForPreTraining, trained_config).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("exit_layer", [0, 1, 3, None])
def test_the_masked_language_model_reads_a_pretrained_checkpoint_at_any_exit(
    pretrained_folder, tiny_batch, exit_layer
):
    model, info = MoSEForMaskedLM.from_pretrained(
        pretrained_folder, exit_layer=exit_layer, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert len(model.model.layers) == (3 if exit_layer is None else exit_layer)
    full = MoSEForPreTraining.from_pretrained(pretrained_folder)
    batch = {**tiny_batch, "input_ids": tiny_batch["input_ids"].clamp(max=full.config.vocab_size - 1)}
    expected = full(**batch, exit_layer=exit_layer).prediction_logits
    torch.testing.assert_close(model(**batch).logits, expected)


def test_the_loss_is_the_mlm_part_and_training_returns_no_logits(build_model, tiny_config, tiny_batch):
    model = build_model(MoSEForMaskedLM, tiny_config())
    labels = masked_labels(tiny_batch)
    out = model(**tiny_batch, labels=labels)
    losses = []
    for e in (0, 1, 3):
        logits = model(**tiny_batch, exit_layer=e).logits
        losses.append(max(e, 1) / 3 * F.cross_entropy(logits.flatten(0, 1), labels.flatten()))
    torch.testing.assert_close(out.loss, sum(losses))
    assert out.logits.shape == (3, 9, 320)
    assert model.train()(**tiny_batch, labels=labels).logits is None


@pytest.mark.slow
def test_fill_mask_works_at_any_exit_without_the_package(pretrained_folder, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, pretrained_folder], capture_output=True, text=True, cwd=tmp_path
    )
    assert run.returncode == 0, run.stderr
    lines = dict(line.split(" ", 1) for line in run.stdout.splitlines())
    assert list(lines) == ["0", "1", "3"]
    model = MoSEForMaskedLM.from_pretrained(pretrained_folder, exit_layer=1)
    tokenizer = pipeline("fill-mask", model=pretrained_folder, trust_remote_code=True).tokenizer
    batch = tokenizer("def <mask>(first):", return_tensors="pt")
    with torch.no_grad():
        logits = model(**batch).logits[batch["input_ids"] == tokenizer.mask_token_id][0]
    scores, tokens = logits.softmax(dim=0).topk(2)
    assert lines["1"].split() == [f"{t}:{s:.5f}" for t, s in zip(tokens.tolist(), scores.tolist(), strict=True)]
