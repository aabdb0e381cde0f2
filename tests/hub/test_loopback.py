"""The loopback Hub, as huggingface_hub's own client and datasets see it."""

import json

import pytest

pytestmark = pytest.mark.slow

CLIENT = """
import json, sys
from huggingface_hub import HfApi, CommitOperationAdd, CommitOperationDelete, hf_hub_download, snapshot_download
from huggingface_hub.errors import (EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError,
                                    RevisionNotFoundError)

api, facts = HfApi(), {}

def refused(error, call, *arguments, **keywords):
    try:
        call(*arguments, **keywords)
    except error as complaint:
        return complaint.response.status_code if getattr(complaint, "response", None) is not None else 0
    raise AssertionError(f"{call} was not refused")

facts["name"] = api.whoami()["name"]
refused(RepositoryNotFoundError, api.model_info, "tester/one")
api.create_repo("one", private=True)
refused(HfHubHTTPError, api.create_repo, "tester/one")
api.create_repo("tester/one", exist_ok=True)
operations = lambda *names: [CommitOperationAdd(name, f"content of {name}".encode()) for name in names]
names = ("a.txt", "deep/down/b.txt", "m.safetensors")
first = api.create_commit("tester/one", operations(*names), commit_message="1")
again = api.create_commit("tester/one", operations("a.txt", "m.safetensors"), commit_message="again")
facts["same"] = first.oid == again.oid
api.create_branch("tester/one", branch="side/way")
api.create_commit("tester/one", [CommitOperationDelete("deep/")], commit_message="2", revision="side/way")
api.create_tag("tester/one", tag="v1")
pr = api.create_commit("tester/one", operations("c.txt"), commit_message="3", create_pr=True)
facts["pr"] = [pr.pr_revision, pr.pr_num]
for revision in ("main", "side/way", "v1", "refs/pr/1", first.oid):
    facts[revision] = sorted(api.list_repo_files("tester/one", revision=revision))
facts["tree"] = [entry.path for entry in api.list_repo_tree("tester/one")]
facts["private"] = api.model_info("tester/one").private
facts["large"] = api.get_paths_info("tester/one", ["m.safetensors", "a.txt", "no"])[0].lfs.size
facts["refs"] = [r.name for r in api.list_repo_refs("tester/one").branches]
facts["history"] = [c.title for c in api.list_repo_commits("tester/one", revision="side/way")]
path = hf_hub_download("tester/one", "m.safetensors")
facts["content"] = open(path).read()
folder = snapshot_download("tester/one", revision="v1")
facts["down"] = open(f"{folder}/deep/down/b.txt").read()
refused(EntryNotFoundError, hf_hub_download, "tester/one", "no.txt")
refused(RevisionNotFoundError, hf_hub_download, "tester/one", "a.txt", revision="no")
stale = api.list_repo_commits("tester/one")[-1].commit_id
facts["stale"] = refused(HfHubHTTPError, api.create_commit, "tester/one", operations("d.txt"), commit_message="4",
                         parent_commit=stale)
reader = HfApi(token=sys.argv[1])
facts["reader"] = len(reader.list_repo_files("tester/one"))
facts["read only"] = refused(HfHubHTTPError, reader.create_commit, "tester/one", operations("e"),
                             commit_message="5")
facts["stranger"] = [refused(RepositoryNotFoundError, HfApi(token=False).model_info, "tester/one"),
                     refused(HfHubHTTPError, HfApi(token="hf_wrong").model_info, "tester/one")]
print(json.dumps(facts))
"""

DATASETS = """
import json
import datasets

pairs = datasets.Dataset.from_dict({"text": ["sum", "read"], "code": ["a + b", "open(p)"]})
pairs.push_to_hub("tester/pairs")
again = datasets.load_dataset("tester/pairs", split="train")
streamed = list(datasets.load_dataset("tester/pairs", split="train", streaming=True))
print(json.dumps([again.to_list() == pairs.to_list(), streamed == pairs.to_list()]))
"""


def test_huggingface_hub_finds_what_it_finds_on_the_hub(hub):
    facts = json.loads(hub.python(CLIENT, hub.reader_token).stdout)
    everything = [".gitattributes", "a.txt", "deep/down/b.txt", "m.safetensors"]
    assert facts == {
        "name": "tester",
        "same": True,
        "pr": ["refs/pr/1", 1],
        "main": everything,
        "v1": everything,
        "side/way": [".gitattributes", "a.txt", "m.safetensors"],
        "refs/pr/1": sorted([*everything, "c.txt"]),
        found_commit(hub): everything,
        "tree": [".gitattributes", "a.txt", "deep", "m.safetensors"],
        "private": True,
        "large": len("content of m.safetensors"),
        "refs": ["main", "side/way"],
        "history": ["2", "1", "initial commit"],
        "content": "content of m.safetensors",
        "down": "content of deep/down/b.txt",
        "stale": 412,
        "reader": 4,
        "read only": 403,
        "stranger": [401, 401],
    }
    assert hub.served["tester/one"]["m.safetensors"] == len(
        "content of m.safetensors"
    )  # once, then from the cache


def found_commit(hub) -> str:
    return hub.repository("tester/one").history()[0].sha


def test_a_download_that_is_cut_off_is_tried_again_and_whole(hub, tmp_path):
    (tmp_path / "large.bin").write_bytes(bytes(range(256)) * 4096)
    hub.add("tester/cut", tmp_path)
    hub.fail(r"GET .*large\.bin", cut=100_000)
    path = "hf_hub_download('tester/cut', 'large.bin')"
    hub.python(f"from huggingface_hub import *; assert open({path}, 'rb').read() == bytes(range(256)) * 4096")
    # The client keeps whole chunks of 10 MB: what came before the cut was sent again.
    assert hub.served["tester/cut"]["large.bin"] == 2**20 + 100_000


def test_datasets_pushes_loads_and_streams(hub):
    assert json.loads(hub.python(DATASETS).stdout.splitlines()[-1]) == [True, True]
    names = set(hub.repository("tester/pairs", "dataset").files())
    assert names >= {"README.md", "data/train-00000-of-00001.parquet"}
