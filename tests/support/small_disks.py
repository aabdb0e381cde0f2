"""File systems of a few kilobytes in memory, that fill up or cannot be written to. Mounting needs root."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest


class SmallDisk:
    """A mounted tmpfs.

    Args:
        folder: where it is mounted.
        kilobytes: its size.
    """

    def __init__(self, folder: Path, kilobytes: int):
        self.folder = folder
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")

    def remount(self, options: str) -> None:
        """Change its options, such as "size=1m" or "ro"."""
        subprocess.run(["mount", "-o", f"remount,{options}", str(self.folder)], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


def can_mount() -> bool:
    """Return whether this process may try to mount file systems."""
    return os.name == "posix" and os.geteuid() == 0 and shutil.which("mount") is not None
