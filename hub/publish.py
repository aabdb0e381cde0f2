"""Putting a model's folder on the Hub: complete, sharded at the exits, in one commit.

What is on the Hub already is not sent again, so publishing twice changes nothing, and a publish that was killed
or cut off leaves the repository as it was and goes on when it is run again.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import validate_repo_id

from mose.hub.commands import ArgumentError
from mose.hub.failures import PublishError, advice
from mose.hub.files import complete, publishable
from mose.hub.weights import WEIGHT_FILE


@dataclass(frozen=True)
class Published:
    """What `publish` did.

    Args:
        repo_id: `user/name`.
        files: path in the repository → bytes, all that belongs there.
        removed: weights of an earlier layout that the commit took away.
        commit: id of the commit that holds it; None for a dry run.
        url: where to look at it; the pull request's with `create_pr`.
        changed: False where all of it was there already.
    """

    repo_id: str
    files: dict[str, int]
    removed: tuple[str, ...] = ()
    commit: str | None = None
    url: str | None = None
    changed: bool = False


def stage(folder: Path, staging: Path, repo_id: str, include: Sequence[str] = ()) -> dict[str, Path]:
    """Path in the repository → file, of everything that a complete repository of this model holds.

    Args:
        folder: a model's folder as `save_pretrained` or `Trainer` leaves it, or a LoRA adapter's.
        staging: an empty folder for what has to be made: shards, code, sentence-transformers files, card.
        repo_id: what a card that is made calls it.
        include: patterns of further files, as in `publishable`.

    Raises:
        ValueError: the folder holds no whole MoSE, or its card's metadata is not valid.
        FileNotFoundError: a file is missing.
    """
    from mose.hub.card import adapter_card, model_card, validate_card
    from mose.hub.card_facts import adapter_base, training_summary

    found = publishable(folder, include)
    adapter = "adapter_config.json" in found
    if "config.json" not in found and not adapter:
        raise FileNotFoundError(f"{folder}: no config.json is there; give the folder of a saved model")
    if adapter:
        if "adapter_model.safetensors" not in found:
            raise FileNotFoundError(
                f"{folder}: adapter_config.json is there, adapter_model.safetensors is not; save the adapter as "
                "safetensors (pickles are not published)"
            )
        adapter_base(folder)
    else:
        retrieves = _stage_weights(folder, staging)
    # What the folder lacks is made beside it: the folder itself stays as it is.
    for name, path in found.items():
        if "/" not in name and not (staging / name).exists():
            (staging / name).symlink_to(path.resolve())
    if not adapter:
        complete(staging, sentence_transformers=retrieves)
    if not (staging / "README.md").exists():
        make = adapter_card if adapter else model_card
        card = make(staging, repo_id=repo_id, summary=training_summary(folder))
        (staging / "README.md").write_text(card, encoding="utf-8")
    validate_card((staging / "README.md").read_text(encoding="utf-8"))
    made = {path.name: path for path in sorted(staging.iterdir())}
    return dict(sorted((found | made).items()))


def _stage_weights(folder: Path, staging: Path) -> bool:
    """Writes the shards; returns whether this is the model that gives embeddings, without a head of a task."""
    from mose.hub.checkpoints import load_config, model_class, whole_checkpoint
    from mose.hub.shards import write_shards

    config = load_config(folder)
    write_shards(staging, whole_checkpoint(folder, config), config.built_exit_layers)
    return model_class(config).__name__ == "MoSEModel"


def publish(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    tag: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    commit_description: str | None = None,
    include: Sequence[str] = (),
    dry_run: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
) -> Published:
    """Publishes a model's folder as a complete MoSE repository, in one commit.

    Args:
        folder: as `save_pretrained` or `Trainer` leaves it; stays as it is.
        repo_id: `user/name`, or `name` in the user's own namespace; made where it does not exist.
        private: whether a repository that is made now is private; None: as the account's settings say.
        revision: the branch to commit to, made from main where it does not exist; None: main.
        tag: a tag to set on the commit.
        create_pr: open a pull request instead of committing to the branch.
        commit_message, commit_description: of the commit.
        include: patterns of files in `folder` to publish besides.
        dry_run: say what would go, and send nothing.
        token, endpoint: as in `huggingface_hub.HfApi`.

    Raises:
        ValueError: the folder holds no whole MoSE, or arguments that do not go together.
        FileNotFoundError: a file of the model is missing.
        PublishError: the Hub refused or could not be reached.
    """
    folder = Path(folder)
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise ValueError(str(error)) from error
    if create_pr and (tag or revision not in (None, "main")):
        raise ValueError("create_pr: a pull request goes to main and takes neither a tag nor another revision")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: there is no such folder")
    with tempfile.TemporaryDirectory(prefix="mose-publish-") as staging:
        files = stage(folder, Path(staging), repo_id, include)
        sizes = {name: path.stat().st_size for name, path in files.items()}
        if dry_run:
            return Published(repo_id, sizes)
        message = commit_message or f"Publish {folder.absolute().name}"
        api = HfApi(endpoint=endpoint, token=token)
        try:
            return _send(
                api, files, sizes, repo_id, private, revision, tag, create_pr, message, commit_description
            )
        except (ValueError, PublishError):
            raise
        except Exception as error:  # the client lets through what its HTTP library raises
            raise PublishError(advice(error, repo_id)) from error


def _send(
    api: HfApi,
    files: dict[str, Path],
    sizes: dict[str, int],
    repo_id: str,
    private: bool | None,
    revision: str | None,
    tag: str | None,
    create_pr: bool,
    message: str,
    description: str | None,
) -> Published:
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    if revision not in (None, "main"):
        api.create_branch(repo_id, branch=str(revision), exist_ok=True)
    before = api.model_info(repo_id, revision=revision)
    there = {sibling.rfilename for sibling in before.siblings or ()}
    # An unsharded file, or the shards of other exits, would be loaded in place of ours.
    gone = tuple(sorted(name for name in there - files.keys() if WEIGHT_FILE.fullmatch(name)))
    if create_pr and (known := _same_pull_request(api, repo_id, files, gone)):
        return Published(repo_id, sizes, (), known[1], f"{api.endpoint}/{repo_id}/discussions/{known[0]}")
    operations: list[Any] = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    commit = api.create_commit(
        repo_id,
        [*operations, *map(CommitOperationDelete, gone)],
        commit_message=message,
        commit_description=description,
        revision=revision,
        create_pr=create_pr,
        # Nobody else's commit of the meantime is overwritten.
        parent_commit=before.sha,
    )
    if tag is not None:
        try:
            _set_tag(api, repo_id, tag, commit.oid)
        except PublishError:
            raise
        except Exception as error:  # as in `publish`; but here the commit stands
            raise PublishError(
                f"published as {commit.oid[:12]}, but tag {tag!r} was not set ({error}); run the same command "
                "again"
            ) from error
    url = commit.pr_url or f"{api.endpoint}/{repo_id}"
    return Published(repo_id, sizes, gone, commit.oid, url, changed=commit.oid != before.sha)


def _set_tag(api: HfApi, repo_id: str, tag: str, commit: str) -> None:
    tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).tags}
    if tags.get(tag, commit) != commit:
        raise PublishError(
            f"tag {tag!r} stands on commit {tags[tag][:12]}, and what was published is {commit[:12]}: "
            "choose another tag, or delete that one"
        )
    if tag not in tags:
        api.create_tag(repo_id, tag=tag, revision=commit)


def _same_pull_request(
    api: HfApi, repo_id: str, files: dict[str, Path], gone: Sequence[str]
) -> tuple[int, str] | None:
    """Number and commit of a pull request, among the last ten, that holds these files already; None for none."""
    refs = api.list_repo_refs(repo_id, include_pull_requests=True).pull_requests or []
    for ref in sorted(refs, key=lambda ref: -int(ref.name.rpartition("/")[2]))[:10]:
        entries = api.list_repo_tree(repo_id, recursive=True, revision=ref.ref)
        there = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        holds = files.keys() <= there.keys() and not there.keys() & set(gone)
        if holds and all(_is_same(path, there[name]) for name, path in files.items()):
            return int(ref.name.rpartition("/")[2]), ref.target_commit
    return None


def _is_same(path: Path, entry: RepoFile) -> bool:
    if path.stat().st_size != entry.size:
        return False
    with path.open("rb") as file:
        if entry.lfs is not None:
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.lfs.sha256
        return hashlib.sha1(b"blob %d\0" % entry.size + file.read()).hexdigest() == entry.blob_id


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `python -m mose.hub publish`."""
    parser.add_argument("folder", metavar="FOLDER", help="the model's folder; it stays as it is")
    parser.add_argument("repo_id", metavar="REPO_ID", help="user/name; made where it does not exist")
    parser.add_argument(
        "--private",
        action=argparse.BooleanOptionalAction,
        help="whether a repository that is made now is private (default: as the account's settings say)",
    )
    parser.add_argument(
        "--revision",
        "--branch",
        metavar="BRANCH",
        help="branch to commit to, made from main where it does not exist (default: main)",
    )
    parser.add_argument("--tag", help="tag to set on the commit; one that stands elsewhere is not moved")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--commit-message", metavar="TEXT", help="first line of the commit")
    parser.add_argument("--commit-description", metavar="TEXT", help="what follows the first line")
    parser.add_argument(
        "--include",
        action="extend",
        nargs="+",
        default=[],
        metavar="PATTERN",
        help="further files of FOLDER to publish, such as report.json; pickles, states and caches never go",
    )
    parser.add_argument("--dry-run", action="store_true", help="list what would go, with sizes, and send nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON document instead of lines")


def run(options: argparse.Namespace) -> None:
    """Runs `python -m mose.hub publish`."""
    if not Path(options.folder).is_dir():
        raise ArgumentError(f"{options.folder}: there is no such folder")
    names = (
        "private",
        "revision",
        "tag",
        "create_pr",
        "commit_message",
        "commit_description",
        "include",
        "dry_run",
    )
    try:
        done = publish(options.folder, options.repo_id, **{name: getattr(options, name) for name in names})
    except (ValueError, FileNotFoundError) as error:
        raise ArgumentError(str(error)) from error
    if options.json:
        json.dump({**done.__dict__, "removed": list(done.removed)}, sys.stdout, indent=2)
        print()
        return
    if options.dry_run:
        width = max(map(len, done.files))
        for name, size in done.files.items():
            print(f"{name:{width}}  {size:>14,} bytes")
        print(
            f"{len(done.files)} files, {sum(done.files.values()):,} bytes would go to {done.repo_id}; "
            "none was sent"
        )
        return
    print(
        f"{done.url}: {len(done.files)} files, commit {done.commit}" if done.changed else f"{done.url}: no change"
    )
    for name in done.removed:
        print(f"removed {name}, of an earlier layout")
