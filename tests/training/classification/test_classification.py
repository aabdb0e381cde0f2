import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from mose import train_hf
from mose.modeling_mose import MoSEForSequenceClassification
from mose.train_hf import main
from mose.training.classification.arguments import ClassificationArguments
from mose.training.classification.trainer import exit_metrics, majority_metrics

pytestmark = pytest.mark.slow

EXITS = (1, 3)  # of 0, 1 and 3


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    """Pairs that are alike or not, and as many to validate on."""
    folder = tmp_path_factory.mktemp("pairs")
    paths = {}
    for name in ("train", "validation"):
        rows = []
        for i in range(24):
            other, label = ("a + b", "same") if i % 3 else ("while c: d()", "different")
            rows.append({"code_a": f"a + b  # {name} {i}", "code_b": f"{other}  # {i}", "label": label})
        paths[name] = str(folder / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


RUN = "--use-cpu --max-steps 6 --save-steps 3 --per-device-train-batch-size 8 --logging-steps 2"


def classify(model: str, files: dict[str, str], out: Path, *flags: str) -> int:
    given = ["--model", model, "--train-file", files["train"], "--validation-file", files["validation"]]
    return main(["classify", *given, "--output-dir", str(out), *RUN.split(), "--learning-rate", "3e-3", *flags])


@pytest.fixture(scope="module")
def trained(tiny_model_folder, files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("classify") / "out"
    assert classify(tiny_model_folder, files, folder) == 0
    return folder


def test_log_and_evaluation_have_every_exit(trained, files):
    log = json.loads((trained / "trainer_state.json").read_text())["log_history"]
    parts = {f"classification_loss_exit_{e}" for e in EXITS}
    lines = [line for line in log if "loss" in line]
    assert len(lines) == 3 and lines[0]["loss"] > lines[-1]["loss"]
    model = MoSEForSequenceClassification.from_pretrained(trained)
    weights = model.config.exit_weights
    for line in lines:  # the weighted sum (paper, section 3)
        total = sum(weights[e] * line[f"classification_loss_exit_{e}"] for e in EXITS)
        assert line["loss"] == pytest.approx(total, rel=1e-3)
    results = json.loads((trained / "eval_results.json").read_text())
    names = ("accuracy", "precision", "recall", "f1", "f1_macro")
    assert {f"eval_{name}_exit_{e}" for name in names for e in EXITS} | {
        f"eval_{part}" for part in parts
    } <= results.keys()
    assert results["majority_accuracy"] == pytest.approx(16 / 24)
    assert model.config.id2label == {0: "different", 1: "same"} and model.config.label2id["same"] == 1


def test_one_exit_alone(tiny_model_folder, files, tmp_path):
    assert classify(tiny_model_folder, files, tmp_path / "out", "--exit-layer", "1") == 0
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert MoSEForSequenceClassification.from_pretrained(tmp_path / "out").config.built_exit_layers == (1,)
    assert {name.split(".")[1] for name in weights if name.startswith("classifiers.")} == {"1"}
    assert not [name for name in weights if "layers.1." in name]
    log = json.loads((tmp_path / "out" / "trainer_state.json").read_text())["log_history"]
    assert log[0]["loss"] == pytest.approx(log[0]["classification_loss_exit_1"], rel=1e-4)
    assert MoSEForSequenceClassification.from_pretrained(tmp_path / "out").config.exit_layers == (1,)


READER = """
import json, sys, torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline
folder, a, b = sys.argv[1:]
model = AutoModelForSequenceClassification.from_pretrained(folder, trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
batch = tokenizer(a, b, return_tensors="pt")
shallow = model(**batch, exit_layer=1).logits.softmax(-1)[0].tolist()
classifier = pipeline("text-classification", model=folder, trust_remote_code=True, device="cpu")
print(json.dumps([shallow, classifier({"text": a, "text_pair": b}, top_k=2, truncation=True)]))
"""


def test_a_fresh_process_reads_it_without_this_package(trained, tiny_tokenizer):
    a, b = "a + b  # train 1", "while c: d()"
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    run = subprocess.run(
        [sys.executable, "-I", "-c", READER, str(trained), a, b],
        capture_output=True, text=True, env=environment | {"HF_HUB_OFFLINE": "1"}, cwd="/",
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    shallow, deepest = json.loads(run.stdout.splitlines()[-1])
    model = MoSEForSequenceClassification.from_pretrained(trained).eval()
    sep, cls = tiny_tokenizer.sep_token_id, tiny_tokenizer.cls_token_id
    first, second = (tiny_tokenizer(text, add_special_tokens=False)["input_ids"] for text in (a, b))
    with torch.no_grad():
        output = model(torch.tensor([[sep, *first, sep, *second, cls]]), output_all_exits=True)
    assert np.allclose(shallow, output.exit_logits[0].softmax(-1)[0], atol=1e-5)
    scores = {entry["label"]: entry["score"] for entry in deepest}
    assert np.allclose([scores["different"], scores["same"]], output.logits.softmax(-1)[0], atol=1e-5)


def test_a_run_that_is_resumed_ends_as_an_unbroken_one(trained, tiny_model_folder, files, tmp_path):
    shutil.copytree(trained / "checkpoint-3", tmp_path / "out" / "checkpoint-3")
    assert classify(tiny_model_folder, files, tmp_path / "out") == 2  # nothing is overwritten unasked
    assert classify(tiny_model_folder, files, tmp_path / "out", "--resume") == 0
    expected, found = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "out"))
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]


def test_a_classifier_of_the_same_classes_is_trained_on_and_of_others_begun_anew(trained, files, tmp_path):
    assert classify(str(trained), files, tmp_path / "same", "--max-steps", "1", "--learning-rate", "1e-9") == 0
    old, new = (load_file(folder / "model.safetensors") for folder in (trained, tmp_path / "same"))
    assert all(torch.allclose(old[name], new[name], atol=1e-6) for name in old)
    rows = [{"code": f"x = {i}", "label": i % 3} for i in range(24)]
    path = tmp_path / "three.csv"
    path.write_text("code,label\n" + "".join(f"{row['code']},{row['label']}\n" for row in rows))
    three = {"train": str(path), "validation": str(path)}
    assert classify(str(trained), three, tmp_path / "three", "--max-steps", "1", "--bf16") == 0
    model = MoSEForSequenceClassification.from_pretrained(tmp_path / "three")
    assert model.config.id2label == {0: "0", 1: "1", 2: "2"}
    assert "eval_f1_exit_3" in json.loads((tmp_path / "three" / "eval_results.json").read_text())


def test_the_papers_preset_and_what_overrides_it():
    paper = ClassificationArguments(bigclonebench=True)
    assert (paper.learning_rate, paper.warmup_steps, paper.per_device_train_batch_size) == (1e-5, 2000, 64)
    assert (paper.max_steps, paper.num_train_epochs) == (14_000, 0)
    ours = ClassificationArguments(bigclonebench=True, num_train_epochs=2, learning_rate=1e-3)
    assert (ours.max_steps, ours.num_train_epochs, ours.learning_rate, ours.warmup_steps) == (-1, 2, 1e-3, 2000)
    plain = ClassificationArguments()
    assert (plain.max_steps, plain.num_train_epochs, plain.output_dir) == (-1, 3, "runs/classify")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--train-file", "no/such.jsonl"], "no/such.jsonl"),
        (["--exit-layer", "2"], "exit_layer must be one of 1, 3 for this model, got 2"),
        (["--exit-layer", "0"], "exit_layer must be one of 1, 3 for this model, got 0. Exit 0 runs no block"),
        (["--positive-label", "maybe"], "positive_label must be one of the labels different, same, got 'maybe'"),
        (["--max-length", "3"], "max_length must be at least 5, got 3"),
        (["--max-steps", "0"], "max_steps or num_train_epochs must be above 0, got 0 and 0.0"),
        (["--column-mapping", "{"], "column_mapping must be JSON, got {"),
        (["--model", "{teacher}"], "must have model_type 'mose', got 'bert'"),
    ],
)
def test_bad_arguments_end_with_2_and_a_line(
    tiny_model_folder, tiny_teacher, files, tmp_path, capsys, flags, message
):
    flags = [tiny_teacher if flag == "{teacher}" else flag for flag in flags]
    assert classify(tiny_model_folder, files, tmp_path / "out", *flags) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_help_explains_the_flags(capsys):
    assert main(["classify", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--bigclonebench" in text and "the longer side is cut first" in text
    assert train_hf.COMMANDS["classify"].__doc__.strip() in text


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30), st.integers(0, 1))
def test_binary_metrics_are_counted_by_hand(answers, positive):
    predicted, labels = (np.array(side) for side in zip(*answers, strict=True))
    hits = ((predicted == positive) & (labels == positive)).sum()
    precision = hits / max((predicted == positive).sum(), 1)
    recall = hits / max((labels == positive).sum(), 1)
    found = exit_metrics(predicted, labels, positive)
    assert found["accuracy"] == pytest.approx((predicted == labels).mean())
    assert (found["precision"], found["recall"]) == (pytest.approx(precision), pytest.approx(recall))
    assert found["f1"] == pytest.approx(2 * precision * recall / max(precision + recall, 1e-9))


def test_three_classes_are_averaged_and_the_majority_is_one_answer():
    predicted, labels = np.array([0, 1, 2, 2]), np.array([0, 2, 2, 1])
    assert exit_metrics(predicted, labels, classes=3)["f1"] == pytest.approx((1 + 0 + 0.5) / 3)
    # Still three where one of them does not occur.
    two = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
    assert exit_metrics(*two, classes=3)["f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert exit_metrics(*two)["f1"] == pytest.approx(2 / 3)
    assert majority_metrics([0, 1, 1]) == {
        "accuracy": pytest.approx(2 / 3), "precision": pytest.approx(2 / 3), "recall": 1.0,
        "f1": pytest.approx(0.8), "f1_macro": pytest.approx(0.4),
    }  # fmt: skip
