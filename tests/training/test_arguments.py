import pytest

from mose.training.classification.arguments import ClassificationArguments
from mose.training.finetuning.arguments import DataArguments, FineTuningArguments
from mose.training.finetuning.command import fit_batches
from mose.training.pretraining.arguments import PreTrainingArguments


def arguments(tmp_path, **settings):
    return FineTuningArguments(output_dir=str(tmp_path), use_cpu=True, **settings)


def test_the_defaults_are_the_papers(tmp_path):
    defaults = arguments(tmp_path)
    assert (defaults.learning_rate, defaults.max_steps, defaults.contrastive_weight) == (1e-5, 20_000, 1.0)
    assert (defaults.per_device_train_batch_size, defaults.per_device_eval_batch_size) == (2048, 2048)
    assert (defaults.mini_batch_size, defaults.distillation, defaults.align_exits) == (32, "none", False)
    assert DataArguments(dataset=["a"]).word_replacement == 0.3
    assert defaults.teacher == [] and defaults.report_to == []
    assert not defaults.remove_unused_columns


@pytest.mark.parametrize("kind", [FineTuningArguments, ClassificationArguments, PreTrainingArguments])
def test_bf16_needs_no_word_of_the_cpu_where_there_is_nothing_else(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    args = kind(output_dir=str(tmp_path), bf16=True)
    assert args.bf16 and args.device.type == "cpu"


def test_epochs_override_steps(tmp_path):
    assert arguments(tmp_path, max_steps=7).max_steps == 7
    assert arguments(tmp_path, num_train_epochs=2.5).max_steps == -1
    with pytest.raises(ValueError, match="max_steps must be at least 1, got -1. Or pass num_train_epochs"):
        arguments(tmp_path, max_steps=-1)


def test_batches_of_an_open_size_hold_the_pairs_that_there_are(tmp_path):
    args = arguments(tmp_path)
    fit_batches(args, 300, 70)
    assert (args.train_batch_size, args.eval_batch_size) == (300, 70)
    args = arguments(tmp_path)
    fit_batches(args, 10**6, None)
    assert (args.train_batch_size, args.eval_batch_size) == (2048, 2048)
    args = arguments(tmp_path, per_device_train_batch_size=64)  # what was said counts
    fit_batches(args, 30, 500)
    assert (args.train_batch_size, args.eval_batch_size) == (64, 64)
    with pytest.raises(ValueError, match="A contrastive loss needs at least 2 pairs, got 1 pair to train on"):
        fit_batches(arguments(tmp_path), 1, None)


def test_validation_batches_are_those_of_training_unless_said_otherwise(tmp_path):
    assert arguments(tmp_path, per_device_train_batch_size=6).per_device_eval_batch_size == 6
    both = arguments(tmp_path, per_device_train_batch_size=6, per_device_eval_batch_size=3)
    assert (both.train_batch_size, both.eval_batch_size) == (6, 3)


@pytest.mark.parametrize("given", ['{"gate": 10, "embed_tokens": 0.5}', {"gate": 10, "embed_tokens": 0.5}])
def test_multipliers_come_as_json_or_as_a_mapping(tmp_path, given):
    parsed = arguments(tmp_path, learning_rate_multipliers=given).multipliers
    assert list(parsed.items()) == [("gate", 10), ("embed_tokens", 0.5)]
    assert arguments(tmp_path).multipliers == {}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mini_batch_size": 0}, "mini_batch_size must be at least 1, got 0"),
        (
            {"per_device_train_batch_size": 1},
            "per_device_train_batch_size must be .*, got 1. .* at least 2 pairs",
        ),
        ({"per_device_eval_batch_size": 1}, "per_device_eval_batch_size must be .*, got 1. .* at least 2 pairs"),
        ({"per_device_train_batch_size": -1}, "per_device_train_batch_size must be .*, got -1"),
        ({"distillation": "mse"}, "distillation must be one of none, kl, cosine, got 'mse'"),
        ({"distillation_temperature": 0.0}, "distillation_temperature must be positive, got 0.0"),
        ({"align_weight": -1.0}, "align_weight must be a finite number >= 0, got -1.0"),
        ({"teacher_temperature": 0.0}, "teacher_temperature must be positive, got 0.0"),
        ({"teacher_temperature": float("nan")}, "teacher_temperature must be a finite number, got nan"),
        ({"contrastive_weight": -1.0}, "contrastive_weight must be a finite number >= 0, got -1.0"),
        ({"teacher_kl_weight": float("nan")}, "teacher_kl_weight must be .*, got nan"),
        ({"teacher_cosine_weight": float("inf")}, "teacher_cosine_weight must be .*, got inf"),
        ({"num_train_epochs": float("nan")}, "num_train_epochs must be a finite number, got nan"),
        ({"warmup_steps": float("inf")}, "warmup_steps must be a finite number, got inf"),
        ({"adam_beta1": 1.0}, r"adam_beta1 must be in \[0, 1\), got 1.0"),
        ({"seed": -1}, r"seed must be in \[0, 2\^32\), got -1"),
        ({"save_total_limit": 10**40}, "save_total_limit must be below 2\\^63, got 1000"),
        ({"learning_rate_multipliers": "{"}, r"learning_rate_multipliers must be JSON, got \{"),
        ({"learning_rate_multipliers": "[1]"}, r"learning_rate_multipliers must be a JSON object, got \[1\]"),
        ({"learning_rate_multipliers": '{"gate": "x"}'}, "gate must be a finite number >= 0, got 'x'"),
        ({"learning_rate_multipliers": {"gate": -1}}, "gate must be a finite number >= 0, got -1"),
    ],
)
def test_what_cannot_be_is_named(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        arguments(tmp_path, **settings)


def test_data_arguments():
    assert DataArguments(dataset=["a"], column_mapping='{"docstring": "text"}').columns == {"docstring": "text"}
    assert DataArguments(source_tree=["a"]).columns == {}
    with pytest.raises(ValueError, match="column_mapping must be JSON, got docstring=text"):
        DataArguments(dataset=["a"], column_mapping="docstring=text")
    with pytest.raises(ValueError, match="No data to train on. Pass --source-tree, --dataset or both."):
        DataArguments()
