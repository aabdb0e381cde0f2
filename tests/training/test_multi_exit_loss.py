"""`MultiExitLoss` against the wrapped loss at each exit, and sentence-transformers' losses over layers."""

import copy
import shutil

import pytest
import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses
from torch.nn import functional as F
from transformers.utils.logging import warning_once

from mose.hub.files import write_sentence_transformers_files
from mose.training import MultiExitLoss

QUERIES = ["Add two numbers.", "Sort a list of words.", "Open.", "Parse an ISO 8601 date and return it."]
DOCUMENTS = ["def add(a, b): return a + b", "def sort(x): x.sort()", "def open(): pass", "def parse(x): return x"]
EXITS = (0, 1, 3)


@pytest.fixture(scope="module")
def folder(tiny_model_folder, tmp_path_factory):
    """The tiny model as a sentence-transformers model that claims to have aligned exits."""
    path = tmp_path_factory.mktemp("st") / "model"
    shutil.copytree(tiny_model_folder, path)
    write_sentence_transformers_files(path)
    config = (path / "config.json").read_text()
    (path / "config.json").write_text(config.replace('"aligned_exits": false', '"aligned_exits": true'))
    return str(path)


@pytest.fixture(scope="module")
def loaded(folder):
    """The model as it loads up to each exit; for reading only."""
    return {e: load(folder, config_kwargs={"exit_layer": e}) for e in EXITS}


@pytest.fixture
def model(loaded):
    return copy.deepcopy(loaded[3])


def load(folder, **options):
    return SentenceTransformer(str(folder), trust_remote_code=True, device="cpu", **options).eval()


@pytest.fixture
def columns(model):
    return [model.preprocess(texts) for texts in (QUERIES, DOCUMENTS)]


def gradients(model, loss, columns, labels=None):
    model.zero_grad()
    value = loss([dict(column) for column in columns], labels)
    value.backward()
    return value.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def every_exit(model, column):
    inputs = (column["input_ids"], column["attention_mask"])
    return model[0].auto_model(*inputs, output_all_exits=True).exit_embeddings


def cached(model):
    return losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=3)


def matryoshka(make):
    return lambda model: losses.MatryoshkaLoss(model, make(model), [32, 8])


LOSSES = {
    "pairs": losses.MultipleNegativesRankingLoss,
    "cached": cached,
    "matryoshka": matryoshka(losses.MultipleNegativesRankingLoss),
    "cached matryoshka": matryoshka(cached),
    "labels": losses.CosineSimilarityLoss,
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_is_the_weighted_sum_of_the_exits(loaded, model, columns, name):
    labels = torch.tensor([1.0, 0.2, 0.5, 0.9]) if name == "labels" else None
    value, actual = gradients(model, MultiExitLoss(model, LOSSES[name](model)), columns, labels)

    total, expected = 0.0, {}
    for exit_layer in EXITS:
        single = copy.deepcopy(loaded[exit_layer])
        part, grads = gradients(single, LOSSES[name](single), columns, labels)
        weight = max(exit_layer, 1) / 3
        total += weight * part
        for parameter, grad in grads.items():
            expected[parameter] = expected.get(parameter, 0) + weight * grad

    torch.testing.assert_close(value, total)
    assert expected.keys() == actual.keys() and any("exits.0" in parameter for parameter in actual)
    for parameter, grad in expected.items():
        torch.testing.assert_close(actual[parameter], grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [losses.MultipleNegativesRankingLoss, cached])
def test_alignment_is_the_loss_across_exits(model, columns, make):
    value, actual = gradients(model, MultiExitLoss(model, make(model), align_weight=0.5), columns)

    model.zero_grad()
    sides = [every_exit(model, column) for column in columns]

    def between(i, j):
        return F.cross_entropy(20 * sides[0][i] @ sides[1][j].T, torch.arange(4))

    total = 0
    for i, weight in enumerate((1 / 3, 1 / 3, 1)):
        across = [(between(i, j) + between(j, i)) / 2 for j in range(3) if j != i]
        total = total + weight * (between(i, i) + 0.5 * sum(across) / 2)
    total.backward()
    torch.testing.assert_close(value, total.detach())
    for name, parameter in model.named_parameters():
        if name in actual:
            torch.testing.assert_close(actual[name], parameter.grad, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("make", "passes"), [(losses.MultipleNegativesRankingLoss, 2), (cached, 2 * 2 * 2)])
def test_the_trunk_runs_once_for_each_text_and_twice_with_a_cache(model, columns, make, passes):
    calls = []
    model[0].auto_model.layers[0].register_forward_hook(lambda *_: calls.append(None))
    gradients(model, MultiExitLoss(model, make(model), align_weight=1), columns)
    assert len(calls) == passes


def test_a_guide_is_asked_once(loaded, model, columns):
    guide = copy.deepcopy(loaded[1])
    calls = []
    guide[0].auto_model.layers[0].register_forward_hook(lambda *_: calls.append(None))
    gradients(model, MultiExitLoss(model, losses.GISTEmbedLoss(model, guide)), columns)
    assert len(calls) == 2


def test_what_cannot_be_wrapped_is_refused(model, tiny_teacher, loaded):
    other = SentenceTransformer(tiny_teacher, device="cpu")
    plain = losses.MultipleNegativesRankingLoss(model)
    with pytest.raises(ValueError, match="needs a MoSE"):
        MultiExitLoss(other, losses.MultipleNegativesRankingLoss(other))
    with pytest.raises(ValueError, match="must be made for the same model"):
        MultiExitLoss(model, losses.MultipleNegativesRankingLoss(other))
    with pytest.raises(ValueError, match="trains a second model"):
        MultiExitLoss(model, losses.ContrastiveTensionLoss(model))
    for wrapped in (losses.AdaptiveLayerLoss(model, plain), MultiExitLoss(model, plain)):
        with pytest.raises(ValueError, match="goes over the exits itself"):
            MultiExitLoss(model, wrapped)
    for weight in (-1, float("nan")):
        with pytest.raises(ValueError, match="align_weight must be"):
            MultiExitLoss(model, plain, align_weight=weight)
    single = loaded[0]
    with pytest.raises(ValueError, match="has only exit 0"):
        MultiExitLoss(single, losses.MultipleNegativesRankingLoss(single), align_weight=1)
    twice = cached(model)
    MultiExitLoss(model, twice)
    with pytest.raises(ValueError, match="in a MultiExitLoss already"):
        MultiExitLoss(model, twice)


def test_another_loss_around_it_is_refused(model, columns):
    inner = MultiExitLoss(model, losses.MultipleNegativesRankingLoss(model))
    with pytest.raises(RuntimeError, match="must be the outermost loss"):
        losses.MatryoshkaLoss(model, inner, [32, 8])(columns, None)


# --- Training, and what the configuration says afterwards --------------------------------------------------


def train(model, loss, out):
    arguments = SentenceTransformerTrainingArguments(
        str(out), max_steps=2, per_device_train_batch_size=4, learning_rate=1e-2, report_to="none", use_cpu=True
    )
    pairs = Dataset.from_dict({"query": QUERIES, "document": DOCUMENTS})
    SentenceTransformerTrainer(model=model, args=arguments, train_dataset=pairs, loss=loss).train()
    model.save_pretrained(str(out / "final"))
    saved = load(out / "final")
    return saved[0].auto_model.config, saved


def changed_exits(loaded, saved):
    before = loaded[3][0].auto_model.state_dict()
    after = saved[0].auto_model.state_dict()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    return {name.split(".")[1] for name in changed if name.startswith("exits.")}


def test_the_trainer_trains_all_exits_and_the_configuration_says_for_what(loaded, model, tmp_path):
    loss = MultiExitLoss(model, matryoshka(cached)(model), align_weight=1)
    config, saved = train(model, loss, tmp_path)
    assert changed_exits(loaded, saved) == {"0", "1", "3"}
    assert config.aligned_exits and list(config.matryoshka_dims) == [8]


def test_without_alignment_the_claim_is_dropped(model, tmp_path, caplog):
    config, _ = train(model, MultiExitLoss(model, losses.MultipleNegativesRankingLoss(model)), tmp_path)
    assert not config.aligned_exits and "aligned_exits becomes False" in caplog.text


def test_a_plain_loss_trains_one_exit_and_says_so_once(loaded, model, tmp_path, caplog):
    warning_once.cache_clear()
    config, saved = train(model, losses.MultipleNegativesRankingLoss(model), tmp_path)
    assert changed_exits(loaded, saved) == {"3"} and not config.aligned_exits
    assert sum("Training at exit 3 alone" in line for line in caplog.messages) == 1


def test_saving_an_unchanged_model_keeps_its_claims(model, tmp_path):
    model.train().eval().save_pretrained(str(tmp_path))
    assert load(tmp_path)[0].auto_model.config.aligned_exits


@pytest.mark.parametrize("make", [losses.AdaptiveLayerLoss, losses.Matryoshka2dLoss])
def test_losses_over_layers_train_every_exit(model, columns, make):
    arguments = ([32, 8],) if make is losses.Matryoshka2dLoss else ()
    inner = losses.MultipleNegativesRankingLoss(model)
    loss = make(model, inner, *arguments, n_layers_per_step=-1, kl_temperature=0)
    for _ in range(5):  # Matryoshka2dLoss draws its dimensions
        value, actual = gradients(model, loss, columns)
        assert {name.split(".")[3] for name in actual if ".exits." in name} == {"0", "1", "3"}

    if make is losses.AdaptiveLayerLoss:
        embeddings = [
            model[0]
            .auto_model(column["input_ids"], column["attention_mask"], output_all_exits=True)
            .exit_embeddings
            for column in columns
        ]
        parts = [F.cross_entropy(20 * q @ d.T, torch.arange(4)) for q, d in zip(*embeddings, strict=True)]
        torch.testing.assert_close(value, (parts[2] + (parts[0] + parts[1]) / 2).detach())


def test_token_embeddings_are_the_states_of_the_tokens_and_the_embedding(model):
    texts = [*QUERIES, ""]
    rows = model.encode(texts, output_value="token_embeddings", exit_layer=1)
    single = model.encode(texts, exit_layer=1, convert_to_tensor=True)
    for text, row, embedding in zip(texts, rows, single, strict=True):
        batch = model.tokenizer([text], return_tensors="pt")
        states = model[0].auto_model(**batch, exit_layer=1).last_hidden_state[0]
        torch.testing.assert_close(row[:-1], states[:-1], atol=1e-5, rtol=0)
        torch.testing.assert_close(row[-1], embedding, atol=1e-6, rtol=0)
