from pathlib import Path

import platformdirs
import pytest

import mose
from mose.utils.locations import cache_folder, is_hub_id, is_local_folder, package_folder


def test_a_folder_is_told_from_a_hub_id(tmp_path):
    assert is_local_folder(tmp_path)
    assert not is_local_folder("owner/name")
    assert is_hub_id("owner/name") and not is_hub_id("name") and not is_hub_id("a/b/c")
    with pytest.raises(FileNotFoundError, match="no such folder, and not a Hub id"):
        is_local_folder(tmp_path / "none")


def test_the_package_folder_holds_the_shipped_model():
    assert package_folder() == Path(mose.__file__).resolve().parent
    assert (package_folder() / "config.json").is_file()


def test_the_cache_is_outside_the_package_and_can_be_moved(tmp_path, monkeypatch):
    monkeypatch.delenv("MOSE_CACHE", raising=False)
    assert cache_folder() == Path(platformdirs.user_cache_dir("mose", appauthor=False))
    monkeypatch.setenv("MOSE_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
