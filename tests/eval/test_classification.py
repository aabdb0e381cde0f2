import copy
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.utils import parameters_to_vector

from mose.eval.__main__ import main
from mose.eval.classification import classify_pairs, evaluate_pairs, load_pair_classifier, scores
from mose.eval.tasks.base import PairSet
from mose.modeling_mose import MoSEForSequenceClassification
from mose.tokenization.prompts import SEP

FUNCTIONS = tuple(f"int f{i}() {{ return {i} * {i}; }}" for i in range(5)) + ("", "x = y; " * 60)
PAIRS = PairSet(
    "pairs",
    FUNCTIONS,
    np.array([(a, b) for a in range(7) for b in range(7) if a != b]),
    np.arange(42) % 2,
)


@pytest.fixture(scope="module")
def classifier(model, tokenizer):
    """Both classes occur at every exit that sees more than `<cls>` alone, which exit 0 does not."""
    torch.manual_seed(3)
    made = MoSEForSequenceClassification(model.config).eval()
    made.model.load_state_dict(model.state_dict())
    texts = [FUNCTIONS[first] + SEP + FUNCTIONS[second] for first, second in PAIRS.pairs]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
    with torch.no_grad():
        for head in made.classifiers.values():
            for parameter in head.parameters():
                torch.nn.init.normal_(parameter)
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        every = made(**inputs, output_all_exits=True).exit_logits
        for head, logits in zip(made.classifiers.values(), every, strict=True):
            head.out_proj.bias[1] += (logits[:, 0] - logits[:, 1]).median() + 1e-3  # past the tie
    return made


@pytest.fixture(scope="module")
def classifier_folder(classifier, tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    classifier.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_every_exit_classifies_as_one_pair_at_a_time_does(classifier, tokenizer):
    """The text `first<sep>second` through the tokenizer, which writes the outer tokens; no padding, one exit."""
    result = classify_pairs(classifier, tokenizer, PAIRS, token_budget=200)
    assert list(result) == [0, 1, 3]
    for (first, second), row in zip(PAIRS.pairs, range(len(PAIRS.pairs)), strict=True):
        if 6 in (first, second):
            continue  # longer than the model takes: cut as join_pair says
        batch = tokenizer([FUNCTIONS[first] + SEP + FUNCTIONS[second]], return_tensors="pt")
        inputs = {key: batch[key] for key in ("input_ids", "attention_mask")}
        for exit_layer, predictions in result.items():
            with torch.no_grad():
                logits = classifier(**inputs, exit_layer=exit_layer).logits[0]
            assert predictions[row] == int(logits.argmax())
    assert {0, 1} == set(result[1]) == set(result[3])
    alone = classify_pairs(classifier, tokenizer, PAIRS, [1], token_budget=1)
    assert list(alone) == [1] and np.array_equal(alone[1], result[1])


def test_the_report_has_the_scores_of_every_exit(classifier, tokenizer):
    report = evaluate_pairs(classifier, tokenizer, [PAIRS], [0, 3])
    assert report["speed"] == {}
    result = report["sets"]["pairs"]
    assert (result["queries"], result["documents"], result["peers"]) == (42, 7, {})
    predictions = classify_pairs(classifier, tokenizer, PAIRS)
    assert result["exits"] == {str(k): scores(PAIRS.labels, predictions[k]) for k in (0, 3)}


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=30))
def test_scores_equal_their_definition(pairs):
    labels, predictions = np.array(pairs).T
    hits = sum(a == b == 1 for a, b in pairs)
    precision = hits / predictions.sum() if predictions.any() else 0.0
    recall = hits / labels.sum() if labels.any() else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    assert scores(labels, predictions) == pytest.approx({"f1": f1, "precision": precision, "recall": recall})


def test_a_classifier_is_loaded_as_deep_as_wanted(classifier, classifier_folder):
    loaded, _, exits = load_pair_classifier(classifier_folder, [1])
    assert exits == (1,) and len(loaded.model.layers) == 1
    for k in ("0", "1"):
        expected, result = classifier.classifiers[k].parameters(), loaded.classifiers[k].parameters()
        assert torch.equal(parameters_to_vector(expected), parameters_to_vector(result).cpu())


def test_the_command_measures_every_exit(classifier, tokenizer, classifier_folder, tmp_path, capsys):
    """From CodeXGLUE's two files to the scores of the library."""
    functions = [{"idx": str(i), "func": text} for i, text in enumerate(FUNCTIONS)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, functions)))
    rows = [f"{a}\t{b}\t{label}\n" for (a, b), label in zip(PAIRS.pairs, PAIRS.labels, strict=True)]
    (tmp_path / "test.txt").write_text("".join(rows))
    command = ["run", "bigclonebench", "--data", str(tmp_path), "--model", classifier_folder, "--device", "cpu"]
    assert main([*command, "--peers", "bm25", "--json", "-"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    expected = evaluate_pairs(classifier, tokenizer, [PAIRS])["sets"]["pairs"]
    assert report["sets"]["bigclonebench"] == expected
    assert report["tasks"]["bigclonebench"]["exits"] == {k: v["f1"] for k, v in expected["exits"].items()}
    assert "--peers cannot classify pairs" in captured.err and "exit 18 0.942" in captured.err
    (tmp_path / "report.json").write_text(captured.out)
    assert main(["table", str(tmp_path / "report.json"), "--metrics", "f1"]) == 0
    assert f"| exit 3 | {expected['exits']['3']['f1']:.3f} |" in capsys.readouterr().out


def test_a_model_without_a_classifier_is_refused(model_folder):
    with pytest.raises(
        ValueError, match="no trained classifier at exit 0, 1, 3. Train one with `train_hf.py classify`"
    ):
        load_pair_classifier(str(model_folder))
    with pytest.raises(ValueError, match="exit_layer must be one of 0, 1, 3, got 2"):
        load_pair_classifier(str(model_folder), [2])


def test_the_clones_are_told_by_their_label(classifier, tokenizer):
    expected = classify_pairs(classifier, tokenizer, PAIRS, [3])[3]
    turned = copy.deepcopy(classifier)
    turned.config.id2label = {0: "clone", 1: "other"}
    assert np.array_equal(classify_pairs(turned, tokenizer, PAIRS, [3])[3], 1 - expected)
    turned.config.id2label = {0: "same", 1: "other"}
    with pytest.raises(ValueError, match="id2label must name two classes, one of them 1, .*; got same, other"):
        classify_pairs(turned, tokenizer, PAIRS, [3])


def test_what_cannot_be_classified(classifier, tokenizer, tmp_path):
    with pytest.raises(ValueError, match="max_length must be at least 5 for a pair, got 4"):
        classify_pairs(classifier, tokenizer, PAIRS, max_length=4)
    with pytest.raises(ValueError, match="no pairs"):
        scores(np.array([]), np.array([]))
    broken = MoSEForSequenceClassification(classifier.config).eval()
    broken.classifiers["1"].to(torch.float32)
    for parameter in broken.classifiers["1"].parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    with pytest.raises(FloatingPointError, match="got NaN at exit 1"):
        classify_pairs(broken, tokenizer, PAIRS)
    three = MoSEForSequenceClassification(
        type(classifier.config)(**{**classifier.config.to_dict(), "num_labels": 3})
    )
    three.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="id2label must name two classes, .*; got LABEL_0, LABEL_1, LABEL_2"):
        load_pair_classifier(str(tmp_path))
