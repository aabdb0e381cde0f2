"""Code and pickles beside the weights of a model never run unasked: every public entrance meets a trap."""

import ast
import contextlib
import json
import pickle
import shutil
from pathlib import Path

import pytest

from mose.__main__ import main
from mose.benchmarks.structure import source_trees
from mose.eval.baselines import load_baseline
from mose.eval.classification import load_pair_classifier
from mose.hub.files import write_sentence_transformers_files
from mose.hub.serving.engine import Engine
from mose.inference.loading import load_model
from mose.inference.static import StaticEncoder
from mose.training.finetuning.lora import load_adapter
from mose.training.finetuning.teacher import load_teacher
from mose.utils.locations import package_folder

PICKLES = ("pytorch_model.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "model.PKL")
CODE = ("configuration_mose.py", "modeling_mose.py", "handler.py", "tokenization_trap.py", "__init__.py")


class Payload:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


@pytest.fixture(scope="module", params=["stock tokenizer", "tokenizer with code"])
def trap(request, tiny_model_folder, tmp_path_factory):
    """A model's folder whose code and pickles leave a file if they run: the folder, and that file."""
    home = tmp_path_factory.mktemp("trap")
    folder, marker = home / "model", home / "it-ran"
    shutil.copytree(tiny_model_folder, folder)
    write_sentence_transformers_files(folder)

    for name in CODE:
        original = package_folder() / name
        code = original.read_text() if original.is_file() and name != "__init__.py" else ""
        docstring = ast.get_docstring(ast.parse(code)) or "Trap."
        (folder / name).write_text(f'"""{docstring}"""\nopen({str(marker)!r}, "w").close()\n{code}')
    for name in PICKLES:
        (folder / name).write_bytes(pickle.dumps(Payload(marker)))
    if request.param != "stock tokenizer":
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        settings["auto_map"] = {"AutoTokenizer": ["tokenization_trap.TrapTokenizer", None]}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return folder, marker


@pytest.fixture
def stop_after_loading(monkeypatch):
    """Let commands load the model and everything before, but not export or train."""
    monkeypatch.setattr("mose.hub.export.export", lambda *_: [])
    monkeypatch.setattr("mose.training.setup.train_and_save", lambda *_: (None, {}))
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on stdin"))


def commands(folder, work):
    """Return the command lines that read a model from a folder."""
    tree, pairs, labels = work / "tree", work / "pairs.jsonl", work / "labels.jsonl"
    tree.mkdir()
    (tree / "a.py").write_text('def add(a, b):\n    """Add two numbers."""\n    return a + b\n')
    pairs.write_text("".join(f'{{"text": "Add {i}.", "code": "x + {i}"}}\n' for i in range(4)))
    labels.write_text("".join(f'{{"code": "x + {i}", "label": {i % 2}}}\n' for i in range(4)))
    (work / "adapter").mkdir()
    adapter = {"base_model_name_or_path": str(folder), "peft_type": "LORA", "modules_to_save": ["exits.0.norm"]}
    (work / "adapter" / "adapter_config.json").write_text(json.dumps(adapter))

    train = ["--output-dir", work / "run", "--use-cpu", "--max-steps", 1]
    return {
        "index": ["search", "index", tree, "--model", folder, "--index", work / "index"],
        "query": ["search", "query", "add", "--index", work / "index"],
        "encode": ["eval", "encode", "--model", folder, "--corpus", pairs, "--output-dir", work / "vectors"],
        "peer": ["eval", "retrieval", "--model", folder, "--data", work, "--peers", folder],
        "slice": ["hub", "slice", folder, "--exit-layer", 1, "--output-dir", work / "slice"],
        "publish": ["hub", "publish", folder, "a/b", "--dry-run"],
        "card": ["hub", "card", folder, "--output", "-"],
        "export": ["hub", "export", folder, "--output-dir", work / "onnx"],
        "import": ["hub", "import", folder, "--output-dir", work / "imported"],
        "finetune": ["train", "finetune", "--model", folder, "--dataset", pairs, *train],
        "teacher": ["train", "finetune", "--dataset", pairs, "--teacher", folder, *train, "--resume"],
        "classify": ["train", "classify", "--model", folder, "--train-file", labels, *train, "--resume"],
        "pretrain": [
            "train",
            "pretrain",
            "--model",
            folder,
            "--dataset",
            pairs,
            "--held-out",
            0,
            *train,
            "--resume",
        ],
        "merge": ["train", "merge", "--adapter", work / "adapter", "--output-dir", work / "merged"],
    }


def test_no_command_runs_it(trap, tmp_path, stop_after_loading, capsys):
    folder, marker = trap
    for name, words in commands(folder, tmp_path).items():
        with contextlib.suppress(SystemExit):
            main([str(word) for word in words])
        assert not marker.exists(), name


LOADERS = {
    "load_model": load_model,
    "load_pair_classifier": load_pair_classifier,
    "load_baseline": load_baseline,
    "load_teacher": load_teacher,
    "StaticEncoder": StaticEncoder,
    "Engine": lambda folder: Engine(folder, "cpu"),
    "load_adapter": lambda folder: load_adapter(folder, base=folder),
}


@pytest.mark.parametrize("name", LOADERS)
def test_no_function_runs_it(trap, name, stop_after_loading):
    folder, marker = trap
    with contextlib.suppress(ValueError, OSError, RuntimeError):
        LOADERS[name](str(folder))
    assert not marker.exists()


def test_it_runs_where_it_is_trusted(trap):
    folder, marker = trap
    with contextlib.suppress(Exception):  # the tokenizer of the trap is empty
        load_model(str(folder), trust_remote_code=True)
    assert marker.exists()


FORBIDDEN = {"pickle.load", "pickle.loads", "joblib.load", "dill.load", "yaml.load", "yaml.unsafe_load"}


def test_nothing_of_ours_reads_pickles():
    for name, (_, tree) in source_trees(package_folder()).items():
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            place, called = f"{name}:{node.lineno}", ast.unparse(node.func)
            options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert called not in FORBIDDEN, place
            assert called != "torch.load" or options.get("weights_only") == "True", place
            assert not called.endswith("np.load") or "allow_pickle" not in options, place
