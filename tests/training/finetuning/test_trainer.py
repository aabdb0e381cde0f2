import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file
from transformers import set_seed

from mose.data.retrieval.collator import PairCollator
from mose.data.retrieval.pairs import load_pairs
from mose.modeling_mose import MoSEModel
from mose.training.finetuning.arguments import FineTuningArguments
from mose.training.finetuning.objective import project_teacher
from mose.training.finetuning.teacher import attach_teacher
from mose.training.finetuning.trainer import FineTuningTrainer
from mose.training.losses import clip_loss, cosine_loss, relational_kl_loss, similarity_kl_loss

pytestmark = pytest.mark.slow

EXITS = (0, 1, 3)


@pytest.fixture(scope="module")
def pairs() -> Dataset:
    rows = [
        {"text": f"Add {i} " + "and one " * (i % 5), "code": f"def add_{i}(a):\n" + "    a += 1\n" * (i % 7)}
        for i in range(24)
    ]
    return load_pairs(datasets=[Dataset.from_list(rows)])


@pytest.fixture
def build(tiny_model_folder, tiny_tokenizer, pairs, tmp_path):
    """A function that makes a trainer on the CPU and the list of batches that it will have been given."""

    def build(
        teacher=None,
        dropout=0.0,
        exit_layer=None,
        token_dropout=0.0,
        dataset=pairs,
        eval_dataset=None,
        **settings,
    ):
        rates = dict.fromkeys(("attention_dropout", "residual_dropout", "embedding_dropout"), dropout)
        model = MoSEModel.from_pretrained(tiny_model_folder, exit_layer=exit_layer, **rates)
        vectors = None
        if teacher is not None:
            dataset, vectors = attach_teacher(dataset, teacher, tmp_path / "teacher")
        keep = () if teacher is None else ("teacher_query", "teacher_document")
        collator = PairCollator(tiny_tokenizer, 64, 64, token_dropout=token_dropout, keep=keep)
        batches: list[dict] = []

        def recorded(rows):
            batches.append(collator(rows))
            return batches[-1]

        defaults = dict(
            output_dir=str(tmp_path / "out"),
            use_cpu=True,
            max_steps=2,
            per_device_train_batch_size=4,
            mini_batch_size=3,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            logging_steps=1,
            save_strategy="no",
            disable_tqdm=True,
            max_grad_norm=0.0,
        )
        set_seed(5)
        trainer = FineTuningTrainer(
            model=model,
            args=FineTuningArguments(**{**defaults, **settings}),
            train_dataset=dataset,
            eval_dataset=eval_dataset,
            processing_class=tiny_tokenizer,
            data_collator=recorded,
            teacher_vectors=vectors,
        )
        return trainer, batches

    return build


def snapshot(model) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_trained(before: dict[str, torch.Tensor], model: MoSEModel) -> None:
    """Every parameter is what it was in shape, finite, and has moved."""
    after = snapshot(model)
    assert after.keys() == before.keys()
    assert not [name for name, value in after.items() if not value.isfinite().all()]
    assert not [name for name, value in after.items() if torch.equal(value, before[name])]


def whole_batch(model, batch, side) -> dict[int, torch.Tensor]:
    """Each exit's embeddings by one forward pass for each exit: the plain definition."""
    ids, mask = batch[f"{side}_input_ids"], batch[f"{side}_attention_mask"]
    return {e: model(input_ids=ids, attention_mask=mask, exit_layer=e).pooler_output for e in model.exit_layers}


def definition(model, batch, trainer) -> dict[str, torch.Tensor]:
    """The figures of one batch, unbatched and unweighted, and the loss made of them."""
    queries, documents = (whole_batch(model, batch, side) for side in ("query", "document"))
    scale = model.similarity_scale.clamp(1e-4, 30.0)
    figures = {f"contrastive_loss_exit_{e}": clip_loss(queries[e], documents[e], scale) for e in queries}
    total = torch.stack([(max(e, 1) / 3) * figures[f"contrastive_loss_exit_{e}"] for e in queries]).sum()
    if trainer.teacher_vectors is not None:
        total = total * trainer.args.contrastive_weight
        a, b = (trainer.teacher_vectors[batch[f"teacher_{side}"]] for side in ("query", "document"))
        targets = project_teacher(trainer.teacher_vectors, queries[0].shape[1])
        near, far = (targets[batch[f"teacher_{side}"]] for side in ("query", "document"))
        for e in queries:
            kl = similarity_kl_loss((queries[e], documents[e]), (a, b), trainer.args.teacher_temperature)
            cosine = (cosine_loss(queries[e], near) + cosine_loss(documents[e], far)) / 2
            figures |= {f"teacher_kl_loss_exit_{e}": kl, f"teacher_cosine_loss_exit_{e}": cosine}
            parts = trainer.args.teacher_kl_weight * kl + trainer.args.teacher_cosine_weight * cosine
            if weight := trainer.args.teacher_relational_weight:
                relational = relational_kl_loss(
                    (queries[e], documents[e]), (a, b), trainer.args.teacher_temperature
                )
                figures[f"teacher_relational_loss_exit_{e}"] = relational
                parts = parts + weight * relational
            total = total + max(e, 1) / 3 * parts
    return {"loss": total, **figures}


# --- training ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"gradient_accumulation_steps": 2},
        {"bf16": True},
        {"gradient_checkpointing": True},
        {"learning_rate_multipliers": {"gate": 3, "similarity_scale": 20}},
        {"distillation": "kl", "align_exits": True, "matryoshka_dims": [16, 8], "bf16": True},
        {"distillation": "cosine", "gradient_accumulation_steps": 2, "gradient_checkpointing": True},
        {"mini_batch_size": 4},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::FutureWarning")  # gradient_checkpointing is to get another name
def test_every_parameter_of_every_exit_moves(build, settings):
    trainer, _ = build(dropout=0.1, token_dropout=0.2, **settings)
    before = snapshot(trainer.model)
    trainer.train()
    assert_trained(before, trainer.model)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_every_parameter_moves_with_a_teacher_alone(build, tiny_teacher):
    trainer, _ = build(teacher=tiny_teacher, contrastive_weight=0.0)
    before = snapshot(trainer.model)
    trainer.train()
    still = before.pop("similarity_scale")  # the CLIP loss alone has it
    after = snapshot(trainer.model)
    assert torch.equal(after.pop("similarity_scale"), still)
    assert not [name for name, value in after.items() if torch.equal(value, before[name])]


def test_a_model_built_less_deep_trains_as_deep_as_it_is(build):
    trainer, _ = build(exit_layer=1)
    before = snapshot(trainer.model)
    trainer.train()
    assert_trained(before, trainer.model)
    keys = {key for line in trainer.state.log_history for key in line if "_exit_" in key}
    assert keys == {"contrastive_loss_exit_0", "contrastive_loss_exit_1"}


def test_training_brings_pairs_together(build):
    letters = [{"text": letter * 8, "code": f"{letter * 4} = {letter}"} for letter in "abcdefghijklmnop"]
    dataset = load_pairs(datasets=[Dataset.from_list(letters)])
    trainer, _ = build(dataset=dataset, max_steps=40, learning_rate=3e-3, per_device_train_batch_size=8)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    for exit_layer in EXITS:
        losses = [line[f"contrastive_loss_exit_{exit_layer}"] for line in lines]
        assert np.mean(losses[-6:]) < 0.7 * losses[0]


def test_gradients_of_accumulated_batches_are_averaged(build):
    trainer, batches = build(
        optim="sgd", learning_rate=1.0, max_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=4
    )
    model = trainer.model
    before = snapshot(model)
    trainer.train()
    step = {name: before[name] - value for name, value in snapshot(model).items()}
    assert len(batches) >= 4
    model.load_state_dict(before, strict=False)
    model.eval().zero_grad()
    for batch in batches[:4]:
        (definition(model, batch, trainer)["loss"] / 4).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(step[name], parameter.grad, atol=1e-5, rtol=1e-3)


def test_learning_rates_are_multiplied_by_the_first_that_fits(build):
    def steps(**settings):
        trainer, _ = build(optim="sgd", max_steps=1, **settings)
        before = snapshot(trainer.model)
        trainer.train()
        return {name: value - before[name] for name, value in snapshot(trainer.model).items()}

    plain = steps()
    multipliers = {"exits.0": 10, "projection": 0.5, "embed_tokens": 0}
    scaled = steps(learning_rate_multipliers=json.dumps(multipliers))
    seen: Counter[float] = Counter()
    for name, step in scaled.items():
        factor = next((value for part, value in multipliers.items() if part in name), 1)
        torch.testing.assert_close(step, factor * plain[name], atol=2e-6, rtol=1e-2)
        seen[factor] += 1
    assert set(seen) == {10, 0.5, 0, 1}


def test_exits_can_weigh_alike(build):
    losses, terms = {}, {}
    for weights in ("depth", "equal"):
        trainer, _ = build(exit_weights=weights)
        batch = next(iter(trainer.get_train_dataloader()))
        torch.manual_seed(0)
        losses[weights] = trainer.compute_loss(trainer.model, trainer._prepare_inputs(batch)).item()
        terms[weights] = trainer.averages.pop(trainer.model.training, lambda sums: sums)
    config = trainer.model.config
    parts = {e: terms["equal"][f"contrastive_loss_exit_{e}"] for e in config.exit_layers}
    assert losses["equal"] == pytest.approx(sum(parts.values()), rel=1e-5)
    assert losses["depth"] == pytest.approx(
        sum(config.exit_weights[e] * part for e, part in parts.items()), rel=1e-5
    )


def test_multipliers_follow_the_schedule_and_keep_the_weight_decay(build):
    trainer, _ = build(
        lr_scheduler_type="linear", max_steps=4, learning_rate_multipliers={"gate": 10}, weight_decay=0.1
    )
    trainer.train()
    rates = {(group["lr"], group["weight_decay"]) for group in trainer.optimizer.param_groups}
    assert rates == {(0.0, 0.1), (0.0, 0.0)}
    starts = sorted({group["initial_lr"] for group in trainer.optimizer.param_groups})
    assert starts == pytest.approx([1e-2, 1e-1])
    grouped = [p for group in trainer.optimizer.param_groups for p in group["params"]]
    assert Counter(map(id, grouped)) == Counter(map(id, trainer.model.parameters()))


def test_a_multiplier_that_fits_no_parameter_is_named(build):
    with pytest.raises(ValueError, match="learning_rate_multipliers: 'gait' must be part of a parameter's name"):
        build(learning_rate_multipliers={"gait": 2})


def test_nothing_to_learn_from_is_refused(build, tiny_teacher):
    with pytest.raises(ValueError, match="All loss weights are 0"):
        build(contrastive_weight=0.0)
    trainer, _ = build(contrastive_weight=0.0, align_exits=True)  # is enough to learn from
    assert trainer.model.config.aligned_exits
    trainer, _ = build(align_exits=True, align_weight=0.0)
    assert not trainer.model.config.aligned_exits


# --- what the arguments ask for ----------------------------------------------------------------------------


def test_the_configuration_learns_what_training_made_of_the_space(build, tmp_path):
    trainer, _ = build(align_exits=True, matryoshka_dims=[8, 32, 16], max_steps=1)
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    config = MoSEModel.from_pretrained(tmp_path / "saved").config
    assert config.aligned_exits and list(config.matryoshka_dims) == [16, 8]
    assert {f"align_loss_exit_{e}" for e in EXITS} <= trainer.state.log_history[0].keys()
    again, _ = build()  # what is trained without it is no longer so
    again.model.config.aligned_exits = True
    FineTuningTrainer(model=again.model, args=again.args, train_dataset=again.train_dataset)
    assert not again.model.config.aligned_exits and again.model.config.matryoshka_dims is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"exit_layer": 0, "align_exits": True}, "align_exits=True .* the model has only exit 0"),
        (
            {"exit_layer": 0, "distillation": "kl"},
            "distillation='kl' need several exits; the model has only exit 0",
        ),
        ({"matryoshka_dims": [64]}, r"truncate_dim must be an integer in \[1, 32\], got 64"),
    ],
)
def test_what_a_model_cannot_learn_is_named(build, settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_a_truncated_model_is_not_trained(build):
    trainer, _ = build()
    trainer.model.config.truncate_dim = 8
    with pytest.raises(ValueError, match="truncate_dim must be None for training, got 8"):
        FineTuningTrainer(model=trainer.model, args=trainer.args, train_dataset=trainer.train_dataset)


@pytest.mark.parametrize(("start", "sign", "bound"), [(29.99, 1, 30.0), (45.0, 1, 30.0), (2e-4, -1, 1e-4)])
def test_the_scale_stops_at_its_bounds_and_comes_back(build, start, sign, bound):
    trainer, _ = build(optim="sgd", max_steps=2, learning_rate=1e-2)
    scale = trainer.model.similarity_scale
    with torch.no_grad():
        scale.fill_(start)
    hook = scale.register_hook(
        lambda gradient: torch.full_like(gradient, -sign * 100.0)
    )  # whatever the loss wants
    trainer.train()
    assert scale.item() == pytest.approx(bound)
    hook.remove()
    # On the bound the gradient is there, and leads back.
    model, batch = trainer.model.eval(), trainer.data_collator([trainer.train_dataset[i] for i in range(4)])
    model.zero_grad()
    trainer.compute_loss(model, batch).backward()
    assert scale.grad.abs() > 1e-4


def test_identical_texts_are_no_negatives(build):
    rows = [{"text": "Add.", "code": f"def add_{i}(a):\n    return a"} for i in range(8)]
    trainer, _ = build(dataset=load_pairs(datasets=[Dataset.from_list(rows)]))
    trainer.train()
    losses = [line["contrastive_loss_exit_3"] for line in trainer.state.log_history if "loss" in line]
    assert losses == [0.0, 0.0]  # every pair has the one text: nothing is a negative of anything


def test_hard_negatives_are_told_apart(build):
    rows = [{"text": f"task {i}", "code": f"x = {i}", "negative": f"y = {i}" if i % 2 else ""} for i in range(8)]
    dataset = load_pairs(datasets=[Dataset.from_list(rows)])
    with_them, batches = build(dataset=dataset, learning_rate=0.0, max_steps=1)
    with_them.train()
    without, _ = build(dataset=dataset.remove_columns("negative"), learning_rate=0.0, max_steps=1)
    without.train()
    harder, plain = (t.state.log_history[0]["contrastive_loss_exit_3"] for t in (with_them, without))
    assert harder > plain
    model, batch = with_them.model.eval(), batches[0]
    with torch.no_grad():
        queries, documents, negatives = (
            whole_batch(model, batch, side)[3] for side in ("query", "document", "negative")
        )
        expected = clip_loss(queries, documents, model.similarity_scale, hard_negatives=negatives)
    assert harder == pytest.approx(expected.item(), rel=1e-5)


# --- logging -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("with_teacher", "relational"), [(False, 0.0), (True, 0.0), (True, 0.4)])
def test_the_losses_logged_are_those_of_the_definition(build, tiny_teacher, with_teacher, relational):
    weights = {"contrastive_weight": 0.3, "teacher_kl_weight": 2.0, "teacher_cosine_weight": 0.7}
    weights["teacher_relational_weight"] = relational
    trainer, batches = build(
        teacher=tiny_teacher if with_teacher else None,
        learning_rate=0.0,
        max_steps=4,
        logging_steps=2,
        gradient_accumulation_steps=1,
        **(weights if with_teacher else {}),
    )
    trainer.train()
    with torch.no_grad():
        expected = [definition(trainer.model.eval(), batch, trainer) for batch in batches]
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert len(lines) == 2
    for at, line in enumerate(lines):
        assert {key for key in line if "_exit_" in key} == expected[0].keys() - {"loss"}
        for key in expected[0]:
            mean = (expected[2 * at][key] + expected[2 * at + 1][key]).item() / 2
            assert line[key] == pytest.approx(mean, rel=1e-4), key
        assert line["similarity_scale"] == pytest.approx(10.0)


def test_evaluation_logs_its_own_figures(build, pairs):
    trainer, batches = build(
        learning_rate=0.0,
        dropout=0.5,
        max_steps=2,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=1,
        eval_dataset=pairs.select(range(8)),
    )
    trainer.train()
    history = trainer.state.log_history
    names = {f"contrastive_loss_exit_{e}" for e in EXITS}
    train, evaluation = ([line for line in history if key in line] for key in ("loss", "eval_loss"))
    assert len(train) == 1 and len(evaluation) == 2
    assert names <= train[0].keys() and {f"eval_{name}" for name in names} <= evaluation[0].keys()
    assert not any(key.startswith("eval_") for key in train[0]) and not names & evaluation[0].keys()
    figures = trainer.evaluate()
    collator = trainer.data_collator
    with torch.no_grad():
        halves = [
            definition(trainer.model.eval(), collator([pairs[i] for i in range(k, k + 4)]), trainer)
            for k in (0, 4)
        ]
    for key in halves[0]:
        expected = (halves[0][key] + halves[1][key]).item() / 2
        assert figures[f"eval_{key}"] == pytest.approx(expected, rel=1e-5)
        assert evaluation[0][f"eval_{key}"] == pytest.approx(expected, rel=1e-5)
        assert train[0][key] != pytest.approx(expected, rel=1e-4)  # dropout is on there


def test_several_validation_sets_are_told_apart(build, pairs):
    sets = {"short": pairs.select(range(4)), "long": pairs.select(range(8, 16))}
    trainer, _ = build(eval_dataset=sets)
    figures = trainer.evaluate()
    for name in sets:
        weighed = sum(max(e, 1) / 3 * figures[f"eval_{name}_contrastive_loss_exit_{e}"] for e in EXITS)
        assert weighed == pytest.approx(figures[f"eval_{name}_loss"], rel=1e-5)


def test_a_step_does_not_wait_for_the_device(build, tiny_teacher, monkeypatch):
    trainer, batches = build(teacher=tiny_teacher)
    trainer.train()
    inputs = {name: value.clone() for name, value in batches[0].items()}
    trainer.model.train()
    for reading in ("item", "tolist", "numpy", "cpu", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, reading, lambda *_: pytest.fail("the step reads a tensor"))
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()


# --- what is saved -----------------------------------------------------------------------------------------

WITHOUT_MOSE = """
import json, sys
sys.modules["mose"] = None
import numpy as np
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoTokenizer
folder, texts = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
found = {}
for exit_layer in (0, 1, 3):
    model = AutoModel.from_pretrained(folder, trust_remote_code=True, exit_layer=exit_layer)
    assert len(model.layers) == exit_layer
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    found[f"model {exit_layer}"] = model(**batch).pooler_output.detach().numpy()
sentences = SentenceTransformer(folder, trust_remote_code=True, device="cpu")
for exit_layer in (0, 1, 3):
    found[f"sentences {exit_layer}"] = sentences.encode(texts, exit_layer=exit_layer)
found["query"], found["document"] = sentences.encode_query(texts), sentences.encode_document(texts)
np.savez(sys.argv[3], **found)
"""


def test_what_is_saved_loads_where_mose_is_not_installed(build, tiny_tokenizer, tmp_path):
    trainer, _ = build()
    trainer.train()
    folder = tmp_path / "saved"
    trainer.save_model(str(folder))
    model = trainer.model.eval()
    state = load_file(folder / "model.safetensors")
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())
    texts = ["def add(a, b): return a + b", "Add.", "(" * 30]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    environment |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf"), "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-c", WITHOUT_MOSE, str(folder), json.dumps(texts), str(tmp_path / "found.npz")]
    run = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert run.returncode == 0, run.stderr
    found = np.load(tmp_path / "found.npz")

    def ours(prompt, exit_layer):
        batch = tiny_tokenizer([prompt + text for text in texts], padding=True, return_tensors="pt")
        with torch.no_grad():
            return model(batch["input_ids"], batch["attention_mask"], exit_layer=exit_layer).pooler_output.numpy()

    for exit_layer in EXITS:
        for name in ("model", "sentences"):
            np.testing.assert_allclose(found[f"{name} {exit_layer}"], ours("", exit_layer), atol=1e-5)
    query = "Represent this code description for retrieving supporting snippets of code:<sep>"
    np.testing.assert_allclose(found["query"], ours(query, 3), atol=1e-5)
    document = "Represent this code snippet for retrieval:<sep>"
    np.testing.assert_allclose(found["document"], ours(document, 3), atol=1e-5)
