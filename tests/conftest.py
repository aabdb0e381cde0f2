"""Fixtures that tests of several folders share."""

import copy
import logging
from collections.abc import Callable, Iterator

import pytest
import torch
from loopback_hub import LoopbackHub
from sentence_transformers import SentenceTransformer
from sentence_transformers.models import Pooling, Transformer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertModel, PreTrainedModel, PreTrainedTokenizerFast

from mose.configuration_mose import MoSEConfig
from mose.modeling_mose import MoSEModel
from mose.tokenization.prompts import CLS, MASK, PAD, SEP

CORPUS = [
    "def add(first, second):\n    return first + second",
    "public int add(int first, int second) { return first + second; }",
    "Represent this Python code snippet for retrieval:",
    "Represent this code description for retrieving supporting snippets of code:",
    "Add two numbers and return their sum.",
]


@pytest.fixture(scope="session", autouse=True)
def offline():
    """No test waits for the Hub: what is not on this machine is missing, at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield


@pytest.fixture(autouse=True)
def package_logging():
    """Undo what a command changes in the logging of the package."""
    logger = logging.getLogger("mose")
    handlers, level = [*logger.handlers], logger.level
    yield
    logger.handlers[:] = handlers
    logger.setLevel(level)


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 300 tokens that writes `<sep> … <cls>`."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=[PAD, SEP, CLS, MASK],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{SEP} $A {CLS}",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in (SEP, CLS)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=PAD, sep_token=SEP, cls_token=CLS, mask_token=MASK
    )


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., MoSEConfig]:
    """Makes the configuration of a MoSE of three blocks, with fields overridden by keyword."""

    def make(**overrides) -> MoSEConfig:
        fields = {
            "vocab_size": 320,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "exit_layers": (0, 1, 3),
            "gate_size": 8,
            "initializer_range": 0.1,
        }
        return MoSEConfig.from_preset("mose-nano-256", **{**fields, **overrides})

    return make


@pytest.fixture(scope="session")
def build_model() -> Callable[..., PreTrainedModel]:
    """Makes a model in which no parameter is neutral, as gates, biases and norms are when they start."""

    def make(model_class: type[PreTrainedModel], config: MoSEConfig, seed: int = 0) -> PreTrainedModel:
        torch.manual_seed(seed)
        model = model_class(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.2)
        return model

    return make


@pytest.fixture(scope="session")
def shared_tiny_model(tiny_config, build_model) -> MoSEModel:
    """For reading only."""
    return build_model(MoSEModel, tiny_config())


@pytest.fixture
def tiny_model(shared_tiny_model) -> MoSEModel:
    """Exits 0, 1 and 3, gated pooling; a copy that a test may change."""
    return copy.deepcopy(shared_tiny_model)


@pytest.fixture
def tiny_batch() -> dict[str, torch.Tensor]:
    """Three sequences of up to nine tokens, padded on the left as the tokenizer does it."""
    torch.manual_seed(1)
    mask = torch.tensor([[1] * 9, [0] * 4 + [1] * 5, [0] * 8 + [1]])
    return {"input_ids": torch.randint(4, 320, mask.shape) * mask, "attention_mask": mask}


@pytest.fixture(scope="session")
def trained_config(tiny_tokenizer) -> MoSEConfig:
    """Three blocks, exits 0, 1 and 3, gated pooling, dropout on."""
    return MoSEConfig.from_preset(
        "mose-nano-256",
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        exit_layers=(0, 1, 3),
        gate_size=8,
        attention_dropout=0.1,
        residual_dropout=0.1,
        embedding_dropout=0.1,
    )


@pytest.fixture(scope="session")
def tiny_model_folder(trained_config, tiny_tokenizer, tmp_path_factory) -> str:
    """That model, untrained, and its tokenizer, as `from_pretrained` reads them."""
    folder = str(tmp_path_factory.mktemp("tiny-mose"))
    torch.manual_seed(0)
    MoSEModel(trained_config).save_pretrained(folder)
    # A test that truncated or padded has left a trace in the tokenizer, whichever came first.
    tiny_tokenizer.backend_tokenizer.no_truncation()
    tiny_tokenizer.backend_tokenizer.no_padding()
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_teacher(tiny_tokenizer, tmp_path_factory) -> str:
    """A sentence-transformers model of 48 dimensions with random weights, in a folder."""
    folder = str(tmp_path_factory.mktemp("tiny-teacher"))
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        initializer_range=0.5,
    )
    BertModel(config).save_pretrained(f"{folder}/bert")
    tiny_tokenizer.save_pretrained(f"{folder}/bert")
    SentenceTransformer(modules=[Transformer(f"{folder}/bert"), Pooling(48)], device="cpu").save(folder)
    return folder


@pytest.fixture
def hub() -> Iterator[LoopbackHub]:
    """A Hub on this machine, empty."""
    with LoopbackHub() as server:
        yield server


@pytest.fixture
def online(hub, monkeypatch, tmp_path_factory) -> LoopbackHub:
    """A Hub that this process's client takes for the Hub, with a cache of its own."""
    constants = "huggingface_hub.constants"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    monkeypatch.setattr(f"{constants}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(f"{constants}.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(f"{constants}.ENDPOINT", hub.url)
    monkeypatch.setattr(f"{constants}.HF_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # or it keeps the address of the first
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(f"{constants}.HUGGINGFACE_CO_URL_TEMPLATE", template)
    return hub
