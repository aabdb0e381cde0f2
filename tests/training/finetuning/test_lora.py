import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from mose.eval.held_out import score_exits
from mose.inference.encoding import encode
from mose.modeling_mose import MoSEModel
from mose.tokenization.prompts import code_prompt, text_prompt
from mose.train_hf import main
from mose.training.finetuning.gradcache import embed
from mose.training.finetuning.held_out import as_retrieval_set, hold_out
from mose.training.finetuning.lora import LoRAModel, check_base, digests, load_adapter, lora_config
from mose.training.losses import clip_loss

pytestmark = pytest.mark.slow

EXITS = (0, 1, 3)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    for i in range(30):
        (folder / f"module_{i}.py").write_text(
            f'def scale_by_{i}(values):\n    """Multiply every value of a list by {i}."""\n'
            f"    result = [value * {i} for value in values]\n    return result\n"
        )
    return folder


RUN = """--use-cpu --max-steps 4 --save-steps 2 --per-device-train-batch-size 4 --logging-steps 1 --bf16 false
    --mini-batch-size 2 --lora --lora-r 4"""


@pytest.fixture(scope="module")
def trained(tiny_model_folder, tree, tmp_path_factory) -> Path:
    """A finished run: the adapter, its checkpoints, and the merged model in `merged`."""
    folder = tmp_path_factory.mktemp("lora") / "out"
    flags = ["--model", tiny_model_folder, "--source-tree", str(tree), "--output-dir", str(folder)]
    space = ["--align-exits", "--matryoshka-dims", "16"]
    assert main(["finetune", *flags, *RUN.split(), *space, "--lora-merge"]) == 0
    return folder


@pytest.fixture(scope="module")
def other_base(tiny_model_folder, tmp_path_factory) -> str:
    """As large as the base, and other weights in its last block alone."""
    folder = str(tmp_path_factory.mktemp("other") / "base")
    shutil.copytree(tiny_model_folder, folder)
    model = MoSEModel.from_pretrained(folder)
    with torch.no_grad():
        model.layers[-1].mlp.c_fc.weight.add_(0.1)
    model.save_pretrained(folder)
    return folder


def test_only_adapters_exits_and_scale_are_trained(tiny_model):
    base = {name: parameter.clone() for name, parameter in tiny_model.named_parameters()}
    model = LoRAModel(tiny_model, lora_config(tiny_model, "base"))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    full = {"similarity_scale"} | {name for name in base if name.startswith("exits.")}
    assert {n.replace(".modules_to_save.default", "").removeprefix("base_model.model.") for n in names} - {
        n.removeprefix("base_model.model.") for n in names if "lora_" in n
    } == full
    adapted = {n.split(".lora_")[0].removeprefix("base_model.model.") for n in names if "lora_" in n}
    linears = [n for n, m in tiny_model.named_modules() if isinstance(m, torch.nn.Linear) and "lora" not in n]
    linears = {n.removesuffix(".base_layer") for n in linears if n.startswith("layers.")}
    assert adapted == linears | {"embed_tokens"} and len(linears) == 3 * 6


def test_a_run_changes_what_it_trains_and_nothing_else(trained, tiny_model_folder):
    before, after = (
        load_file(Path(folder) / "model.safetensors") for folder in (tiny_model_folder, trained / "merged")
    )
    assert before.keys() == after.keys()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {
        name for name in before if name.startswith("layers.") and ("layernorm" in name or name.endswith("bias"))
    }
    # W + (alpha / r) B A, from the adapter's file.
    adapter = load_file(trained / "adapter_model.safetensors")
    name = "layers.1.mlp.c_fc"
    a, b = (adapter[f"base_model.model.{name}.lora_{part}.weight"] for part in "AB")
    expected = before[f"{name}.weight"] + 32 / 4 * b @ a
    assert torch.allclose(after[f"{name}.weight"], expected, atol=1e-6) and b.abs().max() > 0
    assert torch.equal(adapter["base_model.model.similarity_scale"], after["similarity_scale"])
    assert "base_model.model.embed_tokens.weight" not in adapter  # its adapter is enough


@pytest.mark.parametrize("exit_layer", EXITS)
def test_every_reader_gives_the_same_at_every_exit(trained, tiny_model_folder, tiny_batch, exit_layer):
    wanted = MoSEModel.from_pretrained(trained / "merged").eval()(**tiny_batch, exit_layer=exit_layer)
    base = MoSEModel.from_pretrained(tiny_model_folder, exit_layer=exit_layer)
    assert not torch.allclose(base.eval()(**tiny_batch).pooler_output, wanted.pooler_output, atol=1e-3)
    readers = {
        "AutoModel": AutoModel.from_pretrained(trained, trust_remote_code=True, exit_layer=exit_layer),
        "PeftModel": PeftModel.from_pretrained(base, str(trained)),
        "ours": load_adapter(trained, exit_layer=exit_layer),
    }
    scale = load_file(trained / "adapter_model.safetensors")["base_model.model.similarity_scale"]
    for name, model in readers.items():
        output = model.eval()(**tiny_batch, output_all_exits=True)
        assert torch.allclose(output.pooler_output, wanted.pooler_output, atol=1e-6), name
        assert len(output.exit_embeddings) == EXITS.index(exit_layer) + 1
        assert torch.equal(output.similarity_scale, scale), name


def test_sentence_transformers_reads_adapter_and_merged(trained):
    texts = ["def add(first, second): return first + second", "sum"]
    adapter, merged = (
        SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
        for folder in (trained, trained / "merged")
    )
    for e in EXITS:
        assert np.allclose(adapter.encode(texts, exit_layer=e), merged.encode(texts, exit_layer=e), atol=1e-6)


def test_a_run_that_is_resumed_ends_as_an_unbroken_one(trained, tiny_model_folder, tree, tmp_path):
    broken = tmp_path / "out"
    shutil.copytree(trained / "checkpoint-2", broken / "checkpoint-2")
    shutil.copy(trained / "held_out.json", broken)
    flags = ["--model", tiny_model_folder, "--source-tree", str(tree), "--output-dir", str(broken), "--resume"]
    assert main(["finetune", *flags, *RUN.split(), "--align-exits", "--matryoshka-dims", "16"]) == 0
    expected, found = (load_file(folder / "adapter_model.safetensors") for folder in (trained, broken))
    assert expected.keys() == found.keys()
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]
    assert json.loads((trained / "held_out.json").read_text()) == json.loads(
        (broken / "held_out.json").read_text()
    )


def test_gradients_are_the_same_in_mini_batches(tiny_model, tiny_batch):
    model = LoRAModel(tiny_model, lora_config(tiny_model, "base", r=4)).double()
    with torch.no_grad():  # B starts at zero, where A has no gradient
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    sides = [(tiny_batch["input_ids"], tiny_batch["attention_mask"])] * 2
    gradients = []
    for size in (1, 64):
        (queries, documents), scale = embed(model, sides, size)
        loss = sum(clip_loss(queries[e], documents[e].roll(1, 0), scale) for e in EXITS)
        model.zero_grad()
        loss.backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad})
    assert max((gradients[0][n] - gradients[1][n]).abs().max() for n in gradients[0]) < 1e-12
    assert all(gradient.any() for name, gradient in gradients[1].items() if "lora_" in name)


def test_the_wrong_base_is_refused_by_name(trained, tiny_model_folder, other_base, tree, tmp_path, capsys):
    flags = ["--source-tree", str(tree), "--output-dir", str(trained), "--resume"]
    assert main(["finetune", "--model", other_base, *flags, *RUN.split()]) == 2
    resumed = capsys.readouterr().err
    assert (
        main(["merge", "--adapter", str(trained), "--model", other_base, "--output-dir", str(tmp_path / "m")])
        == 2
    )
    for message in (resumed, capsys.readouterr().err):
        assert (
            f"was trained on {Path(tiny_model_folder).resolve()}; the weights of {other_base} are others"
            in message
        )
        assert "layers.2 first" in message
    # Up to exit 1 both bases are the same.
    check_base(trained, digests(MoSEModel.from_pretrained(other_base, exit_layer=1)), other_base)
    assert (
        main(["finetune", "--model", tiny_model_folder, *flags, *RUN.replace("--lora-r 4", "").split()[:-1]]) == 2
    )
    assert "checkpoint-4 was saved with --lora" in capsys.readouterr().err


def test_digests_know_the_weights_whatever_type_they_are_in(tiny_model):
    rounded = tiny_model.to(torch.bfloat16)
    expected = digests(rounded)
    assert digests(rounded.to(torch.float32)) == expected
    with torch.no_grad():
        rounded.layers[1].mlp.c_fc.bias[3] += 1
    assert [part for part, digest in digests(rounded).items() if digest != expected[part]] == ["layers.1"]


def test_merge_is_a_command(trained, tiny_batch, tmp_path, capsys):
    out = tmp_path / "merged"
    assert main(["merge", "--adapter", str(trained), "--output-dir", str(out), "--exit-layer", "1"]) == 0
    model, whole = (MoSEModel.from_pretrained(folder).eval() for folder in (out, trained / "merged"))
    assert model.exit_layers == (0, 1)
    for config in (model.config, whole.config):
        assert config.aligned_exits and list(config.matryoshka_dims) == [16]
    assert torch.allclose(
        model(**tiny_batch).pooler_output, whole(**tiny_batch, exit_layer=1).pooler_output, atol=1e-6
    )
    assert json.loads((out / "modules.json").read_text())[0]["kwargs"] == ["exit_layer"]
    assert main(["merge", "--adapter", str(trained), "--output-dir", str(out)]) == 2
    assert f"--output-dir {out} exists and is not an empty folder" in capsys.readouterr().err
    assert (
        main(["merge", "--adapter", str(trained), "--output-dir", str(tmp_path / "x"), "--exit-layer", "2"]) == 2
    )
    assert "exit_layer must be one of 0, 1, 3 for adapter" in capsys.readouterr().err
    foreign = tmp_path / "foreign"
    shutil.copytree(trained, foreign)
    config = json.loads((foreign / "adapter_config.json").read_text()) | {"modules_to_save": None}
    (foreign / "adapter_config.json").write_text(json.dumps(config))
    assert main(["merge", "--adapter", str(foreign), "--output-dir", str(tmp_path / "x")]) == 2
    assert f"adapter {foreign} has no exits" in capsys.readouterr().err
    assert main(["merge", "--adapter", str(out), "--output-dir", str(tmp_path / "x")]) == 2
    assert f"{out} has no LoRA adapter" in capsys.readouterr().err
    base = ["--model", str(out)]
    assert main(["merge", "--adapter", str(out), *base, "--output-dir", str(tmp_path / "x")]) == 2
    assert f"{out} has no LoRA adapter" in capsys.readouterr().err


def test_the_cards_say_what_was_trained(trained, tiny_model_folder):
    for folder, library in ((trained, "peft"), (trained / "merged", "transformers")):
        card = ModelCard.load(folder / "README.md")
        assert card.data.library_name == library and "lora" in card.data.tags
        assert card.data.base_model is None  # a folder of this machine is no Hub id
        assert card.data.license is None  # nobody has named one
        assert tiny_model_folder in card.text and "similarity scale were trained in full" in card.text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--lora-r", "0"], "lora_r must be at least 1, got 0"),
        (["--lora-dropout", "1"], "lora_dropout must be in [0, 1), got 1.0"),
        (["--grow-to", "3"], "--grow-to changes the base of --lora"),
        (["--held-out-share", "1"], "held_out_share must be in [0, 1), got 1.0"),
        (["--held-out-share", "0.01"], "of 30 functions 0 would be held out"),
        (["--model", "{adapter}"], "is a LoRA adapter of "),
    ],
)
def test_bad_arguments(trained, tiny_model_folder, tree, tmp_path, capsys, flags, message):
    flags = [str(trained) if flag == "{adapter}" else flag for flag in flags]
    common = ["--model", tiny_model_folder, "--source-tree", str(tree), "--output-dir", str(tmp_path / "out")]
    assert main(["finetune", *common, *RUN.split(), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_what_a_bare_lora_run_begins_with(tree, monkeypatch):
    from mose.training.finetuning.arguments import DataArguments, FineTuningArguments, ModelArguments
    from mose.training.setup import shipped_model

    assert MoSEModel.from_pretrained(shipped_model(), exit_layer=0).config.hidden_size == 384
    lora, plain = FineTuningArguments(lora=True), FineTuningArguments()
    assert (lora.output_dir, plain.output_dir) == ("runs/lora", "runs/finetune")
    assert lora.max_steps == -1 and lora.num_train_epochs > 0 and lora.learning_rate > plain.learning_rate
    assert (plain.learning_rate, plain.max_steps, plain.num_train_epochs) == (1e-5, 20_000, 0)
    assert not plain.bf16 and not FineTuningArguments(lora=True, bf16=False).bf16
    monkeypatch.setattr("mose.training.finetuning.arguments.supports_bf16", lambda: True)
    assert FineTuningArguments(lora=True).bf16 and not FineTuningArguments().bf16
    steps = FineTuningArguments(lora=True, max_steps=7, learning_rate=1e-5)
    assert (steps.max_steps, steps.learning_rate) == (7, 1e-5)
    assert lora.mini_batch_size == lora.per_device_train_batch_size  # no text goes through the model twice
    assert FineTuningArguments(lora=True, mini_batch_size=8).mini_batch_size == 8
    assert DataArguments(source_tree=[str(tree)]).held_out_share is None and ModelArguments().model is None


# --- held-out functions --------------------------------------------------------------------------------------


def pairs_of(texts: list[str]) -> Dataset:
    rows = [
        {
            "query": text,
            "query_language": "",
            "document": f"code {i}",
            "document_language": "go",
            "repository": "",
        }
        for i, text in enumerate(texts)
    ]
    return Dataset.from_list(rows)


def test_texts_are_held_out_whole_and_stay_held_out():
    texts = [f"text {i % 200}" for i in range(300)]
    kept, held = hold_out(pairs_of(texts), 0.25)
    assert len(kept) + len(held) == 300 and not set(kept["query"]) & set(held["query"])
    assert 0.15 < len(set(held["query"])) / 200 < 0.35
    _, again = hold_out(pairs_of([*texts, *(f"more {i}" for i in range(100))]), 0.25)
    assert set(held["query"]) <= set(again["query"])


def test_held_out_mrr_is_that_of_a_plain_ranking(shared_tiny_model, tiny_tokenizer):
    texts = [f"add {i % 9} numbers" for i in range(12)]  # three texts have two functions each
    pairs = pairs_of(texts)
    data = as_retrieval_set(pairs, pairs.select([0, 4, 7]))
    assert data.queries == ("add 0 numbers", "add 4 numbers", "add 7 numbers")
    found = score_exits(shared_tiny_model, tiny_tokenizer, data, 64, 64)
    queries = encode(shared_tiny_model, tiny_tokenizer, list(data.queries), prompts=text_prompt())
    documents = encode(shared_tiny_model, tiny_tokenizer, pairs["document"], prompts=code_prompt("go"))
    for e in EXITS:
        order = (-(queries[e] @ documents[e].T)).argsort(axis=1)
        answers = [{0, 9}, {4}, {7}]
        ranks = [min(list(row).index(a) for a in right) + 1 for row, right in zip(order, answers, strict=True)]
        assert found[str(e)]["mrr"] == pytest.approx(np.mean([1 / rank for rank in ranks]))
