"""Conversion of released checkpoints, against transformers' Starcoder2Model with the published heads."""

import json
import re
import weakref
from functools import partial
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from released_checkpoints import Released, tokenizer, truncated, write
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, AutoModelForPreTraining, AutoTokenizer

from mose.handler import EndpointHandler
from mose.hub import weights
from mose.hub.__main__ import main
from mose.hub.convert.command import convert_checkpoint
from mose.hub.convert.layout import ConversionOptions, MismatchedTensorsError
from mose.hub.publish import publish
from mose.hub.shards import TensorSource
from mose.hub.weights import read_weights

pytestmark = pytest.mark.slow

MEAN = ConversionOptions(pooling="mean")


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    mask = torch.tensor([[1] * 11, [0] * 4 + [1] * 7, [0] * 10 + [1]])
    return torch.randint(5, 300, mask.shape) * mask, mask


def load(folder: Path, **kwargs) -> torch.nn.Module:
    return AutoModel.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32, **kwargs).eval()


def check(folder: Path, expected: dict[int, torch.Tensor], batch) -> None:
    model = load(folder)
    assert model.exit_layers == tuple(e for e in expected if e <= model.exit_layers[-1])
    with torch.no_grad():
        for e in model.exit_layers:
            out = model(*batch, exit_layer=e)
            assert (out.pooler_output - expected[e]).abs().max() <= 1e-5, e
        if len(model.exit_layers) > 1:
            e = model.exit_layers[0]
            shallow = load(folder, exit_layer=e, variant=f"exit{e}")
            assert len(shallow.layers) == e
            assert (shallow(*batch).pooler_output - expected[e]).abs().max() <= 1e-5


@pytest.mark.parametrize(("pooling", "shards"), [("mean", 1), ("cls", 3)])
@pytest.mark.parametrize("norm", ["unit", "at_most_one"])
@pytest.mark.parametrize(("heads", "prefix"), [(1, ""), (2, "starEncoder2."), (2, "starEncoder2.module.")])
def test_every_exit_gives_the_released_models_vectors(tmp_path, batch, shards, pooling, norm, heads, prefix):
    released = Released(heads=heads)
    source = write(tmp_path / "source", released.tensors(prefix), released.settings, shards)
    options = ConversionOptions(pooling, embedding_norm=norm)
    plan = convert_checkpoint(str(source), tmp_path / "out", options)
    assert not plan.left_out
    check(tmp_path / "out", released.embeddings(*batch, pooling, norm), batch)


def test_full_depth_in_bf16(tmp_path, batch):
    """36 blocks and the paper's exits, in the released type; rounded once, when the test writes them."""
    released = Released(exits=(4, 9, 18, 27, 36))
    halves = {name: tensor.to(torch.bfloat16) for name, tensor in released.tensors().items()}
    released.load_state_dict({name: tensor.float() for name, tensor in halves.items()})
    source = write(tmp_path / "source", halves, released.settings, shards=2)
    plan = convert_checkpoint(str(source), tmp_path / "out", MEAN)
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == "bfloat16"
    assert plan.config.exit_norm == "final" and plan.config.norm_epsilon == 1e-3
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) == 5
    check(tmp_path / "out", released.embeddings(*batch, "mean", "at_most_one"), batch)


@pytest.mark.parametrize("prefix", ["", "cls.", "heads."])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_the_heads_of_pretraining(tmp_path, batch, pooling, prefix):
    """The decoder has weights of its own, and projections start as the identity."""
    released = Released(heads=0, pretraining=True)
    source = write(tmp_path / "source", released.tensors(prefix), released.settings)
    convert_checkpoint(str(source), tmp_path / "out", ConversionOptions(pooling))
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "out", trust_remote_code=True).eval()
    for e, (mlm, icc) in released.heads(*batch).items():
        with torch.no_grad():
            out = model(*batch, exit_layer=e)
        real = batch[1].bool()
        assert (out.prediction_logits[real] - mlm[real]).abs().max() <= 1e-5
        assert (out.context_logits - icc).abs().max() <= 1e-5
    check(tmp_path / "out", released.embeddings(*batch, pooling, "unit"), batch)
    assert torch.equal(load(tmp_path / "out").exits["2"].projection.weight, torch.eye(32))


def test_a_tensor_that_is_stored_twice_is_refused_by_name(tmp_path, batch):
    """BERT has two names for the decoder's bias."""
    released = Released(heads=0, pretraining=True)
    bias = released.predictions["decoder"].bias.detach().clone()
    source = write(tmp_path / "source", released.tensors() | {"predictions.bias": bias}, released.settings)
    with pytest.raises(MismatchedTensorsError, match="predictions.bias .*are both predictions.decoder.bias"):
        convert_checkpoint(str(source), tmp_path / "out", MEAN)
    plan = convert_checkpoint(
        str(source), tmp_path / "out", ConversionOptions("mean", leave_out=[r"^predictions\.bias$"])
    )
    assert plan.left_out == {"predictions.bias": "left out as requested"}


@pytest.mark.parametrize("exit_layer", [4, 9, 18, 27])
def test_truncated_variants(tmp_path, batch, exit_layer):
    exits = (4, 9, 18, 27, 36)
    released = Released(exits=exits)
    expected = released.embeddings(*batch, "mean", "at_most_one")
    tensors = truncated(released.tensors(), exit_layer)
    settings = released.settings | {"till_layer": exit_layer}
    norm = [name for name in tensors if name.startswith("starEncoder2.norm.")]
    for number, blocks in enumerate((36, exit_layer)):  # either may be in the configuration
        stored = {name: tensor for name, tensor in tensors.items() if number or name not in norm}
        source = write(tmp_path / f"source{number}", stored, settings | {"num_hidden_layers": blocks})
        plan = convert_checkpoint(str(source), tmp_path / f"out{number}", MEAN)
        deeper = exits[exits.index(exit_layer) + 1 :]
        reasons = sorted(set(plan.left_out.values()))
        assert len([r for r in reasons if r.startswith("head of exit")]) == len(deeper)
        assert any(r.startswith("final norm of the whole model") for r in reasons) == bool(number)
        check(tmp_path / f"out{number}", expected, batch)


@pytest.mark.parametrize("last_norm", ["apply", "drop"])
def test_a_truncated_variant_may_hold_one_head_and_apply_the_final_norm(tmp_path, batch, last_norm):
    """The released file of exit 4 has the size of one head; its code may norm the last state, or not."""
    released = Released(exits=(1, 2, 4))
    tensors = {n: t for n, t in truncated(released.tensors(), 2).items() if "projection_heads" not in n}
    tensors |= {f"projection_heads.0.{n}": t for n, t in released.projection_heads[1].state_dict().items()}
    settings = released.settings | {"till_layer": 2, "num_hidden_layers": 2}
    source = write(tmp_path / "source", tensors, settings)
    plan = convert_checkpoint(str(source), tmp_path / "out", ConversionOptions("mean", last_norm=last_norm))
    assert "Left out exits without a projection head: 1." in plan.notes
    if last_norm == "drop":
        check(tmp_path / "out", {2: released.embeddings(*batch, "mean", "at_most_one")[2]}, batch)
        return
    states = released.starEncoder2.norm(released.states(*batch)[2])
    rows = [
        released.projection_heads[1](row[real]).mean(0) for row, real in zip(states, batch[1].bool(), strict=True)
    ]
    vectors = torch.stack(rows)
    expected = vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1)
    check(tmp_path / "out", {2: expected.detach()}, batch)


def test_what_the_file_does_not_state_has_the_papers_value_or_an_option(tmp_path, batch):
    released = Released()
    settings = {k: v for k, v in released.settings.items() if k not in ("matryoshka_layers", "rope_theta")}
    source = write(tmp_path / "source", released.tensors(), settings)
    with pytest.raises(ValueError, match="blocks must be one of its exits 9, 18, got 4. Pass --exit-layers"):
        convert_checkpoint(str(source), tmp_path / "out", ConversionOptions("mean", exit_layers=[9, 18]))
    plan = convert_checkpoint(str(source), tmp_path / "out", ConversionOptions("mean", exit_layers=[1, 2, 4]))
    assert plan.config.rope_parameters["rope_theta"] == 999_999.4420358813
    assert (plan.config.projection_layers, plan.config.projection_act) == (2, "leaky_relu")
    assert (plan.config.exit_norm, plan.config.context_pooler) == ("final", "conditioned")
    check(tmp_path / "out", released.embeddings(*batch, "mean", "at_most_one"), batch)
    options = ConversionOptions("mean", exit_layers=[1, 2, 4], rope_theta=500.0, projection_act="relu")
    plan = convert_checkpoint(str(source), tmp_path / "out2", options)
    assert (plan.config.rope_parameters["rope_theta"], plan.config.projection_act) == (500.0, "relu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.pop("starEncoder2.layers.2.mlp.c_fc.bias"),
            "parameter without a tensor.*layers.2.mlp.c_fc.bias",
        ),
        (
            lambda t: t.pop("projection_heads.1.2.weight"),
            "parameter without a tensor.*exits.2.projection.2.weight",
        ),
        (lambda t: t.pop("starEncoder2.norm.weight"), "parameter without a tensor.*exits.4.norm.weight"),
        (lambda t: t.update({"adapter.weight": torch.zeros(2)}), "tensor without a place.*: adapter.weight"),
        (
            lambda t: t.update({"starEncoder2.layers.4.mlp.c_fc.bias": torch.zeros(48)}),
            "tensor without a place.*: starEncoder2.layers.4.mlp.c_fc.bias",
        ),
        (
            lambda t: t.update({"starEncoder2.layers.1.mlp.c_fc.weight": torch.zeros(47, 32)}),
            r"starEncoder2.layers.1.mlp.c_fc.weight must have shape \(48, 32\), got \(47, 32\)",
        ),
        (
            lambda t: t.update({"projection_heads.0.2.weight": torch.zeros(32, 31)}),
            r"projection_heads.0.2.weight must have shape \(32, 32\), got \(32, 31\)",
        ),
        (
            lambda t: t.update({"projection_heads.0.1.weight": torch.zeros(32)}),
            "projection heads 0, 1, 2 of 3 layers, expected at most 2",
        ),
        (
            lambda t: t.update({"projection_heads.0.weight": torch.zeros(32, 32)}),
            "projection_heads.0.0.weight and projection_heads.0.weight are both exits.1.projection.0.weight",
        ),
        (
            lambda t: [t.pop(name) for name in list(t) if name.startswith("projection_heads.1.")],
            "projection heads 0, 2 of 2 layers, expected .* one head per exit 1, 2, 4",
        ),
        (
            lambda t: t.update({"projection_heads.9.0.bias": torch.zeros(32), "adapter.w": torch.zeros(2)}),
            "tensor without a place.*: adapter.w\n.*projection heads 0, 1, 2, 9",
        ),
        (
            lambda t: t.update({"starEncoder2.embed_tokens.weight": torch.tensor(1.0)}),
            r"starEncoder2.embed_tokens.weight must have shape \(\d+, 32\), got \(\)",
        ),
        (
            lambda t: t.update({"model.starEncoder2.norm.bias": torch.ones(32)}),
            "model.starEncoder2.norm.bias and starEncoder2.norm.bias are both|norm.bias are both final_norm.bias",
        ),
    ],
)
def test_what_is_left_over_is_listed_and_nothing_is_written(tmp_path, change, message):
    released = Released()
    tensors = released.tensors()
    change(tensors)
    source = write(tmp_path / "source", tensors, released.settings)
    with pytest.raises(MismatchedTensorsError, match=f"(?s){message}"):
        convert_checkpoint(str(source), tmp_path / "out", MEAN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_what_is_not_wanted_can_be_left_out_by_name(tmp_path):
    released = Released()
    source = write(tmp_path / "source", released.tensors() | {"adapter.w": torch.ones(2)}, released.settings)
    plan = convert_checkpoint(str(source), tmp_path / "out", ConversionOptions("mean", leave_out=[r"^adapter\."]))
    assert plan.left_out == {"adapter.w": "left out as requested"}
    for pattern, message in (("nothing", "matches no tensor"), ("(", "is not a regular expression")):
        with pytest.raises(ValueError, match=f"--leave-out {re.escape(pattern)} {message}"):
            convert_checkpoint(str(source), tmp_path / "out2", ConversionOptions("mean", leave_out=[pattern]))


def test_a_truncated_variant_with_heads_of_unknown_exits_is_refused(tmp_path):
    """Heads 0 and 2 of a file with two exits: head 2 must not become that of the second exit."""
    released = Released()
    tensors = truncated(released.tensors(), 2)
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith("projection_heads.1.")}
    source = write(tmp_path / "source", tensors, released.settings | {"till_layer": 2})
    with pytest.raises(MismatchedTensorsError, match="projection heads 0, 2"):
        convert_checkpoint(str(source), tmp_path / "out", MEAN)


def test_an_interrupted_conversion_leaves_nothing_and_the_next_one_succeeds(tmp_path, monkeypatch):
    released = Released()
    source = write(tmp_path / "source", released.tensors(), released.settings)
    (tmp_path / "out.partial").mkdir()  # left by a process that was killed
    (tmp_path / "out.partial" / "model-00001-of-00003.safetensors").write_bytes(b"cut")
    reads = []

    def interrupted(folder: Path) -> dict[str, TensorSource]:
        def read(tensor_source: TensorSource) -> torch.Tensor:
            reads.append(tensor_source)
            if len(reads) > 20:
                raise KeyboardInterrupt
            return tensor_source.read()

        return {n: TensorSource(t.shape, t.dtype, partial(read, t)) for n, t in read_weights(folder).items()}

    with monkeypatch.context() as patch:
        patch.setattr(weights, "read_weights", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert_checkpoint(str(source), tmp_path / "out", MEAN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]

    plan = convert_checkpoint(str(source), tmp_path / "out", MEAN)
    assert set(read_weights(tmp_path / "out")) == set(plan.tensors)


@pytest.mark.parametrize("scale", [17.5, [17.5]])
def test_other_vocabularies_and_scales(tmp_path, batch, scale):
    """A padded vocabulary, another rotary base, a stored scale."""
    released = Released(vocab=352, theta=10_000.0)
    tensors = released.tensors() | {"temp_coef": torch.tensor(scale)}
    source = write(tmp_path / "source", tensors, released.settings | {"vocab_size": 300})
    convert_checkpoint(str(source), tmp_path / "out", MEAN)
    model = load(tmp_path / "out")
    assert model.similarity_scale.item() == 17.5
    assert model.config.vocab_size == 352 and model.config.rope_parameters["rope_theta"] == 10_000.0
    check(tmp_path / "out", released.embeddings(*batch, "mean", "at_most_one"), batch)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sliding_window": 16}, "sliding_window must be .* got 16"),
        ({"head_dim": 4}, "head_dim must be 8, got 4"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling must be null"),
        ({"num_attention_heads": None}, "num_attention_heads must be an integer >= 1, got None"),
        ({"num_attention_heads": 0}, "num_attention_heads must be an integer >= 1, got 0"),
        ({"till_layer": 3}, "blocks must be one of its exits 1, 2, 4, got 3"),
        ({"model_type": "mose"}, "is a MoSE repository already"),
        ({"vocab_size": 300, "pad_token_id": 400}, r"pad_token_id must be in \[0, 328\), got 400"),
        ({"pad_token_id": "0"}, r"pad_token_id must be in \[0, 328\), got '0'"),
        ({"pad_token_id": 327}, "tokenizer.json has no token of pad_token_id 327"),
        ({"sliding_window": 16, "max_position_embeddings": None}, "sliding_window must be .* got 16"),
        ({"max_position_embeddings": "64"}, "max_position_embeddings must be an integer >= 1, got '64'"),
        ({"matryoshka_layers": 4}, "exits must be a list of increasing integers, got 4"),
        ({"matryoshka_layers": [4, 2, 1]}, r"increasing integers, got \[4, 2, 1\]. Pass --exit-layers"),
        ({"rope_parameters": {"type": "yarn", "factor": 2.0}}, "rope_type must be 'default', got 'yarn'"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "rope_type must be .* got 'linear'"),
        ({"rope_theta": -1}, "rope_theta must be > 0, got -1"),
        ({"hidden_act": "nothing"}, "activations must be among .* got 'nothing'"),
    ],
)
def test_settings_that_the_model_cannot_have_are_named(tmp_path, settings, message):
    released = Released()
    source = write(tmp_path / "source", released.tensors(), released.settings | settings)
    with pytest.raises(ValueError, match=message):
        convert_checkpoint(str(source), tmp_path / "out", MEAN)


def test_the_current_folder_is_not_replaced(tmp_path, monkeypatch):
    released = Released()
    source = write(tmp_path / "source", released.tensors(), released.settings)
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    for folder in (Path(), tmp_path / "out"):
        with pytest.raises(FileExistsError, match="is the current folder"):
            convert_checkpoint(str(source), folder, MEAN)
    assert not list((tmp_path / "out").iterdir())


def test_the_tokenizer_keeps_cls_and_has_the_ids_of_the_checkpoint(tmp_path):
    released = Released()
    source = write(tmp_path / "source", released.tensors(), released.settings)
    plan = convert_checkpoint(str(source), tmp_path / "out", MEAN)
    converted, original = AutoTokenizer.from_pretrained(tmp_path / "out", trust_remote_code=True), tokenizer()
    text = "def add(first, second): return first"
    by_hand = original(f"<sep>{text}<cls>")["input_ids"]
    assert converted(text)["input_ids"] == by_hand
    cut = converted(text, truncation=True, max_length=6)["input_ids"]
    assert cut == [*by_hand[:5], by_hand[-1]] and converted.padding_side == "right"
    ids = [original.convert_tokens_to_ids(token) for token in ("<sep>", "<cls>", "<mask>")]
    assert [plan.config.sep_token_id, plan.config.cls_token_id, plan.config.mask_token_id] == ids
    assert converted.model_max_length == 64 and converted.pad_token_id == 0


def test_licence_and_prompts_are_the_sources(tmp_path):
    released = Released()
    source = write(tmp_path / "source", released.tensors(), released.settings)
    convert_checkpoint(str(source), tmp_path / "out", MEAN)
    card = (tmp_path / "out/README.md").read_text()
    assert "license: bigcode-openrail-m" in card and "bigcode/the-stack-v2" in card
    assert "bigcode-openrail-m" in (tmp_path / "out/LICENSE").read_text()
    for name in ("README.md", "LICENSE"):  # neither tells paths of this machine
        assert str(tmp_path) not in (tmp_path / "out" / name).read_text()
    prompts = json.loads((tmp_path / "out/config_sentence_transformers.json").read_text())["prompts"]
    assert prompts["cpp"] == "Represent this c++ code snippet for retrieval:<sep>"
    bare = write(tmp_path / "bare", released.tensors(), released.settings, card=None)
    (bare / "LICENSE.md").write_text("theirs")
    (bare / "LICENSES").mkdir()
    convert_checkpoint(str(bare), tmp_path / "out2", MEAN)
    assert "license:" not in (tmp_path / "out2/README.md").read_text()
    assert (tmp_path / "out2/LICENSE.md").read_text() == "theirs"


def test_an_index_that_leads_elsewhere_and_pickles_are_refused(tmp_path):
    released = Released()
    source = write(tmp_path / "source", released.tensors(), released.settings, shards=2)
    index = source / "model.safetensors.index.json"
    good = index.read_text()
    for bad in ("../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "model.bin"):
        index.write_text(good.replace("model-00001-of-00002.safetensors", bad))
        with pytest.raises(ValueError, match=bad.replace(".", r"\.")):
            convert_checkpoint(str(source), tmp_path / "out", MEAN)
    (source / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config.json is not JSON"):
        convert_checkpoint(str(source), tmp_path / "out", MEAN)
    (source / "config.json").write_text(json.dumps(released.settings))
    for path in source.glob("model*"):
        path.unlink()
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(FileNotFoundError, match="pytorch_model.bin"):
        convert_checkpoint(str(source), tmp_path / "out", MEAN)
    (source / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        convert_checkpoint(str(source), tmp_path / "out", MEAN)


def test_the_command(tmp_path, capsys):
    released = Released()
    source = write(tmp_path / "source", released.tensors(), released.settings)
    out = tmp_path / "out"

    def run(*words: str) -> int:
        try:
            return main(["import", *words])
        except SystemExit as error:  # argparse's way out
            return int(error.code or 0)

    assert run(str(source), "--output-dir", str(out)) == 2
    assert "arguments are required: --pooling" in capsys.readouterr().err
    assert run(str(source), "--output-dir", str(out), "--pooling", "mean") == 0
    assert "exits 1, 2, 4" in capsys.readouterr().out
    assert run(str(source), "--output-dir", str(out), "--pooling", "mean") == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert run(str(tmp_path / "nowhere"), "--output-dir", str(out / "2"), "--pooling", "mean") == 2
    assert run(str(source), "--output-dir", str(tmp_path / "3"), "--pooling", "max") == 2
    assert "--pooling: invalid choice: 'max' (choose from mean, cls)" in capsys.readouterr().err.replace(
        "'mean', 'cls'", "mean, cls"
    )


def test_no_more_than_two_tensors_are_in_memory_at_a_time(tmp_path, monkeypatch):
    released = Released(exits=(4, 9, 18, 27, 36), pretraining=True)
    source = write(tmp_path / "source", released.tensors(), released.settings, shards=3)
    alive: dict[str, int] = {}
    most = [0]

    def watched(folder: Path) -> dict[str, TensorSource]:
        def read(name: str, tensor_source: TensorSource) -> torch.Tensor:
            tensor = tensor_source.read()
            alive[name] = tensor_source.size
            weakref.finalize(tensor, alive.pop, name)
            most[0] = max(most[0], sum(alive.values()))
            return tensor

        return {n: TensorSource(t.shape, t.dtype, partial(read, n, t)) for n, t in read_weights(folder).items()}

    monkeypatch.setattr(weights, "read_weights", watched)
    convert_checkpoint(str(source), tmp_path / "out", MEAN)
    largest = 4 * 328 * 32
    assert largest <= most[0] <= 2 * largest and not alive


def test_from_the_hub(online, tmp_path, batch):
    """By repository id and revision; pickles and code that lie there are not fetched."""
    released = Released()
    source = write(tmp_path / "source", released.tensors(), released.settings, shards=3)
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (source / "modularStarEncoder.py").write_text("raise SystemExit")
    api = HfApi(endpoint=online.url, token=online.token)
    repo = f"{online.user}/released"
    api.create_repo(repo)
    api.upload_folder(repo_id=repo, folder_path=source)
    plan = convert_checkpoint(repo, tmp_path / "out", MEAN, revision="main")
    assert plan.config.exit_layers == (1, 2, 4)
    assert {"pytorch_model.bin", "modularStarEncoder.py"}.isdisjoint(online.served[repo])
    assert f"base_model: {repo}" in (tmp_path / "out/README.md").read_text()
    check(tmp_path / "out", released.embeddings(*batch, "mean", "at_most_one"), batch)
    with pytest.raises(OSError, match="nowhere"):
        convert_checkpoint(f"{online.user}/nowhere", tmp_path / "out2", MEAN)


def test_an_imported_folder_can_be_published_and_cut(online, tmp_path, batch):
    released = Released()
    source = write(tmp_path / "source", released.tensors(), released.settings)
    convert_checkpoint(str(source), tmp_path / "out", MEAN)
    done = publish(tmp_path / "out", f"{online.user}/imported", endpoint=online.url, token=online.token)
    licence = online.repository(f"{online.user}/imported").files()["LICENSE"]
    assert b"bigcode-openrail-m" in licence and "handler.py" in done.files
    expected = released.embeddings(*batch, "mean", "at_most_one")
    assert main(["slice", str(tmp_path / "out"), "--exit-layer", "2", "--output-dir", str(tmp_path / "cut")]) == 0
    check(tmp_path / "cut", {e: expected[e] for e in (1, 2)}, batch)


@pytest.mark.parametrize("norm", ["unit", "at_most_one"])
def test_sentence_transformers_and_the_handler_give_the_released_models_vectors(tmp_path, norm):
    released = Released()
    source = write(tmp_path / "source", released.tensors(), released.settings)
    convert_checkpoint(str(source), tmp_path / "out", ConversionOptions("mean", embedding_norm=norm))
    text = "def add(first, second): return first"
    by_hand = f"<sep>Represent this python code snippet for retrieval:<sep>{text}<cls>"
    ids = torch.tensor(tokenizer()(by_hand)["input_ids"])[None]
    expected = released.embeddings(ids, torch.ones_like(ids), "mean", norm)
    encoder = SentenceTransformer(str(tmp_path / "out"), trust_remote_code=True, device="cpu")
    handler = EndpointHandler(tmp_path / "out", device="cpu")
    for e in (1, 2, 4):
        vector = encoder.encode(text, prompt_name="python", exit_layer=e, convert_to_tensor=True)
        assert (vector - expected[e][0]).abs().max() <= 1e-5
        parameters = {"prompt_name": "python", "exit_layer": e, "normalize": norm == "unit"}
        vector = torch.tensor(handler({"inputs": text, "parameters": parameters}))
        assert (vector - expected[e][0]).abs().max() <= 1e-5
