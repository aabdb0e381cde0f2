"""Fixtures of the model's tests."""

import pytest

from mose.hub.files import write_sentence_transformers_files
from mose.modeling_mose import MoSEForPreTraining, MoSEForSequenceClassification, MoSEModel


@pytest.fixture
def pretraining(build_model, tiny_config) -> MoSEForPreTraining:
    return build_model(MoSEForPreTraining, tiny_config())


@pytest.fixture(scope="module")
def saved(build_model, tiny_config, tiny_tokenizer, tmp_path_factory):
    """Class name → (model, its folder with the tokenizer and sentence-transformers' files); read only."""
    folders = {}
    for model_class in (MoSEModel, MoSEForPreTraining, MoSEForSequenceClassification):
        model = build_model(model_class, tiny_config(num_labels=3))
        folder = tmp_path_factory.mktemp(model_class.__name__)
        model.save_pretrained(folder)
        tiny_tokenizer.save_pretrained(folder)
        write_sentence_transformers_files(folder)
        folders[model_class.__name__] = (model, folder)
    return folders
