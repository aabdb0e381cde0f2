"""Publishing to the loopback Hub: what arrives, what never goes, and what is left when it fails."""

import json
import re
import signal
import subprocess
import sys

import pytest
import torch
from huggingface_hub import ModelCard
from safetensors import safe_open

from mose.hub.__main__ import main
from mose.hub.publish import Published, PublishError, publish
from mose.hub.shards import first_exit_with
from mose.modeling_mose import MoSEForPreTraining, MoSEForSequenceClassification

pytestmark = pytest.mark.slow

REPO = "tester/tiny-mose"
#: What the folder's class has beside the weights, when it is published.
COMPLETE = {
    ".gitattributes",
    "LICENSE",
    "README.md",
    "config.json",
    "configuration_mose.py",
    "modeling_mose.py",
    "1_Pooling/config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
WEIGHTS = {
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
    "model.safetensors.index.json",
    "model.safetensors.index.exit0.json",
    "model.safetensors.index.exit1.json",
    "model.safetensors.index.exit3.json",
}


def send(hub, folder, **options) -> Published:
    return publish(folder, options.pop("repo_id", REPO), **options)


def test_a_repository_is_complete_and_holds_the_same_weights_cut_at_the_exits(online, model_folder, tmp_path):
    before = sorted(path.name for path in model_folder.rglob("*"))
    done = send(online, model_folder)
    assert sorted(path.name for path in model_folder.rglob("*")) == before  # the folder stays as it is
    repository = online.repository(REPO)
    files = repository.files()
    assert set(files) - {"handler.py"} == COMPLETE | WEIGHTS
    assert done.files == {name: len(files[name]) for name in files if name != ".gitattributes"}
    assert (done.commit, done.changed, done.removed) == (repository.resolve("main").sha, True, ())
    assert [commit.title for commit in repository.history()] == ["Publish tiny-mose", "initial commit"]
    stored = {}
    for name in sorted(WEIGHTS):
        (tmp_path / name).write_bytes(files[name])
        if name.endswith(".safetensors"):
            with safe_open(tmp_path / name, "pt") as shard:
                stored |= {key: (name, shard.get_tensor(key)) for key in shard.keys()}  # noqa: SIM118
    with safe_open(model_folder / "model.safetensors", "pt") as whole:
        assert set(whole.keys()) == set(stored)
        for key in whole.keys():  # noqa: SIM118
            shard, tensor = stored[key]
            assert torch.equal(whole.get_tensor(key), tensor)
            assert int(shard[6:11]) == [0, 1, 3].index(first_exit_with(key, (0, 1, 3))) + 1
    # Both code files are those of the package, byte for byte.
    for name in ("configuration_mose.py", "modeling_mose.py"):
        assert files[name] == (model_folder / name).read_bytes()


def test_publishing_twice_changes_nothing(online, model_folder):
    first = send(online, model_folder)
    uploads = sum(request.startswith("PUT") for request in online.requests)
    second = send(online, model_folder)
    assert (second.commit, second.changed) == (first.commit, False)
    assert len(online.repository(REPO).history()) == 2
    assert sum(request.startswith("PUT") for request in online.requests) == uploads
    # A file that has changed goes alone.
    (model_folder / "LICENSE").write_text("mine")
    assert send(online, model_folder, commit_message="tokenizer").changed
    assert sum(request.startswith("PUT") for request in online.requests) == uploads
    assert online.repository(REPO).files()["LICENSE"] == b"mine"


def test_private_branch_tag_and_messages(online, model_folder):
    done = send(online, model_folder, private=True, revision="next", tag="v1", commit_message="one")
    repository = online.repository(REPO)
    assert repository.private
    assert list(repository.files("main")) == [".gitattributes"]
    assert repository.branches["next"] == repository.tags["v1"] == done.commit
    assert repository.resolve("next").title == "one"
    assert not send(online, model_folder, revision="next", tag="v1").changed  # the tag stands there already
    (model_folder / "README.md").write_text(card("mit"))
    with pytest.raises(PublishError, match=r"tag 'v1' is on commit .{12}, but .{12} was published"):
        send(online, model_folder, revision="next", tag="v1")
    assert repository.tags["v1"] == done.commit


def test_a_tag_that_fails_says_that_the_commit_stands(online, model_folder):
    online.fail("POST .*/tag/", status=500, times=99)
    with pytest.raises(PublishError, match="published as .{12}, but tag 'v1' was not set"):
        send(online, model_folder, tag="v1")
    online.faults.clear()
    done = send(online, model_folder, tag="v1")
    assert not done.changed and online.repository(REPO).tags["v1"] == done.commit


def test_a_pull_request_leaves_main_alone(online, model_folder):
    done = send(online, model_folder, create_pr=True)
    repository = online.repository(REPO)
    assert list(repository.files("main")) == [".gitattributes"]
    assert set(repository.files("refs/pr/1")) >= COMPLETE
    assert done.url == f"{online.url}/{REPO}/discussions/1" and done.changed
    again = send(online, model_folder, create_pr=True)  # nothing new: no second one
    assert (again.url, again.changed) == (done.url, False) and len(repository.pull_requests) == 1
    (model_folder / "LICENSE").write_text("mine")
    assert send(online, model_folder, create_pr=True).url == f"{online.url}/{REPO}/discussions/2"
    with pytest.raises(ValueError, match="create_pr opens a pull request to main"):
        send(online, model_folder, create_pr=True, tag="v1")


def test_weights_of_an_earlier_layout_go_in_the_same_commit(online, model_folder):
    online.add(REPO, model_folder)  # as somebody's upload_folder would have left it
    done = send(online, model_folder)
    assert done.removed == ("model.safetensors",)
    files = set(online.repository(REPO).files())
    assert "model.safetensors" not in files and files >= WEIGHTS
    assert "notes.txt" in files  # what is not ours stays
    assert len(online.repository(REPO).history()) == 3


def test_a_dry_run_lists_what_would_go_and_asks_the_hub_nothing(online, model_folder, capsys):
    assert main(["publish", str(model_folder), REPO, "--dry-run"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert online.requests == []
    sizes = {line.split()[0]: int(line.split()[1].replace(",", "")) for line in listed[:-1]}
    assert listed[-1].startswith(f"{len(sizes)} files, {sum(sizes.values()):,} bytes would go to {REPO}")
    assert sizes == send(online, model_folder).files


def card(license: str) -> str:
    head = f"license: {license}\nlibrary_name: transformers\npipeline_tag: feature-extraction"
    return f"---\n{head}\n---\n# Own words\n"


def test_a_card_that_is_there_stays_and_a_bad_one_stops_everything(online, model_folder):
    (model_folder / "README.md").write_text(card("mit"))
    send(online, model_folder)
    assert online.repository(REPO).files()["README.md"].decode() == card("mit")
    (model_folder / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(ValueError, match="README.md: front matter is not valid YAML"):
        send(online, model_folder)
    (model_folder / "README.md").write_text(card("no-such-licence"))
    with pytest.raises(ValueError, match="must be one of"):  # what only the Hub knows, it says
        send(online, model_folder)
    assert len(online.repository(REPO).history()) == 2


def test_the_report_completes_the_card_and_the_folder_keeps_its_own(online, model_folder, tmp_path):
    """A short front matter in the folder, all figures of its report on the Hub."""
    figures = {"mrr": 0.25, "ndcg@10": 0.5, "recall@1": 0.125}
    report = {"sets": {"one": {"exits": {"0": figures, "3": figures}, "peers": {}}}, "speed": {}, "settings": {}}
    (model_folder / "README.md").write_text(card("mit"))
    (model_folder / "docs/report").mkdir(parents=True)
    (model_folder / "docs/report/report.json").write_text(json.dumps(report))
    done = send(online, model_folder)
    assert "docs/report/report.json" not in done.files
    published = ModelCard(online.repository(REPO).files()["README.md"].decode())
    results = {(result.metric_name, result.metric_value) for result in published.data.eval_results}
    assert results == {(f"{name} at exit {e}", value) for e in (0, 3) for name, value in figures.items()}
    assert published.text.endswith("# Own words\n") and published.data.license == "mit"
    assert (model_folder / "README.md").read_text() == card("mit")

    other = tmp_path / "other.json"
    other.write_text(json.dumps(report | {"sets": {"two": report["sets"]["one"]}}))
    send(online, model_folder, report=other)
    published = ModelCard(online.repository(REPO).files()["README.md"].decode())
    assert {result.dataset_name for result in published.data.eval_results} == {"two"}
    other.write_text("[]")
    with pytest.raises(ValueError, match="must be a report of mose.eval"):
        send(online, model_folder, report=other)


@pytest.mark.parametrize("name", ["optimizer.pt", "training_args.bin", "checkpoint-2/*", "__pycache__/*"])
def test_what_is_never_published_is_refused_by_name(online, model_folder, name):
    with pytest.raises(ValueError, match=r"is never published \(it matches"):
        send(online, model_folder, include=[name])
    assert online.requests == []


def test_further_files_go_where_they_are_asked_for(online, model_folder):
    assert "notes.txt" in send(online, model_folder, include=["*.txt"]).files
    with pytest.raises(ValueError, match="matches no file"):
        send(online, model_folder, include=["nothing-*"])
    for pattern in ("../*", "/etc/passwd", "a/../../b"):
        with pytest.raises(ValueError, match="leads out of"):
            send(online, model_folder, include=[pattern])
    with pytest.raises(ValueError, match="model.safetensors is not published as it is"):
        send(online, model_folder, include=["*.safetensors"])


@pytest.mark.parametrize("model_class", [MoSEForPreTraining, MoSEForSequenceClassification])
def test_other_heads_are_published_as_what_they_are(
    online, build_model, tiny_config, tiny_tokenizer, tmp_path, model_class
):
    build_model(model_class, tiny_config(num_labels=3)).save_pretrained(tmp_path / "head")
    tiny_tokenizer.save_pretrained(tmp_path / "head")
    files = send(online, tmp_path / "head").files
    assert set(files) >= WEIGHTS and "modules.json" not in files
    tag = {MoSEForPreTraining: "feature-extraction"}.get(model_class, "text-classification")
    assert f"pipeline_tag: {tag}" in online.repository(REPO).files()["README.md"].decode()


def test_an_adapter_is_published_without_the_model(online, model_folder, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": REPO, "peft_type": "LORA"})
    )
    with pytest.raises(FileNotFoundError, match="adapter_model.safetensors is missing"):
        send(online, adapter)
    (model_folder / "model.safetensors").rename(adapter / "adapter_model.safetensors")
    assert set(send(online, adapter).files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    readme = online.repository(REPO).files()["README.md"].decode()
    assert f"base_model: {REPO}" in readme and "library_name: peft" in readme


# --- Folders that are not whole ---------------------------------------------------------------------------


def test_folders_without_a_whole_model_are_refused(online, model_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder"):
        send(online, tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no config.json"):
        send(online, tmp_path)
    with pytest.raises(ValueError, match="Repo id"):
        send(online, model_folder, repo_id="a/b/c")
    whole = (model_folder / "model.safetensors").read_bytes()
    (model_folder / "model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        send(online, model_folder)
    (model_folder / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="pytorch_model.bin.* may be pickles, which are never loaded"):
        send(online, model_folder)
    config = json.loads((model_folder / "config.json").read_text())
    (model_folder / "model.safetensors").write_bytes(whole)
    (model_folder / "config.json").write_text(json.dumps({**config, "exit_layers": [0, 1, 2, 3]}))
    with pytest.raises(ValueError, match=r"tensors of MoSEModel are missing, exits\.2\."):
        send(online, model_folder)
    (model_folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 64}))
    with pytest.raises(ValueError, match=r"c_fc.bias must have shape \(64,\), got \(48,\)"):
        send(online, model_folder)
    (model_folder / "config.json").write_text(json.dumps({**config, "exit_layers": [0, 3]}))
    with pytest.raises(ValueError, match=r"tensors have no place in MoSEModel, exits\.1\."):
        send(online, model_folder)
    assert online.requests == []


@pytest.mark.parametrize(
    "shard", ["../model.safetensors", "/tmp/model.safetensors", "a/b.safetensors", "x.bin", "..", 7]
)
def test_an_index_that_leads_elsewhere_is_refused_by_name(online, model_folder, shard):
    (model_folder / "model.safetensors").rename(model_folder.parent / "model.safetensors")
    index = {"metadata": {}, "weight_map": {"embed_tokens.weight": shard}}
    (model_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=re.escape(repr(shard))):
        send(online, model_folder)
    assert online.requests == []


# --- A Hub that fails -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "fault", "advice"),
    [
        (
            "POST .*/commit/",
            {"status": 500},
            r"the Hub failed \(500\)\. Nothing was committed\. Run the same command",
        ),
        ("POST .*/commit/", {"cut": 1000}, r"the connection to the Hub broke .*Run the same command again"),
        ("POST .*/commit/", {"status": 412}, r"another commit to .* came first"),
        ("POST /api/repos/create", {"status": 503}, r"the Hub failed \(503\)"),
        ("POST /api/repos/create", {"cut": 0}, r"the connection to the Hub broke"),
    ],
)
def test_a_hub_that_fails_is_left_as_it_was_and_the_next_try_finishes(
    online, model_folder, pattern, fault, advice
):
    send(online, model_folder)
    before = online.repository(REPO).files()
    (model_folder / "LICENSE").write_text("mine")
    online.fail(pattern, **fault)
    with pytest.raises(PublishError, match=advice):
        send(online, model_folder)
    assert online.repository(REPO).files() == before
    assert send(online, model_folder).changed
    assert online.repository(REPO).files() == before | {"LICENSE": b"mine"}


def test_an_upload_that_fails_once_is_tried_again(online, model_folder):
    online.fail("PUT /large/", status=500)
    online.fail("PUT /large/", cut=100)
    send(online, model_folder)
    assert set(online.repository(REPO).files()) >= WEIGHTS


def test_a_commit_whose_answer_is_lost_is_not_made_twice(online, model_folder):
    online.fail("POST .*/commit/", lose=True)
    with pytest.raises(PublishError, match="the connection to the Hub broke"):
        send(online, model_folder)
    assert len(online.repository(REPO).history()) == 2
    assert not send(online, model_folder).changed
    assert len(online.repository(REPO).history()) == 2


@pytest.mark.parametrize(
    ("token", "advice"),
    [
        ("hf_wrong", r"\(401\). Log in with `hf auth login`, or set HF_TOKEN"),
        ("reader_token", r"\(403\). Use one with"),
    ],
)
def test_a_token_that_may_not_write_is_told_so(online, model_folder, token, advice):
    with pytest.raises(PublishError, match=advice):
        send(online, model_folder, token=getattr(online, token, token))
    assert online.repositories == {}


def test_a_publish_that_is_killed_halfway_leaves_the_hub_whole(online, model_folder):
    command = [sys.executable, "-m", "mose.hub", "publish", str(model_folder), REPO]
    fault = online.fail("PUT /large/", stall=True)
    killed = subprocess.Popen(command, env=online.environment(), stderr=subprocess.DEVNULL)
    assert fault.reached.wait(60)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    fault.release.set()
    assert list(online.repository(REPO).files()) == [".gitattributes"]
    assert send(online, model_folder).changed
    assert set(online.repository(REPO).files()) >= COMPLETE | WEIGHTS


def test_the_command_says_what_was_wrong(online, model_folder, tmp_path, capsys, monkeypatch):
    assert main(["publish", str(tmp_path / "none"), REPO]) == 2
    assert "no such folder" in capsys.readouterr().err
    assert main(["publish", str(model_folder), "a/b/c"]) == 2
    assert "Repo id" in capsys.readouterr().err
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    assert main(["publish", str(model_folder), REPO]) == 1
    assert "mose hub publish: the Hub rejects the token (401)" in capsys.readouterr().err
