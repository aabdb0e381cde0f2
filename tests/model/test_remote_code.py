"""Remote code can be trusted: it imports and touches nothing it should not, and loads no pickle."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mose
from mose.modeling_mose import MoSEForPreTraining, MoSEForSequenceClassification, MoSEModel

ROOT = Path(mose.__file__).parent
#: What `auto_map` names. (`handler.py`, which the Hub runs only where it is deployed, has a test of its own.)
REMOTE_CODE = ("configuration_mose.py", "modeling_mose.py")
#: Of the standard library, what computes and does nothing else.
PURE = {
    "contextlib",
    "json",
    "copy",
    "math",
    "re",
    "typing",
    "dataclasses",
    "collections",
    "collections.abc",
    "functools",
    "itertools",
}
#: Names that reach files, the network, other programs or code that is not written there.
REACHING = {
    *("open", "eval", "exec", "compile", "__import__", "input", "breakpoint", "globals", "vars", "setattr"),
    *("os", "sys", "io", "socket", "subprocess", "pathlib", "shutil", "pickle", "importlib", "ctypes", "urllib"),
    *("system", "popen", "load", "save", "load_state_dict_from_url", "hub", "cpp_extension", "save_to_disk"),
}


@pytest.mark.parametrize("name", REMOTE_CODE)
def test_it_imports_only_torch_transformers_and_its_own_files(name):
    for node in ast.walk(ast.parse((ROOT / name).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = ["." * node.level + (node.module or "")]
        else:
            continue
        for module in modules:
            own = module.startswith(".") and f"{module[1:]}.py" in REMOTE_CODE
            assert own or module in PURE or module.split(".")[0] in ("torch", "transformers"), module


@pytest.mark.parametrize("name", REMOTE_CODE)
def test_it_uses_no_name_that_reaches_files_network_or_other_code(name):
    tree = ast.parse((ROOT / name).read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    attributes = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert not (names | attributes) & REACHING


# Loads a model as a stranger does, and notes what the interpreter is asked to do while a function of the remote
# code is on the stack; importing transformers' and torch's own modules aside.
AUDITED = """
import json, sys

noted = []
WATCHED = ("open", "socket.", "subprocess.", "os.", "shutil.", "tempfile.", "urllib.", "pickle.", "ctypes.")

def watch(event, arguments):
    if not watching or not event.startswith(WATCHED):
        return
    frame, ours, importing = sys._getframe(1), None, False
    while frame is not None:
        file = frame.f_code.co_filename
        importing = importing or "importlib" in file
        # `from_pretrained` is transformers' own business: it reads the weights.
        if file.endswith(("_mose.py", "handler.py")) and frame.f_code.co_name != "from_pretrained":
            ours = ours or frame.f_code.co_name
        frame = frame.f_back
    source = event == "open" and str(arguments[0]).endswith("modeling_mose.py")  # transformers looks at its code
    if ours and not importing and not source:
        noted.append(f"{ours}: {event} {arguments[:1]!r}")

watching = False
import torch
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification
sys.addaudithook(watch)
watching = True
batch = {"input_ids": torch.randint(4, 300, (2, 9)), "attention_mask": torch.ones(2, 9, dtype=torch.long)}
for auto in (AutoModel, AutoModelForPreTraining, AutoModelForSequenceClassification):
    model = auto.from_pretrained(sys.argv[1], trust_remote_code=True)
    assert type(model).__module__.startswith("transformers_modules.")
    for exit_layer in model.config.exit_layers:
        model(**batch, exit_layer=exit_layer)
    if auto is AutoModelForPreTraining:
        model(**batch, labels=batch["input_ids"], context_labels=torch.tensor([0, 1])).loss.backward()

exec(compile("def guilty(path):\\n    open(path).close()", "guilty_mose.py", "exec"))
guilty(sys.argv[1] + "/config.json")  # the watch itself works
watching = False
print(json.dumps(noted))
"""


@pytest.mark.slow
def test_it_touches_no_file_and_no_network(shared_tiny_model, tmp_path):
    shared_tiny_model.save_pretrained(tmp_path / "model")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, str(tmp_path / "model")],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (noted,) = json.loads(done.stdout.splitlines()[-1])
    assert noted.startswith("guilty: open ")


class Mine:
    """Pickled, it says so when it is loaded."""

    def __reduce__(self):
        return (Path.touch, (self.trap,))


@pytest.mark.parametrize("model_class", [MoSEModel, MoSEForPreTraining, MoSEForSequenceClassification])
def test_a_pickle_is_never_loaded(shared_tiny_model, tmp_path, model_class):
    trap, bomb = tmp_path / "sprung", Mine()
    bomb.trap = trap
    shared_tiny_model.config.save_pretrained(tmp_path)
    torch.save({"embed_tokens.weight": bomb}, tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match="no file named model.safetensors"):
        model_class.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="use_safetensors must be True or None, got False: a pickle"):
        model_class.from_pretrained(tmp_path, use_safetensors=False)
    assert not trap.exists()
    torch.load(tmp_path / "pytorch_model.bin", weights_only=False)
    assert trap.exists()  # it would have gone off


def test_a_pickle_on_the_hub_is_never_loaded(online, shared_tiny_model, tmp_path):
    shared_tiny_model.config.save_pretrained(tmp_path)
    torch.save(shared_tiny_model.state_dict(), tmp_path / "pytorch_model.bin")
    online.add("tester/pickled", tmp_path)
    with pytest.raises(OSError, match="does not appear to have a file named model.safetensors"):
        MoSEModel.from_pretrained("tester/pickled")
    assert not online.served["tester/pickled"]["pytorch_model.bin"]
