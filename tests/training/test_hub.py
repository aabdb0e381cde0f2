"""Trainers that push: what `--push-to-hub` and `push_to_hub` leave on the loopback Hub."""

import json
import logging

import pytest
import torch
from datasets import Dataset

from mose import train_hf
from mose.data.retrieval.collator import PairCollator
from mose.data.retrieval.pairs import load_pairs
from mose.hub.card import validate_card
from mose.hub.publish import PublishError
from mose.modeling_mose import MoSEModel
from mose.training.finetuning.arguments import FineTuningArguments
from mose.training.finetuning.lora import LoRAModel, lora_config
from mose.training.finetuning.trainer import FineTuningTrainer

pytestmark = pytest.mark.slow

POOLING = "1_Pooling/config.json"
NEEDED = {
    "README.md",
    "LICENSE",
    "config.json",
    "configuration_mose.py",
    "modeling_mose.py",
    "modules.json",
    "tokenizer.json",
    "training_summary.json",
    "model-00003-of-00003.safetensors",
    "model.safetensors.index.exit1.json",
}


@pytest.fixture
def build(online, tiny_model_folder, tiny_tokenizer, tmp_path):
    rows = [{"text": f"Add {i}", "code": f"def add_{i}(a): return a + {i}"} for i in range(16)]

    def build(adapter=False, **settings):
        defaults = {"per_device_train_batch_size": 4, "max_steps": 2, "save_steps": 1, "report_to": "none"}
        defaults |= {"use_cpu": True, "logging_steps": 1, "disable_tqdm": True, "learning_rate": 1e-3}
        model = MoSEModel.from_pretrained(tiny_model_folder)
        return FineTuningTrainer(
            model=LoRAModel(model, lora_config(model, "tester/base")) if adapter else model,
            args=FineTuningArguments(output_dir=str(tmp_path / "run"), **{**defaults, **settings}),
            train_dataset=load_pairs(datasets=[Dataset.from_list(rows)]),
            data_collator=PairCollator(tiny_tokenizer, 64, 64),
            processing_class=tiny_tokenizer,
        )

    return build


def test_pushing_while_training_gives_whole_repositories_without_pickles(online, build, tiny_batch):
    trainer = build(push_to_hub=True, hub_model_id="tester/run", hub_private_repo=True)
    trainer.train()
    trainer.save_model()  # as train_hf.py ends: this pushes
    repository = online.repository("tester/run")
    assert repository.private
    titles = [commit.title for commit in repository.history()][::-1]
    assert titles == [
        "initial commit",
        "Training in progress, step 1",
        "Training in progress, step 2",
        "Model save",
    ]
    for commit in repository.history()[:-1]:
        assert set(commit.files) >= NEEDED
        assert not [
            n
            for n in commit.files
            if n.endswith((".bin", ".pt", ".pth", "trainer_state.json")) or ("/" in n and n != POOLING)
        ]
    card = repository.files()["README.md"].decode()
    validate_card(card)
    assert "| task | fine-tuning for retrieval |" in card and "| steps | 2 |" in card
    assert "| learning rate | 0.001 |" in card and "per device train batch size | 4 |" in card
    loaded = MoSEModel.from_pretrained("tester/run", exit_layer=1, variant="exit1")
    with torch.no_grad():
        expected = trainer.model.eval()(**tiny_batch, exit_layer=1).pooler_output
        assert torch.equal(loaded(**tiny_batch).pooler_output, expected)


def test_an_adapter_is_pushed_with_the_card_of_its_run(online, build):
    trainer = build(adapter=True, push_to_hub=True, hub_model_id="tester/adapter", hub_strategy="every_save")
    trainer.train()
    repository = online.repository("tester/adapter")
    assert "Training in progress, step 1" in [commit.title for commit in repository.history()]
    for commit in repository.history()[:-1]:
        assert {"README.md", "adapter_config.json", "adapter_model.safetensors"} <= set(commit.files)
    card = repository.files()["README.md"].decode()
    validate_card(card)
    assert "base_model: tester/base" in card and "| learning rate | 0.001 |" in card


def test_a_trainer_pushes_when_told_to_and_names_no_path_of_this_machine(online, build, tmp_path):
    trainer = build(save_strategy="no", hub_model_id="tester/later")
    trainer.datasets = ("tester/pairs", str(tmp_path))
    trainer.train()
    done = trainer.push_to_hub(commit_message="done", license="mit")
    assert done.changed and online.repository("tester/later").history()[0].title == "done"
    files = online.repository("tester/later").files()
    assert "license: mit" in files["README.md"].decode() and "- tester/pairs\n" in files["README.md"].decode()
    for name in ("README.md", "training_summary.json", "config.json"):
        assert str(tmp_path) not in files[name].decode() and "/tmp" not in files[name].decode()
    summary = json.loads(files["training_summary.json"])
    assert (summary["steps"], summary["examples"], summary["arguments"]["seed"]) == (2, 16, 42)
    assert summary["losses"]["loss"] > 0
    assert summary["arguments"]["weight_decay"] == 0 and "fp16" not in summary["arguments"]
    future = trainer.push_to_hub(blocking=False, license="mit")
    assert not future.result().changed


def test_a_hub_that_fails_does_not_end_the_run(online, build, caplog):
    trainer = build(push_to_hub=True, hub_model_id="tester/run")
    online.fail("POST .*/commit/", status=500)
    with caplog.at_level(logging.WARNING, "mose.train"):
        trainer.train()
    assert "step 1 was not pushed: the Hub failed (500)" in caplog.text
    assert online.repository("tester/run").history()[0].title == "Training in progress, step 2"
    online.fail("POST .*/commit/", status=500)
    with pytest.raises(PublishError, match="Nothing was committed"):  # at the end, it says so
        trainer.save_model()


def test_pushing_optimizer_states_is_refused(build):
    with pytest.raises(ValueError, match="hub_strategy must be 'end' or 'every_save', got 'checkpoint'"):
        build(push_to_hub=True, hub_model_id="tester/run", hub_strategy="checkpoint")


def test_the_command_pushes_a_model_and_an_adapter_of_it(online, tiny_model_folder, tmp_path, tiny_batch):
    pairs = tmp_path / "pairs.jsonl"
    rows = [{"text": f"Add {i}", "code": f"def add_{i}(a): return a + {i}"} for i in range(16)]
    pairs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = "--use-cpu --max-steps 2 --per-device-train-batch-size 4 --learning-rate 1e-3 --push-to-hub"
    common += f" --hub-strategy end --dataset {pairs}"

    def finetune(model: str, name: str, *flags: str) -> dict[str, bytes]:
        output = ("--output-dir", str(tmp_path / name), "--hub-model-id", f"tester/{name}")
        assert train_hf.main(["finetune", "--model", model, *output, *common.split(), *flags]) == 0
        return online.repository(f"tester/{name}").files()

    assert set(finetune(tiny_model_folder, "base")) >= NEEDED
    files = finetune("tester/base", "adapter", "--lora")
    assert set(files) >= {"README.md", "adapter_config.json", "adapter_model.safetensors", "tokenizer.json"}
    assert not any(name.endswith((".bin", ".pt")) or name.startswith("model") for name in files)
    assert "base_model: tester/base" in files["README.md"].decode()
    base, adapted = MoSEModel.from_pretrained("tester/base"), MoSEModel.from_pretrained("tester/adapter")
    with torch.no_grad():
        vectors = [model.eval()(**tiny_batch).pooler_output for model in (base, adapted)]
    assert not torch.equal(*vectors)
