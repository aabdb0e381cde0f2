"""`train_hf.py pretrain`: what it learns from, that it goes on exactly, and that it is the same in pieces."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForPreTraining, Trainer, TrainingArguments

from mose import train_hf
from mose.data.pretraining.corpus import load_corpus
from mose.data.pretraining.masking import MLMCollator
from mose.modeling_mose import MoSEForPreTraining, MoSEModel
from mose.train_hf import main
from mose.training.checkpoints import last_whole_checkpoint
from mose.training.pretraining.arguments import PreTrainingArguments, PreTrainingModelArguments
from mose.training.pretraining.command import choose_tokenizer
from mose.training.pretraining.flops import peak_flops, training_flops

pytestmark = pytest.mark.slow

SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "exit_layers": [0, 1, 2],
    "gate_size": 8,
}
#: Where a result in pieces is compared with the whole, nothing may depend on how the random numbers are drawn.
DROPOUT = {name: 0.1 for name in ("attention_dropout", "residual_dropout", "embedding_dropout")}


@pytest.fixture(scope="session")
def repositories(tmp_path_factory) -> Path:
    """Six repositories of four files, each with words of its own."""
    root = tmp_path_factory.mktemp("repositories")
    draw = random.Random(0)
    for name in "abcdef":
        words = [name + "".join(draw.choices("aeioubdgklmnprst", k=3)) for _ in range(6)]
        for file in range(4):
            lines = [
                f"def {draw.choice(words)}_{i}({draw.choice(words)}):\n    return {draw.choice(words)} + {i}\n"
                for i in range(8)
            ]
            path = root / name / f"file_{file}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text("\n".join(lines))
    return root


@pytest.fixture(scope="session")
def tokenizer_folder(tiny_tokenizer, tmp_path_factory) -> str:
    folder = str(tmp_path_factory.mktemp("tokenizer"))
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def flags(repositories, tokenizer_folder) -> list[str]:
    """A run of a tiny model; of flags given twice the later counts."""
    common = "--use-cpu --max-steps 2 --max-length 40 --per-device-train-batch-size 4 --logging-steps 1"
    return [
        *("pretrain", "--preset", "mose-nano-256", "--tokenizer", tokenizer_folder),
        *("--config-overrides", json.dumps({**SIZES, "vocab_size": 320}), "--source-tree", str(repositories)),
        *("--report-to", "none", "--held-out", "0", "--save-strategy", "no", *common.split()),
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def log_lines(folder: Path) -> list[dict]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


# --- one run -----------------------------------------------------------------------------------------------


def test_a_run_logs_every_part_and_what_it_saves_can_be_used(flags, tmp_path, capsys):
    out = tmp_path / "out"
    evaluation = "--held-out 0.4 --eval-strategy steps --eval-steps 1 --per-device-eval-batch-size 3"
    more = "--lr-drop-steps 2 --warmup-steps 1 --gradient-checkpointing --report-to tensorboard"
    assert main([*flags, *evaluation.split(), *more.split(), "--output-dir", str(out), "--max-steps", "3"]) == 0
    lines = log_lines(out)
    parts = [
        f"{task}_{kind}_exit_{e}" for task in ("mlm", "icc") for kind in ("loss", "accuracy") for e in (0, 1, 2)
    ]
    steps = [line for line in lines if "loss" in line]
    evaluations = [line for line in lines if "eval_loss" in line]
    assert len(steps) == 3 and len(evaluations) == 4  # one more at the end
    for line in steps:
        assert {*parts, "tokens_per_second", "mean_length", "grad_norm"} <= line.keys()
        weighted = sum(
            max(e, 1) / 2 * (line[f"mlm_loss_exit_{e}"] + line[f"icc_loss_exit_{e}"]) for e in (0, 1, 2)
        )
        assert line["loss"] == pytest.approx(weighted, rel=1e-5)
        assert 20 < line["mean_length"] <= 40
    assert {f"eval_{part}" for part in parts} <= evaluations[0].keys()
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]
    assert [line["learning_rate"] for line in steps] == pytest.approx([0, 1e-3, 1e-3 * 10**-0.5])
    assert list((out / "runs").rglob("events.out.tfevents.*"))
    # The heads at any exit, the trunk for fine-tuning, and a plain Trainer that goes on from the checkpoint.
    model = MoSEForPreTraining.from_pretrained(out)
    assert model.config.max_position_embeddings >= 40
    assert MoSEModel.from_pretrained(out, exit_layer=1).exit_layers == (0, 1)


def test_an_evaluation_is_the_mean_over_all_held_out_tokens(flags, tmp_path):
    """Whatever the batches: the mean of their means would be another figure."""
    losses = []
    for size in ("1", "3", "64"):
        out = tmp_path / size
        command = [*flags, "--held-out", "0.4", "--per-device-eval-batch-size", size, "--max-steps", "1"]
        assert main([*command, "--output-dir", str(out)]) == 0
        losses.append(json.loads((out / "eval_results.json").read_text()))
    for name in ("eval_loss", "eval_mlm_loss_exit_2", "eval_icc_loss_exit_1", "eval_mlm_accuracy_exit_2"):
        assert [loss[name] for loss in losses] == pytest.approx([losses[0][name]] * 3, rel=1e-5)


@pytest.mark.parametrize("objective", ["nsp", "none"])
def test_other_objectives_and_a_tokenizer_of_the_corpus(flags, tmp_path, objective):
    out = tmp_path / "out"
    without = [flag for flag in flags]
    at = without.index("--tokenizer")
    del without[at : at + 2]
    sizes = {name: value for name, value in SIZES.items() if name != "vocab_size"}
    command = [*without, "--config-overrides", json.dumps(sizes), "--vocab-size", "300"]
    assert main([*command, "--context-objective", objective, "--output-dir", str(out)]) == 0
    assert weights(out)["model.embed_tokens.weight"].shape == (300, 32)
    assert ("icc_loss_exit_2" in log_lines(out)[0]) == (objective == "nsp")


def test_a_run_that_begins_trains_its_own_tokenizer(repositories, tmp_path):
    """Not so a process that waited for it, or a run that goes on."""
    corpus, args = load_corpus([str(repositories)], []), PreTrainingModelArguments(preset="mose-nano")
    for anew, size, expected in ((True, 290, 290), (False, 300, 290), (True, 300, 300)):
        args.vocab_size = size
        assert len(choose_tokenizer(args, corpus, tmp_path / "tokenizer", 40, anew)) == expected
    (tmp_path / "tokenizer" / "tokenizer.json").write_text('{"cut')
    assert len(choose_tokenizer(args, corpus, tmp_path / "tokenizer", 40, anew=True)) == 300


def test_a_plain_trainer_trains_a_checkpoint(flags, tiny_tokenizer, tmp_path):
    out = tmp_path / "out"
    assert main([*flags, "--output-dir", str(out), "--max-steps", "1"]) == 0
    collate = MLMCollator(tiny_tokenizer, seed=1)
    draw = torch.Generator().manual_seed(0)
    rows = [
        {
            "input_ids": [1, *torch.randint(4, 300, (n,), generator=draw).tolist(), 2],
            "context_label": n % 2,
            "index": n,
        }
        for n in range(9, 17)
    ]

    def run(batch: int, accumulation: int) -> dict[str, torch.Tensor]:
        model = AutoModelForPreTraining.from_pretrained(out, trust_remote_code=True)
        arguments = TrainingArguments(
            output_dir=str(tmp_path / "plain"),
            use_cpu=True,
            max_steps=1,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.5,
            lr_scheduler_type="constant",
            report_to="none",
            save_strategy="no",
            max_grad_norm=0,  # the norm is that of ICC, too
            remove_unused_columns=False,
        )
        Trainer(model, arguments, collate, rows).train()
        return model.state_dict()

    before = load_file(out / "model.safetensors")
    whole, pieces = run(8, 1), run(2, 4)
    name = "model.layers.0.mlp.c_fc.weight"
    assert not torch.equal(before[name], whole[name])
    # Of a plain Trainer only MLM is exact; the head that only MLM trains tells.
    for name in ("predictions.transform.dense.weight", "predictions.decoder.bias"):
        torch.testing.assert_close(whole[name], pieces[name], atol=1e-6, rtol=0)


# --- in pieces ---------------------------------------------------------------------------------------------

SGD = [
    *("--optim", "sgd", "--learning-rate", "0.5", "--max-steps", "2"),
    *("--lr-scheduler-type", "constant", "--warmup-steps", "0"),
]


@pytest.fixture(scope="session")
def whole_batch(repositories, tokenizer_folder, tmp_path_factory):
    """Two steps of a batch of 8 in one process."""
    out = tmp_path_factory.mktemp("whole")

    def run(flags: list[str]) -> tuple[dict[str, torch.Tensor], list[dict]]:
        if not (out / "model.safetensors").exists():
            assert main([*flags, *SGD, "--per-device-train-batch-size", "8", "--output-dir", str(out)]) == 0
        return weights(out), log_lines(out)

    return run


def same(found: Path, whole: tuple[dict[str, torch.Tensor], list[dict]]) -> None:
    expected, lines = whole
    for name, value in weights(found).items():
        torch.testing.assert_close(value, expected[name], atol=1e-6, rtol=0, msg=name)
    for ours, theirs in zip(log_lines(found)[:2], lines[:2], strict=True):
        for name in ("loss", "grad_norm", "mlm_loss_exit_2", "icc_loss_exit_1", "mlm_accuracy_exit_2"):
            assert ours[name] == pytest.approx(theirs[name], abs=2e-6), name


def test_accumulated_batches_equal_one(flags, whole_batch, tmp_path):
    out = tmp_path / "out"
    pieces = ["--per-device-train-batch-size", "2", "--gradient-accumulation-steps", "4"]
    assert main([*flags, *SGD, *pieces, "--output-dir", str(out)]) == 0
    same(out, whole_batch(flags))


def environment(**more) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads()), "TOKENIZERS_PARALLELISM": "false"}
    return os.environ | threads | {"PYTHONPATH": str(Path(train_hf.__file__).parents[1])} | more


def two_processes(tmp_path: Path, *command: str) -> str:
    """Runs Python in two processes of one group, over gloo; returns what the first wrote."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    running = []
    for rank in "01":
        places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2"}
        with (tmp_path / f"log-{rank}").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *command],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment(**places, MASTER_ADDR="127.0.0.1", MASTER_PORT=port),
            )
        running.append(process)
    try:
        assert [process.wait(timeout=400) for process in running] == [0, 0], (tmp_path / "log-0").read_text()
    finally:
        for process in running:
            process.kill()
    return (tmp_path / "log-0").read_text()


def test_two_processes_equal_one(flags, whole_batch, tmp_path):
    expected = whole_batch(flags)
    two_processes(tmp_path, train_hf.__file__, *flags, *SGD, "--output-dir", str(tmp_path / "out"))
    same(tmp_path / "out", expected)


#: accelerate does not take FSDP to a CPU, so that the model is sharded by hand here, as accelerate does it.
FULLY_SHARDED = """
import sys
import torch
from torch import distributed
from torch.distributed.fsdp import FSDPModule, fully_shard
from mose.modeling_mose import MoSEForPreTraining

distributed.init_process_group("gloo")
rank = distributed.get_rank()
model = MoSEForPreTraining.from_pretrained(sys.argv[1]).train()
saved = torch.load(sys.argv[2])
for block in model.model.layers:
    fully_shard(block)
fully_shard(model)
assert isinstance(model, FSDPModule)
batch = {name: value[rank::2] for name, value in saved.items()}
masked, examples = int((saved["labels"] != -100).sum()), len(saved["labels"])
loss = model(**batch, num_items_in_batch=masked, num_examples_in_batch=examples).loss
(2 * loss).backward()  # it averages over the processes
gradients = {name: p.grad.full_tensor() for name, p in model.named_parameters() if p.grad is not None}
total = loss.detach().clone()
distributed.all_reduce(total)
if rank == 0:
    torch.save((total, gradients), sys.argv[3])
distributed.destroy_process_group()
"""


def test_two_processes_of_fully_sharded_parameters_equal_one(tiny_config, build_model, tmp_path):
    model = build_model(MoSEForPreTraining, tiny_config()).train()
    model.save_pretrained(tmp_path / "model")
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, 320, (6, 12), generator=draw)
    chosen = torch.rand(ids.shape, generator=draw) < torch.linspace(0.1, 0.5, 6)[:, None]
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "labels": torch.where(chosen, ids, -100),
        "context_labels": torch.tensor([0, 1, 1, 0, 1, 1]),
    }
    torch.save(batch, tmp_path / "batch.pt")
    places = (tmp_path / name for name in ("model", "batch.pt", "found.pt"))
    two_processes(tmp_path, "-c", FULLY_SHARDED, *map(str, places))
    loss, gradients = torch.load(tmp_path / "found.pt")
    expected = model(**batch).loss
    expected.backward()
    torch.testing.assert_close(loss, expected.detach(), atol=1e-6, rtol=1e-6)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(gradients[name], parameter.grad, atol=1e-6, rtol=1e-5, msg=name)


# --- going on ----------------------------------------------------------------------------------------------


def test_a_run_killed_at_random_and_resumed_ends_as_an_unbroken_one(flags, tmp_path, capsys, caplog):
    overrides = json.dumps({**SIZES, **DROPOUT})
    long = (
        "--max-steps 24 --save-steps 2 --save-total-limit 3 --save-strategy steps --gradient-accumulation-steps 2"
    )
    evaluation = "--held-out 0.4 --eval-strategy steps --eval-steps 7 --eval-examples 6"
    command = [
        *flags,
        "--config-overrides",
        overrides,
        *long.split(),
        *evaluation.split(),
        "--shuffle-buffer",
        "4",
    ]
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    assert main([*command, "--output-dir", str(unbroken)]) == 0

    at = random.SystemRandom().randrange(4, 18, 2)
    delay = random.SystemRandom().random() * 0.3
    process = subprocess.Popen(
        [sys.executable, train_hf.__file__, *command, "--output-dir", str(killed)],
        stdout=(tmp_path / "log").open("w"),
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=environment(),
    )
    deadline = time.monotonic() + 240
    while not (killed / f"checkpoint-{at}" / "model.safetensors").exists():
        assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
        time.sleep(0.001)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model.safetensors").exists(), "it ended before it was killed"

    # Without --resume nothing is touched; the newest checkpoint is spoilt, and the one before is used.
    assert main([*command, "--output-dir", str(killed)]) == 2
    newest = last_whole_checkpoint(killed)
    assert newest is not None and "Pass --resume" in capsys.readouterr().err
    with (newest / "optimizer.pt").open("r+b") as file:
        file.seek(100)
        file.write(b"spoilt")
    assert main([*command, "--output-dir", str(killed), "--resume"]) == 0, capsys.readouterr().err
    assert f"{newest} is skipped: optimizer.pt has changed since it was written" in caplog.text
    expected, found = weights(unbroken), weights(killed)
    assert expected.keys() == found.keys()
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]
    timed = ("runtime", "per_second", "mfu")
    ours, theirs = (
        [
            {name: value for name, value in line.items() if not name.endswith(timed)}
            for line in log_lines(folder)
            if line["step"] >= 20 and "train_loss" not in line
        ]
        for folder in (killed, unbroken)
    )
    assert ours == theirs and len(ours) >= 6
    # A finished run has nothing more to do, and keeps what it has.
    assert main([*command, "--output-dir", str(killed), "--resume"]) == 0
    again = weights(killed)
    assert not [name for name in expected if not torch.equal(expected[name], again[name])]


def test_going_on_with_another_corpus_is_refused(flags, repositories, tmp_path, capsys):
    command = [*flags, "--save-strategy", "steps", "--save-steps", "1", "--output-dir", str(tmp_path / "out")]
    assert main([*command, "--max-steps", "1"]) == 0
    assert main([*command, "--max-length", "32", "--resume"]) == 1
    assert "is from another stream of examples" in capsys.readouterr().err


# --- bad input ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--model", "x"], "exactly one of --model and --preset"),
        (["--preset", "mose-2b"], "preset must be one of mose-1b, mose-nano, mose-nano-256, got 'mose-2b'"),
        (["--source-tree", "no/such"], "no/such"),
        (["--context-objective", "sop"], "context_objective must be one of icc, nsp, none, got 'sop'"),
        (["--max-length", "4"], "max_length must be at least 5 for .icc. examples, got 4"),
        (["--max-steps", "0"], "max_steps must be at least 1, got 0"),
        (["--lr-drop-steps", "3", "2"], r"lr_drop_steps must be positive and increasing, got \[3, 2\]"),
        (["--lr-drop-factor", "0"], r"lr_drop_factor must be in \(0, 1\], got 0.0"),
        (["--mlm-probability", "0"], r"mlm_probability must be in \(0, 1\], got 0.0"),
        (["--config-overrides", "{hidden"], "config_overrides must be JSON, got {hidden"),
        (
            ["--config-overrides", '{"vocab_size": 100}'],
            "at most vocab_size=100 tokens, got 320",
        ),
        (["--recipe", "big"], "recipe must be one of mose-1b, mose-nano, mose-nano-256, got 'big'"),
        (["--held-out", "1.5"], r"held_out must be in \[0, 1\), got 1.5"),
        (["--eval-examples", "0"], "eval_examples must be at least 1, got 0"),
        (["--lanes", "0"], "lanes must be at least 1, got 0"),
    ],
)
def test_bad_arguments_end_with_2_and_a_line(flags, tmp_path, capsys, more, message):
    assert main([*flags, *more, "--output-dir", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert "Traceback" not in error and not (tmp_path / "out" / "model.safetensors").exists()


def test_a_corpus_without_repositories_or_with_one_is_refused(flags, repositories, tmp_path, capsys):
    at = flags.index("--source-tree")
    plain = flags[:at] + flags[at + 2 :] + ["--output-dir", str(tmp_path / "out")]
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "def f(): pass"}\n')
    assert main([*plain, "--dataset", str(file)]) == 2
    assert "repository" in capsys.readouterr().err
    assert main([*plain, "--source-tree", str(repositories / "a" / "file_0.py")]) == 2
    assert "2 repositories or more; all are from" in capsys.readouterr().err
    assert main(plain) == 2
    assert "No data to train on" in capsys.readouterr().err


def test_a_tokenizer_of_another_model_is_refused(flags, tiny_model_folder, tmp_path, capsys):
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_model_folder)
    tokenizer.mask_token = "a"
    tokenizer.save_pretrained(tmp_path / "other")
    at = flags.index("--preset")
    plain = [*flags[:at], "--model", tiny_model_folder, *flags[at + 2 :], "--tokenizer", str(tmp_path / "other")]
    drop = plain.index("--config-overrides")
    del plain[drop : drop + 2]
    assert main([*plain, "--output-dir", str(tmp_path / "out")]) == 2
    assert re.search("must have the model's .*got {'mask_token_id': ", capsys.readouterr().err)


def test_the_paper_sets_the_defaults_of_its_model(tmp_path):
    args = PreTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", recipe="mose-1b", weight_decay=0.2
    )
    assert (args.adam_beta1, args.adam_beta2, args.adam_epsilon, args.weight_decay) == (0.9, 0.95, 1e-6, 0.2)
    assert (args.max_steps, args.warmup_steps) == (245_000, 4000)
    factors = {step: args.multi_step(step) for step in (0, 2000, 4000, 119_999, 120_000, 190_000, 244_999)}
    r = 10**-0.5
    assert list(factors.values()) == pytest.approx([0, 0.5, 1, 1, r, r**2, r**5])
    given = PreTrainingArguments(
        output_dir=str(tmp_path), use_cpu=True, report_to="none", recipe="mose-1b", max_steps=7
    )
    assert given.max_steps == 7 and given.learning_rate == args.learning_rate


# --- flops -------------------------------------------------------------------------------------------------


def test_flops_are_those_that_torch_counts(tiny_config, build_model):
    from torch.utils.flop_counter import FlopCounterMode

    config = tiny_config(exit_layers=(1, 3), attn_implementation="eager")
    model = build_model(MoSEForPreTraining, config)
    ids = torch.randint(4, 320, (2, 40))
    labels = torch.where(torch.arange(40) % 4 == 0, ids, -100)
    with FlopCounterMode(display=False) as counter:
        model(
            input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels, context_labels=torch.ones(2).long()
        ).loss.backward()
    expected = training_flops(config, 40, mlm_probability=0.25) * ids.numel()
    uncounted = 2 * (labels != -100).sum().item() * 2 * 320 * 32  # `addmm_`, the gradient of the projection
    assert counter.get_total_flops() + uncounted == pytest.approx(expected, rel=0.02)  # ICC's head is left out


def test_the_peak_of_a_device_is_known_by_its_name():
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("cpu") is None
