"""transformers' own tests of a model, `ModelTesterMixin`, on all MoSE classes."""

import importlib
import os
import sys
import unittest
import warnings
from fnmatch import fnmatchcase
from typing import Any
from unittest import mock

import pytest
import torch
from transformers import PreTrainedModel
from transformers_suite import COMMAND, PACKAGE, suite_folder

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import (
    MoSEForMaskedLM,
    MoSEForPreTraining,
    MoSEForSequenceClassification,
    MoSEModel,
    MoSEPreTrainedModel,
)

INSTALLED = suite_folder().is_dir()

#: Patterns of the suite's tests that do not apply, and why.
NOT_APPLICABLE = {
    # By design.
    "test_model_rope_scaling_*": "rotary positions have one type, and no module",
    "test_model_rope_with_partial_rotation": "rotary positions rotate all dimensions",
    "test_can_capture_specific_layers_hidden_states": "two modules record them, so that exit 0 has some, too",
    "test_load_with_mismatched_shapes": "loads by Auto classes, which need trust_remote_code here",
    "test_can_load_ignoring_mismatched_shapes": "replaces a layer called classifier; ours are one per exit",
    "test_torch_save_load": "for classes that transformers itself maps",
    # Other kinds of models.
    "test_*_composite_model*": "no sub-models",
    "test_internal_model_config_and_subconfig_are_same": "no sub-configurations",
    "test_get_*_features_*": "no other modality",
    "test_vision_axial_rope": "no images",
    "test_moe_models_record_router_logits": "no experts",
    "test_output_router_logits_from_config": "no experts",
    "test_eager_matches_batched_and_grouped_inference*": "no experts",
    "test_causal_lm_loss_honors_shift_labels": "not causal",
    "test_encoder_decoder_loss_no_double_shift": "no decoder",
    "test_sliding_window_mask": "attention sees the whole sequence",
    "test_resize_position_vector_embeddings": "no position vectors",
    "test_feed_forward_chunking": "no chunked feed-forward layers",
    "test_keep_in_fp32_modules*": "no module has to stay in float32",
    "test_reverse_loading_mapping": "no renamed weights",
    "test_can_load_from_already_mapped_keys": "no renamed weights",
    "test_t*tp_plan*": "no plan for tensor parallelism",
    # Hardware and libraries that this project does not test with.
    "test_flash_attn_*": "needs flash-attn",
    "test_kernels_can_load_without_crashing": "needs the kernels library",
    "test_resize_*_with_deepspeed*": "needs deepspeed",
    # Time.
    "test_bc_torch_dtype": "a former keyword, in a thousand subtests: a third of the suite's time",
    "test_torch_compile_for_training": "slow; test_trunk.py compiles the encoder",
}

common: Any = None
if INSTALLED:
    sys.path.insert(0, str(suite_folder()))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pytest.PytestUnknownMarkWarning)
        common = importlib.import_module(f"{PACKAGE}.test_modeling_common")

Mixin: Any = common.ModelTesterMixin if INSTALLED else type("NoMixin", (), {})
EXCLUDED = [name for name in dir(Mixin) if any(fnmatchcase(name, pattern) for pattern in NOT_APPLICABLE)]


def test_the_suite_is_installed():
    if not INSTALLED:
        report = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        report(f"transformers' own model tests are missing. Run `{COMMAND}`.")


@pytest.mark.skipif(not INSTALLED, reason=f"run `{COMMAND}`")
def test_every_exclusion_still_names_a_test():
    stale = [pattern for pattern in NOT_APPLICABLE if not any(fnmatchcase(n, pattern) for n in EXCLUDED)]
    assert not stale


def loading_as_in_transformers():
    theirs = classmethod(PreTrainedModel.from_pretrained.__func__)
    return mock.patch.object(MoSEPreTrainedModel, "from_pretrained", theirs)


class MoSEModelTester:
    """The model that the suite builds, and its inputs."""

    is_training = True
    batch_size, seq_length = 3, 7
    hidden_size, num_hidden_layers, num_attention_heads = 32, 2, 4

    def get_config(self) -> MoSEConfig:
        return MoSEConfig(
            vocab_size=99,
            hidden_size=self.hidden_size,
            intermediate_size=37,
            num_hidden_layers=self.num_hidden_layers,
            num_attention_heads=self.num_attention_heads,
            num_key_value_heads=2,
            max_position_embeddings=64,
            exit_layers=(1, 2),
            pooling="gated",
            gate_size=8,
            sep_token_id=1,
            cls_token_id=2,
            mask_token_id=3,
        )

    def prepare_config_and_inputs_for_common(self) -> tuple[MoSEConfig, dict[str, torch.Tensor]]:
        ids = torch.randint(4, 99, (self.batch_size, self.seq_length))
        return self.get_config(), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


@pytest.mark.slow
@pytest.mark.skipif(not INSTALLED, reason=f"run `{COMMAND}`")
class MoSEModelTest(Mixin, unittest.TestCase):
    all_model_classes = (MoSEModel, MoSEForMaskedLM, MoSEForPreTraining, MoSEForSequenceClassification)
    # Projections, gates and the similarity scale learn from no head's loss.
    test_all_params_have_gradient = False
    # The suite skips old models, and reads a model's age from a copyright line.
    test_can_init_all_missing_weights_before_2023 = True
    locals().update(dict.fromkeys(EXCLUDED))

    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch):
        """Tell the suite, which looks them up by name, what the classes are trained with."""
        for mapping, name in (
            ("MODEL_MAPPING_NAMES", "MoSEModel"),
            ("MODEL_FOR_MASKED_LM_MAPPING_NAMES", "MoSEForMaskedLM"),
            ("MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES", "MoSEForSequenceClassification"),
        ):
            monkeypatch.setitem(getattr(common, mapping), "mose", name)

    def setUp(self):
        self.model_tester = MoSEModelTester()

    def _prepare_for_class(self, inputs_dict, model_class, return_labels=False):
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels=return_labels)
        if return_labels and model_class is MoSEForPreTraining:
            inputs["labels"] = torch.zeros_like(inputs["input_ids"])
            inputs["context_labels"] = torch.zeros(len(inputs["input_ids"]), dtype=torch.long)
        return inputs

    # Both load a checkpoint without any tensor, which ours refuses.
    def test_can_init_all_missing_weights(self):
        with loading_as_in_transformers():
            super().test_can_init_all_missing_weights()

    def test_model_weights_reload_no_missing_tied_weights(self):
        with loading_as_in_transformers():
            super().test_model_weights_reload_no_missing_tied_weights()
