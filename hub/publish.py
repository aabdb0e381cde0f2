"""Publishing a model's folder on the Hub: complete, sharded at the exits, in one commit.

Files that the Hub has already are not sent again, so publishing twice changes nothing. A publish that is killed
leaves the repository as it was; the next one resumes.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.hf_api import CommitInfo, RepoFile
from huggingface_hub.utils import validate_repo_id

from mose.eval.model_index import card_with_results
from mose.eval.report import read_report
from mose.hub.card import folder_card, training_summary, validate_card
from mose.hub.errors import PublishError, hub_error_message
from mose.hub.files import WEIGHT_FILE, add_missing_files, published_files
from mose.utils.command_line import ArgumentError

#: Report in a model's folder whose figures complete the card; the shipped model has one.
REPORT = "docs/report/report.json"
#: Pull requests, from the newest, that are searched for one with the same files.
_PULL_REQUESTS = 10


@dataclass(frozen=True)
class Published:
    """The result of `publish`."""

    repo_id: str
    files: dict[str, int]  # path in the repository -> bytes, of everything that was published
    removed: tuple[str, ...] = ()  # weight files of an earlier layout that the commit deleted
    commit: str | None = None  # its id; None for a dry run
    url: str | None = None  # of the repository, or of the pull request
    changed: bool = False  # False if the Hub had everything already


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
    report: str | Path | None = None,
    dry_run: bool = False,
    token: str | None = None,
    endpoint: str | None = None,
) -> Published:
    """Publish a model's folder as a complete MoSE repository, in one commit.

    Args:
        folder: as `save_pretrained` or `Trainer` leaves it. It is not changed.
        repo_id: `user/name`, or `name` in the user's own namespace. Created if it does not exist.
        private: whether a new repository is private; None follows the account's settings.
        revision: branch to commit to, created from main if it does not exist; None means main.
        tag: to set on the commit.
        create_pr: open a pull request instead of committing to the branch.
        commit_message: first line of the commit.
        commit_description: further lines of the commit.
        include: patterns of further files in `folder` to publish.
        report: evaluation report whose figures go into the card; None means the folder's own, if it has one.
        dry_run: return what would be published, and send nothing.
        token: see `huggingface_hub.HfApi`.
        endpoint: see `huggingface_hub.HfApi`.

    Raises:
        ValueError: the folder does not pass `mose.hub.checks`, or the arguments contradict each other.
        FileNotFoundError: the folder or a file of the model is missing.
        PublishError: the Hub refused or could not be reached.
    """
    folder = Path(folder)
    validate_repo_id(repo_id)  # raises a ValueError
    if create_pr and (tag or revision not in (None, "main")):
        raise ValueError("create_pr opens a pull request to main. Pass neither tag nor revision with it.")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: no such folder")

    with tempfile.TemporaryDirectory(prefix="mose-publish-") as staging:
        files = stage(folder, Path(staging), repo_id, include, report)
        result = Published(repo_id, {name: path.stat().st_size for name, path in files.items()})
        if dry_run:
            return result

        commit: dict[str, Any] = {
            "commit_message": commit_message or f"Publish {folder.absolute().name}",
            "commit_description": commit_description,
            "revision": revision,
            "create_pr": create_pr,
        }
        try:
            return _push(HfApi(endpoint=endpoint, token=token), result, files, private, tag, commit)
        except (ValueError, PublishError):
            raise
        except Exception as error:  # the client lets its HTTP library's exceptions through
            raise PublishError(hub_error_message(error, repo_id)) from error


def stage(
    folder: Path, staging: Path, repo_id: str, include: Sequence[str] = (), report: str | Path | None = None
) -> dict[str, Path]:
    """Check a folder, create in `staging` what it lacks, and return all files of the complete repository.

    `folder` holds a model or a LoRA adapter and is not changed. Other arguments and errors: see `publish`.

    Returns:
        Path in the repository -> file, sorted.
    """
    # These import torch.
    from mose.hub.checkpoints import model_class, read_checkpoint, read_config
    from mose.hub.checks import check_folder
    from mose.hub.contents import check_copy, check_onnx, check_tokenizer, probe_embeddings
    from mose.hub.shards import write_shards

    files = published_files(folder, include)
    check_folder(folder, files)
    config = None if "adapter_config.json" in files else read_config(folder)
    if config is not None:
        write_shards(staging, read_checkpoint(folder, config), config.built_exit_layers)

    # A complete model folder is needed to generate the card.
    for name, path in files.items():
        if not (staging / name).exists():
            (staging / name).parent.mkdir(parents=True, exist_ok=True)
            (staging / name).symlink_to(path.resolve())
    if config is not None:
        add_missing_files(staging, sentence_transformers=model_class(config).__name__ == "MoSEModel")
        tokenizer = check_tokenizer(folder, config)
        expected = probe_embeddings(folder, config, tokenizer)
        check_copy(expected, probe_embeddings(staging, config, tokenizer), f"the copy of {folder}")
        check_onnx(files, tokenizer, expected)
    _stage_card(folder, staging, repo_id, report)

    staged = {path.relative_to(staging).as_posix(): path for path in staging.rglob("*") if path.is_file()}
    return dict(sorted((files | staged).items()))


def _stage_card(folder: Path, staging: Path, repo_id: str, report: str | Path | None) -> None:
    """Write the card into `staging`, with all figures of the report: the folder's own, or a generated one."""
    path = Path(report) if report else folder / REPORT
    figures = read_report(path) if report or path.is_file() else None

    card = staging / "README.md"
    if card.exists():
        text = card.read_bytes().decode("utf-8")
        if figures is None:
            return
        text = card_with_results(text, figures)
        card.unlink()  # a link to the folder's own, which must not change
    else:
        text = folder_card(staging, repo_id=repo_id, report=figures, summary=training_summary(folder))

    validate_card(text)
    card.write_bytes(text.encode())


def _push(
    api: HfApi,
    staged: Published,
    files: Mapping[str, Path],
    private: bool | None,
    tag: str | None,
    commit_options: Mapping[str, Any],
) -> Published:
    """Commit the files to the Hub, set the tag and complete the result.

    `commit_options` are those of `HfApi.create_commit`.
    """
    revision = commit_options["revision"]
    repo_id = api.create_repo(staged.repo_id, private=private, exist_ok=True).repo_id
    if revision not in (None, "main"):
        api.create_branch(repo_id, branch=revision, exist_ok=True)
    before = api.model_info(repo_id, revision=revision)
    remote = {sibling.rfilename for sibling in before.siblings or ()}

    # An unsharded file, or the shards of other exits, would be loaded in place of ours.
    outdated = tuple(sorted(name for name in remote - files.keys() if WEIGHT_FILE.fullmatch(name)))
    if commit_options["create_pr"] and (known := _same_pull_request(api, repo_id, files, outdated)):
        url = f"{api.endpoint}/{repo_id}/discussions/{known[0]}"
        return replace(staged, repo_id=repo_id, commit=known[1], url=url)

    operations: list[Any] = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    operations += map(CommitOperationDelete, outdated)
    # `parent_commit` refuses to overwrite a commit that somebody made since.
    commit = api.create_commit(repo_id, operations, parent_commit=before.sha, **commit_options)
    if tag is not None:
        _set_tag(api, repo_id, tag, commit)

    url = commit.pr_url or f"{api.endpoint}/{repo_id}"
    return Published(repo_id, staged.files, outdated, commit.oid, url, changed=commit.oid != before.sha)


def _set_tag(api: HfApi, repo_id: str, tag: str, commit: CommitInfo) -> None:
    # A tag is never moved: others may have pinned it.
    try:
        tags = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).tags}
        if tag not in tags:
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
    except Exception as error:  # as in `publish`, but here the commit is there
        raise PublishError(
            f"published as {commit.oid[:12]}, but tag {tag!r} was not set ({error}). Run the same command again."
        ) from error

    if tags.get(tag, commit.oid) != commit.oid:
        raise PublishError(
            f"tag {tag!r} is on commit {tags[tag][:12]}, but {commit.oid[:12]} was published. Choose another "
            "tag, or delete that one."
        )


def _same_pull_request(
    api: HfApi, repo_id: str, files: Mapping[str, Path], outdated: Sequence[str]
) -> tuple[int, str] | None:
    """Return number and commit id of a recent pull request that holds the same files; None for none."""

    def number(name: str) -> int:
        return int(name.rpartition("/")[2])

    refs = api.list_repo_refs(repo_id, include_pull_requests=True).pull_requests or []
    for ref in sorted(refs, key=lambda ref: -number(ref.name))[:_PULL_REQUESTS]:
        entries = api.list_repo_tree(repo_id, recursive=True, revision=ref.ref)
        remote = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
        is_complete = files.keys() <= remote.keys() and not remote.keys() & set(outdated)
        if is_complete and all(_is_same_file(path, remote[name]) for name, path in files.items()):
            return number(ref.name), ref.target_commit
    return None


def _is_same_file(path: Path, entry: RepoFile) -> bool:
    if path.stat().st_size != entry.size:
        return False
    with path.open("rb") as file:
        if entry.lfs is not None:
            return hashlib.file_digest(file, "sha256").hexdigest() == entry.lfs.sha256
        # git's own hash of a file
        return hashlib.sha1(b"blob %d\0" % entry.size + file.read()).hexdigest() == entry.blob_id


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `mose hub publish`."""
    parser.add_argument("folder", metavar="FOLDER", help="folder of the model; it is not changed")
    parser.add_argument("repo_id", metavar="REPO_ID", help="user/name; created if it does not exist")
    private: dict[str, Any] = {"action": argparse.BooleanOptionalAction}
    parser.add_argument("--private", **private, help="of a new repository (default: the account's setting)")
    branch = "branch, created if it does not exist (default: main)"
    parser.add_argument("--revision", "--branch", metavar="BRANCH", help=branch)

    parser.add_argument("--tag", help="tag to set on the commit; an existing tag is not moved")
    parser.add_argument("--create-pr", action="store_true", help="open a pull request instead of committing")
    parser.add_argument("--commit-message", metavar="TEXT", help="first line of the commit")
    parser.add_argument("--commit-description", metavar="TEXT", help="further lines of the commit")

    include: dict[str, Any] = {"action": "extend", "nargs": "+", "default": [], "metavar": "PATTERN"}
    parser.add_argument("--include", **include, help="further files of FOLDER, such as report.json; no pickles")
    report = f"evaluation report whose figures go into the card (default: FOLDER/{REPORT} if it exists)"
    parser.add_argument("--report", metavar="FILE", help=report)

    parser.add_argument("--dry-run", action="store_true", help="list the files and their sizes, and send nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON document")


def run(options: argparse.Namespace) -> None:
    """Run `mose hub publish`."""
    arguments = {name: value for name, value in vars(options).items() if name not in ("run", "json")}
    try:
        result = publish(**arguments)
    except (ValueError, FileNotFoundError) as error:
        raise ArgumentError(str(error)) from error

    if options.json:
        json.dump(asdict(result), sys.stdout, indent=2)
        print()
    elif options.dry_run:
        width, total = max(map(len, result.files)), sum(result.files.values())
        for name, size in result.files.items():
            print(f"{name:{width}}  {size:>14,} bytes")
        print(f"{len(result.files)} files, {total:,} bytes would go to {result.repo_id}; none was sent")
    else:
        summary = f"{len(result.files)} files, commit {result.commit}" if result.changed else "no change"
        print(f"{result.url}: {summary}")
        for name in result.removed:
            print(f"removed {name}, of an earlier layout")
