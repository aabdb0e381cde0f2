import ast
import doctest
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mose import configuration_mose
from mose.configuration_mose import PRESETS, MoSEConfig


def test_the_defaults_are_the_papers_model():
    paper = {
        "num_hidden_layers": 36,
        "hidden_size": 1024,
        "intermediate_size": 12_288,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "max_position_embeddings": 2048,
        "vocab_size": 49_156,
        "sep_token_id": 49_152,
        "cls_token_id": 49_153,
        "mask_token_id": 49_154,
        "pad_token_id": 0,
        "exit_layers": (4, 9, 18, 27, 36),
        "conditional_size": 4,
        "attention_dropout": 0.1,
        "residual_dropout": 0.1,
        "embedding_dropout": 0.1,
        "initializer_range": 0.018042,
        "norm_epsilon": 1e-5,
        "use_bias": True,
        "hidden_act": "gelu_pytorch_tanh",
        "similarity_scale_init": 10.0,
    }
    for config in (MoSEConfig(), MoSEConfig.from_preset("mose-1b")):
        assert {name: getattr(config, name) for name in paper} == paper
        assert config.rope_parameters["rope_theta"] == pytest.approx(999_999.44, abs=0.01)


def test_presets_can_be_overridden_and_unknown_ones_are_named():
    for name in PRESETS:
        assert MoSEConfig.from_preset(name).exit_layers[-1] <= MoSEConfig.from_preset(name).num_hidden_layers
    assert MoSEConfig.from_preset("mose-nano", pooling="cls").pooling == "cls"
    with pytest.raises(
        ValueError, match="preset must be one of mose-1b, mose-nano, mose-nano-256, got 'mose-7b'"
    ):
        MoSEConfig.from_preset("mose-7b")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"exit_layers": (9, 4)}, r"exit_layers must be sorted and distinct, got \[9, 4\]. Pass \[4, 9\]"),
        ({"exit_layers": (4, 4)}, r"exit_layers must be sorted and distinct, got \[4, 4\]. Pass \[4\]"),
        ({"exit_layers": (4, 37)}, r"exit_layers must be in \[0, num_hidden_layers=36\], got \[4, 37\]"),
        ({"exit_layers": (-1, 4)}, r"exit_layers must be in \[0, num_hidden_layers=36\], got \[-1, 4\]"),
        ({"exit_layers": ()}, r"exit_layers must be a non-empty list of integers, got \(\)"),
        ({"exit_layers": 4}, "exit_layers must be a non-empty list of integers, got 4"),
        ({"exit_layers": None}, "exit_layers must be a non-empty list of integers, got None"),
        ({"exit_layers": "49"}, "exit_layers must be a non-empty list of integers, got '49'"),
        ({"exit_layers": (True, 4)}, r"exit_layers must be a non-empty list of integers, got \(True, 4\)"),
        ({"exit_layers": (4.0,)}, r"exit_layers must be a non-empty list of integers, got \(4.0,\)"),
        ({"exit_layer": 5}, "exit_layer must be one of 4, 9, 18, 27, 36, got 5"),
        ({"exit_norm": "none"}, "exit_norm must be one of 'every', 'final', got 'none'"),
        ({"pooling": "max"}, "pooling must be one of 'mean', 'cls', 'gated', got 'max'"),
        ({"projection_layers": 3}, "projection_layers must be one of 1, 2, got 3"),
        ({"projection_layers": True}, "projection_layers must be one of 1, 2, got True"),
        ({"embedding_norm": "two"}, "embedding_norm must be one of 'unit', 'at_most_one', got 'two'"),
        ({"context_pooler": "none"}, "context_pooler must be one of 'conditioned', 'plain', got 'none'"),
        ({"num_attention_heads": 3}, "num_attention_heads must be a divisor of hidden_size=1024, got 3"),
        ({"num_key_value_heads": 3}, "num_key_value_heads must be a divisor of num_attention_heads=16, got 3"),
        ({"hidden_size": 16}, "hidden_size / num_attention_heads must be even, got 1. Change hidden_size=16"),
        ({"gate_kernel_size": 0}, "gate_kernel_size must be at least 1, got 0"),
        ({"num_attention_heads": 0}, "num_attention_heads must be at least 1, got 0"),
        ({"vocab_size": 0}, "vocab_size must be at least 1, got 0"),
        ({"num_hidden_layers": 10**30}, r"num_hidden_layers must be in \[0, 10000\], got 1000"),
        ({"attention_dropout": 1.0}, r"attention_dropout must be in \[0, 1\), got 1.0"),
        ({"norm_epsilon": float("nan")}, "norm_epsilon must be a finite number >= 0, got nan"),
        ({"pad_token_id": True}, "pad_token_id must be None or at least 0, got True"),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
            "rope_type must be 'default', got 'linear'",
        ),
    ],
)
def test_bad_fields_are_refused_with_the_allowed_values(fields, message):
    with pytest.raises(ValueError, match=message):
        MoSEConfig(**fields)


@settings(deadline=None)
@given(st.integers(0, 12), st.lists(st.integers(-2, 14), max_size=6))
def test_exits_must_be_sorted_distinct_and_within_the_depth(depth, exits):
    if exits and exits == sorted(set(exits)) and set(exits) <= set(range(depth + 1)):
        assert MoSEConfig(num_hidden_layers=depth, exit_layers=exits).exit_layers == tuple(exits)
    else:
        with pytest.raises(ValueError, match="exit_layers must be"):
            MoSEConfig(num_hidden_layers=depth, exit_layers=exits)


def test_weights_are_depth_over_blocks_and_exit_0_counts_as_one_block():
    assert MoSEConfig().exit_weights == {4: 4 / 36, 9: 9 / 36, 18: 18 / 36, 27: 27 / 36, 36: 1.0}
    assert MoSEConfig(num_hidden_layers=4, exit_layers=(0, 2, 4)).exit_weights == {0: 0.25, 2: 0.5, 4: 1.0}
    assert MoSEConfig(num_hidden_layers=0, exit_layers=(0,)).exit_weights == {0: 1.0}


def test_exits_resolve_to_themselves_and_none_to_the_deepest():
    whole, cut = MoSEConfig(), MoSEConfig(exit_layer=9)
    assert whole.built_exit_layers == (4, 9, 18, 27, 36)
    assert cut.built_exit_layers == (4, 9)
    assert [whole.resolve_exit_layer(e) for e in (None, 4, 36)] == [36, 4, 36]
    assert cut.resolve_exit_layer() == 9
    for wrong in (5, -1, 0, 4.0, "4", True):
        with pytest.raises(ValueError, match=f"exit_layer must be one of 4, 9, 18, 27, 36, got {wrong!r}"):
            whole.resolve_exit_layer(wrong)
    with pytest.raises(ValueError, match="exit_layer must be one of .*loaded up to exit 9, got 18"):
        cut.resolve_exit_layer(18)


@pytest.mark.parametrize("fields", [{}, {"exit_layer": 9, "pooling": "gated"}, {"num_labels": 5}])
def test_a_configuration_survives_saving_and_loading(fields, tmp_path):
    config = MoSEConfig(**fields)
    config.save_pretrained(tmp_path)
    loaded = MoSEConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == {**config.to_dict(), "transformers_version": loaded.transformers_version}
    assert loaded.exit_layers == (4, 9, 18, 27, 36)
    assert isinstance(loaded.exit_layers, tuple)


def test_a_saved_configuration_names_the_class_of_every_task(tmp_path):
    MoSEConfig(auto_map={"AutoModel": "elsewhere.Model"}).save_pretrained(tmp_path)
    auto_map = json.loads((tmp_path / "config.json").read_text())["auto_map"]
    defined = {
        node.name
        for name in ("configuration_mose.py", "modeling_mose.py")
        for node in ast.parse(Path(configuration_mose.__file__).with_name(name).read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    assert set(auto_map) == {
        "AutoConfig",
        "AutoModel",
        "AutoModelForMaskedLM",
        "AutoModelForPreTraining",
        "AutoModelForSequenceClassification",
    }
    assert {target.split(".")[1] for target in auto_map.values()} <= defined


def test_keyword_overrides_are_validated(tmp_path):
    MoSEConfig(exit_layer=9).save_pretrained(tmp_path)
    load = MoSEConfig.from_pretrained
    assert load(tmp_path, exit_layer=4).built_exit_layers == (4,)
    assert load(tmp_path, exit_layer=None).exit_layer == 9  # nothing deeper is there to be chosen
    assert load(tmp_path, exit_layers=[4, 9]).exit_layers == (4, 9)
    with pytest.raises(ValueError, match="exit_layer must be one of .*, got 5"):
        load(tmp_path, exit_layer=5)
    with pytest.raises(ValueError, match="sorted and distinct"):
        load(tmp_path, exit_layers=[9, 4])
    with pytest.raises(ValueError, match="pooling must be one of"):
        load(tmp_path, pooling="max")
    config, unused = load(tmp_path, exit_layer=4, other=1, return_unused_kwargs=True)
    assert (config.exit_layer, unused) == (4, {"other": 1})


def test_the_examples_of_the_docstrings():
    assert doctest.testmod(configuration_mose) == (0, 2)
