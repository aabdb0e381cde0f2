import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast, TrainingArguments

from mose import train_hf
from mose.modeling_mose import MoSEModel
from mose.train_hf import COMMANDS, build_parser, main
from mose.training.checkpoints import last_whole_checkpoint
from mose.training.finetuning.arguments import DataArguments, FineTuningArguments, ModelArguments
from mose.training.finetuning.trainer import FineTuningTrainer
from mose.training.help import help_text, own_help

pytestmark = pytest.mark.slow

SCRIPT = train_hf.__file__


@pytest.fixture(scope="session")
def pairs_file(tmp_path_factory) -> str:
    rows = [
        {"text": f"Add {i} to it.", "code": f"def add_{i}(a):\n    return a + {i}", "language": "python"}
        for i in range(21)  # five batches of 4, and one pair that is left
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="session")
def source_tree(tmp_path_factory) -> Path:
    tree = tmp_path_factory.mktemp("sources")
    for i in range(8):
        (tree / f"module_{i}.py").write_text(
            f'def scale_by_{i}(values):\n    """Multiply every value of a list by {i}."""\n'
            f"    result = [value * {i} for value in values]\n    return result\n"
        )
    (tree / "binary.py").write_bytes(b"\xff\xfe\x00def broken(:")
    return tree


@pytest.fixture
def finetune(tiny_model_folder, pairs_file, tmp_path, capsys):
    """Runs `finetune` in this process; returns exit status, stdout and stderr.

    `defaults` say what to train on what; of flags given twice the later counts.
    """

    def run(*flags: str, defaults: tuple[str, ...] | None = None):
        if defaults is None:
            defaults = ("--model", tiny_model_folder, "--dataset", pairs_file)
        common = "--use-cpu --max-steps 2 --per-device-train-batch-size 4 --logging-steps 1 --learning-rate 1e-3"
        status = main(
            ["finetune", *defaults, "--output-dir", str(tmp_path / "out"), *common.split(), *map(str, flags)]
        )
        return status, *capsys.readouterr()

    return run


def log_lines(folder: Path) -> list[dict]:
    return json.loads((folder / "trainer_state.json").read_text())["log_history"]


# --- runs that end well ------------------------------------------------------------------------------------


def test_pairs_of_a_file_and_of_source_trees(finetune, source_tree, tiny_model_folder, tmp_path, caplog):
    (tmp_path / "second").mkdir()
    for path in list(source_tree.glob("*_[01].py")):
        shutil.copy(path, tmp_path / "second")
    (tmp_path / "second" / "own.py").write_text(
        'def halve(value):\n    """Divide what is given by two."""\n    half = value / 2\n    return half\n'
    )
    status, _, err = finetune(
        *("--source-tree", source_tree, "--source-tree", tmp_path / "second", "--num-train-epochs", 1)
    )
    assert status == 0, err
    # 21 of the file, 8 of one tree, one of the other, whose copies are left out.
    assert "30 pairs to train on, 0 to validate on" in caplog.text
    out = tmp_path / "out"
    lines = log_lines(out)
    assert lines[-1]["step"] == 7  # an epoch, its last batch of two left out
    assert {f"contrastive_loss_exit_{e}" for e in (0, 1, 3)} <= lines[0].keys()
    before, after = (load_file(Path(folder) / "model.safetensors") for folder in (tiny_model_folder, out))
    assert before.keys() == after.keys()
    assert not [name for name in after if torch.equal(before[name], after[name])]
    modules = json.loads((out / "modules.json").read_text())
    assert modules[0]["kwargs"] == ["exit_layer"]


def test_only_source_trees(finetune, source_tree, tiny_model_folder, caplog):
    status, out, err = finetune(defaults=("--model", tiny_model_folder, "--source-tree", str(source_tree)))
    assert status == 0, err
    assert "8 pairs to train on" in caplog.text and "contrastive_loss_exit_3" in out
    assert caplog.text.count("left out: 1 binary file\n") == 2  # after reading, and at the end
    assert "binary.py" not in caplog.text


def test_validation_mapping_teacher_and_growth(finetune, tiny_model_folder, tiny_teacher, tmp_path):
    rows = [{"docstring": f"Add {i}.", "function": f"def add_{i}(a): return a + {i}"} for i in range(8)]
    path = tmp_path / "mapped.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    status, _, err = finetune(
        *("--dataset", path, "--validation-dataset", path, "--exit-layer", 1, "--grow-to", 3),
        *("--column-mapping", '{"docstring": "text", "function": "code"}', "--teacher", tiny_teacher),
        *("--init-embeddings-from", tiny_teacher, "--learning-rate-multipliers", '{"gate": 10}', "--bf16"),
        *("--eval-strategy", "steps", "--eval-steps", 1, "--report-to", "tensorboard"),
        defaults=("--model", tiny_model_folder),
    )
    assert status == 0, err
    out = tmp_path / "out"
    assert MoSEModel.from_pretrained(out).exit_layers == (0, 1, 3)
    lines = log_lines(out)
    kinds = ("contrastive", "teacher_kl", "teacher_cosine")
    parts = {f"{kind}_loss_exit_{e}" for kind in kinds for e in (0, 1, 3)}
    assert any(parts <= line.keys() for line in lines)
    evaluations = [line for line in lines if "eval_loss" in line]
    assert len(evaluations) == 3
    assert all({f"eval_{part}" for part in parts} <= line.keys() for line in evaluations)
    results = json.loads((out / "eval_results.json").read_text())
    assert results["eval_loss"] == evaluations[-1]["eval_loss"]
    assert list((out / "runs").rglob("events.out.tfevents.*"))
    assert list((out / "teacher").rglob("*.chunk"))


def test_the_papers_batch_shrinks_to_the_pairs_and_the_space_is_recorded(finetune, tmp_path, caplog):
    status, _, err = finetune(
        *("--per-device-train-batch-size", 0, "--mini-batch-size", 8, "--max-steps", 1, "--align-exits"),
        *("--start-exits-alike", "--learning-rate", 1e-9),
        *("--distillation", "kl", "--distillation-temperature", 0.1, "--matryoshka-dims", 16, 8),
    )
    assert status == 0, err
    assert "a batch holds all of 21 pairs" in caplog.text
    config = load_config(tmp_path / "out")
    assert config["aligned_exits"] and config["matryoshka_dims"] == [16, 8]
    state = MoSEModel.from_pretrained(tmp_path / "out").state_dict()
    projections = [state[f"exits.{e}.projection.weight"] for e in (0, 1, 3)]
    assert all(torch.allclose(weight, projections[2], atol=1e-5) for weight in projections)
    kinds = {key.removesuffix("_loss_exit_0") for key in log_lines(tmp_path / "out")[0] if key.endswith("exit_0")}
    assert kinds == {"contrastive", "align", "distillation"}


def test_an_untrained_model_of_a_preset_starts_from_the_seed(finetune, tiny_model_folder, pairs_file, tmp_path):
    def run(name, seed):
        status, _, err = finetune(
            *("--exit-layer", 0, "--max-steps", 1, "--output-dir", tmp_path / name, "--seed", seed),
            defaults=("--preset", "mose-nano-256", "--tokenizer", tiny_model_folder, "--dataset", pairs_file),
        )
        assert status == 0, err
        return MoSEModel.from_pretrained(tmp_path / name)

    model = run("a", 3)
    assert model.exit_layers == (0,) and model.config.hidden_size == 256
    torch.manual_seed(torch.seed())  # what came before makes no difference
    same, other = (run(name, seed).state_dict() for name, seed in (("b", 3), ("c", 4)))
    assert all(torch.equal(value, same[name]) for name, value in model.state_dict().items())
    assert not torch.equal(other["embed_tokens.weight"], same["embed_tokens.weight"])


def test_nobody_is_asked_whether_to_run_code(finetune, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question on stdin"))
    assert finetune("--max-steps", 1)[0] == 0


# --- resuming ----------------------------------------------------------------------------------------------


def load_config(folder: Path) -> dict:
    return json.loads((folder / "config.json").read_text())


LONG_RUN = """--use-cpu --bf16 --max-steps 24 --save-steps 4 --save-total-limit 3 --logging-steps 3
    --learning-rate 1e-3 --warmup-steps 5 --weight-decay 0.1 --learning-rate-multipliers {"gate":10}
    --per-device-train-batch-size 3 --gradient-accumulation-steps 2 --mini-batch-size 2
    --token-dropout 0.3 --instruction-dropout 0.3"""


def test_a_run_killed_and_resumed_ends_as_an_unbroken_one(
    finetune, tiny_model_folder, pairs_file, tiny_teacher, tmp_path, monkeypatch
):
    flags = [
        *("finetune", "--model", tiny_model_folder, "--dataset", pairs_file, "--validation-dataset", pairs_file),
        *("--teacher", tiny_teacher, "--teacher-cache", str(tmp_path / "teacher"), *LONG_RUN.split()),
    ]
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    assert main([*flags, "--output-dir", str(unbroken)]) == 0
    assert load_config(unbroken)["residual_dropout"] == 0.1

    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    environment["PYTHONPATH"] = str(Path(SCRIPT).parents[1])
    command = [sys.executable, SCRIPT, *flags, "--output-dir", str(killed)]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, stdin=subprocess.DEVNULL)
        deadline = time.monotonic() + 300
        while not (killed / "checkpoint-8" / "manifest.json").exists():
            assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert not (killed / "model.safetensors").exists()
    last = last_whole_checkpoint(killed)
    assert last is not None and 8 <= int(last.name.removeprefix("checkpoint-")) < 24
    half = killed / "checkpoint-24"  # as if it had been killed while it wrote the last
    shutil.copytree(last, half, dirs_exist_ok=True)
    (half / "trainer_state.json").unlink()
    (half / "model.safetensors").write_bytes(b"half of a file")

    # Without --resume nothing is touched.
    status, _, err = finetune("--output-dir", killed)
    assert status == 2 and f"{killed} has {last.name}. Pass --resume, or choose another --output-dir." in err
    batches = []
    training_step = FineTuningTrainer.training_step

    def counted(*args):
        batches.append(args)
        return training_step(*args)

    monkeypatch.setattr(FineTuningTrainer, "training_step", counted)
    assert main([*flags, "--output-dir", str(killed), "--resume"]) == 0
    steps = 24 - int(last.name.removeprefix("checkpoint-"))
    assert len(batches) == steps / 4 * 7  # an epoch has 7 batches; it did not begin from the beginning
    expected, found = (load_file(folder / "model.safetensors") for folder in (unbroken, killed))
    assert expected.keys() == found.keys()
    assert not [name for name in expected if not torch.equal(expected[name], found[name])]
    timings = ("runtime", "per_second")
    for step in (21, 24):
        ours, theirs = (
            [
                {key: value for key, value in line.items() if not key.endswith(timings)}
                for line in log_lines(folder)
                if line["step"] == step and "train_loss" not in line
            ]
            for folder in (unbroken, killed)
        )
        assert ours == theirs and ours

    # A finished run that is resumed has nothing to do, and keeps what it has.
    batches.clear()
    assert main([*flags, "--output-dir", str(killed), "--resume"]) == 0 and not batches
    again = load_file(killed / "model.safetensors")
    assert all(torch.equal(expected[name], again[name]) for name in expected)


def test_resume_begins_where_there_is_nothing_to_resume(finetune):
    assert finetune("--resume")[0] == 0


# --- runs that end badly -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--bogus", "3"], "--bogus"),
        (["--exit-layer", "2"], "exit_layer must be one of 0, 1, 3, got 2"),
        (["--grow-to", "3"], "exit_layer must be above the model's exit 3, got 3"),
        (["--preset", "mose-nano"], "must specify at most one of --model and --preset"),
        (["--dataset", "no/such.jsonl"], "no/such.jsonl"),
        (["--source-tree", "no/such/tree"], "no/such/tree"),
        (["--column-mapping", "text"], "column_mapping must be JSON, got text"),
        (["--column-mapping", '["text"]'], r'column_mapping must be a JSON object, got \["text"\]'),
        (["--column-mapping", '{"nope": "text"}'], "nope"),
        (["--learning-rate-multipliers", "{gate: 2}"], "learning_rate_multipliers must be JSON, got {gate: 2}"),
        (["--learning-rate-multipliers", '{"gait": 2}'], "'gait' must be part of a parameter's name"),
        (["--max-steps", "0"], "max_steps must be at least 1, got 0"),
        (["--mini-batch-size", "0"], "mini_batch_size must be at least 1, got 0"),
        (
            ["--per-device-train-batch-size", "1"],
            "per_device_train_batch_size must be at least 2 .*, got 1. A contrastive loss needs",
        ),
        (
            ["--per-device-train-batch-size", "22"],
            "--per-device-train-batch-size must be at most the 21 pairs, got 22. Lower it, or add pairs",
        ),
        (
            ["--validation-dataset", "{pairs}", "--per-device-eval-batch-size", "30"],
            "--per-device-eval-batch-size must be at most the 21 pairs, got 30",
        ),
        (
            ["--max-query-length", "5"],
            "max_query_length must be above .* longest instruction; got 5",
        ),
        (["--token-dropout", "1.5"], r"token_dropout must be in \[0, 1\], got 1.5"),
        (["--teacher-temperature", "0"], "teacher_temperature must be positive, got 0.0"),
        (["--contrastive-weight", "0"], "All loss weights are 0"),
        (["--exit-layer", "0", "--align-exits"], "align_exits=True .*the model has only exit 0"),
        (["--matryoshka-dims", "16", "64"], r"truncate_dim must be an integer in \[1, 32\], got 64"),
        (["--word-replacement", "2"], r"word_replacement must be in \[0, 1\], got 2.0"),
        (
            ["--tokenizer", "{bare}"],
            "bare: tokenizer must have pad, sep, cls, mask tokens; it has no .*cls and no mask token",
        ),
        (["--model", "{bert}"], "must have model_type 'mose', got 'bert'"),
        (["--eval-strategy", "steps"], "eval_dataset"),
    ],
)
def test_bad_arguments_end_with_2_and_a_line(
    finetune, pairs_file, tiny_teacher, tiny_tokenizer, tmp_path, flags, message
):
    bare = PreTrainedTokenizerFast(tokenizer_object=tiny_tokenizer.backend_tokenizer, sep_token="<sep>")
    bare.save_pretrained(tmp_path / "bare")
    places = {"{pairs}": pairs_file, "{bare}": tmp_path / "bare", "{bert}": tiny_teacher}
    status, _, err = finetune(*[places.get(flag, flag) for flag in flags])
    assert status == 2, err
    assert re.search(message, err), err
    assert "Traceback" not in err
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_data_that_is_empty_or_not_named(finetune, tiny_model_folder, tmp_path):
    path = tmp_path / "empty.jsonl"
    path.write_text('{"text": "", "code": ""}\n')
    status, _, err = finetune(defaults=("--model", tiny_model_folder, "--dataset", str(path)))
    assert status == 2 and f"no pairs in {path}" in err
    path.write_text('{"text": "one", "code": "pair"}\n')
    status, _, err = finetune(defaults=("--model", tiny_model_folder, "--dataset", str(path)))
    assert status == 2 and "A contrastive loss needs at least 2 pairs, got 1 pair to train on" in err
    path.write_text('{"text": "", "code": ""}\n')
    status, _, err = finetune(defaults=("--model", tiny_model_folder))
    assert status == 2 and "No data to train on. Pass --source-tree, --dataset or both." in err
    status, _, err = finetune(defaults=("--dataset", str(path)))  # of the shipped model
    assert status == 2 and f"no pairs in {path}" in err
    status, _, err = finetune(defaults=("--preset", "mose-nano", "--dataset", str(path)))
    assert status == 2 and "--preset mose-nano is an untrained model. Pass a --tokenizer for it." in err


def test_a_word_that_is_no_number_is_argparses_business(finetune):
    with pytest.raises(SystemExit) as stop:
        finetune("--max-steps", "many")
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "no/such-model"], "train_hf.py finetune: --model no/such-model: "),
        (["--teacher", "no/such-teacher"], "train_hf.py finetune: teacher no/such-teacher: "),
        (["--report-to", "wandb"], "wandb"),
        (["--no-dataloader-drop-last", "--num-train-epochs", "1"], "needs a batch of at least 2 pairs, got 1."),
    ],
)
def test_failures_end_with_1_and_a_line(finetune, flags, message):
    status, _, err = finetune(*flags)
    assert status == 1
    assert message in err and "Traceback" not in err


def test_an_interrupted_run_says_how_to_go_on(finetune, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(FineTuningTrainer, "train", interrupt)
    status, _, err = finetune()
    assert status == 130 and "Pass --resume to continue from the last checkpoint." in err


# --- help --------------------------------------------------------------------------------------------------


def test_help_explains_every_flag_of_ours(capsys):
    assert main(["finetune", "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    inherited = {field.name: field for field in dataclasses.fields(TrainingArguments)}
    for arguments in (ModelArguments, DataArguments, FineTuningArguments):
        for field in dataclasses.fields(arguments):
            ours = inherited.get(field.name)
            if ours is not None and ours.metadata == field.metadata and ours.default == field.default:
                continue
            flag = f"--{field.name.replace('_', '-')}"
            first = next(i for i, line in enumerate(lines) if re.match(rf"  {flag}( |,|$)", line))
            text = " ".join(" ".join(lines[first : first + 8]).split())
            assert " ".join(field.metadata["help"].split()) in text, flag


@pytest.mark.parametrize("name", COMMANDS)
def test_the_stored_help_is_that_of_the_flags(name):
    assert help_text(name) == own_help(name, build_parser(name)), "Run python train_hf.py write-help"


def test_all_flags_are_listed_on_request(capsys):
    assert main(["finetune", "--help-all"]) == 0
    text = capsys.readouterr().out
    assert "--torch-compile" in text and "--align-exits" in text
    assert "--torch-compile" not in help_text("finetune")


def test_help_imports_no_library():
    code = "import sys; from mose.train_hf import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    for words in ([], ["--help"], *([name, "--help"] for name in COMMANDS)):
        done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
        assert done.returncode == 0 and "usage: train_hf.py" in done.stdout + done.stderr


def test_the_commands_are_listed(capsys):
    assert main(["--help"]) == 0
    assert "finetune: " in capsys.readouterr().out
    assert main([]) == main(["finetoon"]) == 2
    captured = capsys.readouterr()
    assert not captured.out and "finetune: " in captured.err
