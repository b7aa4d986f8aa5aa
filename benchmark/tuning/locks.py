"""Locks that the system takes back when their holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
import uuid
from pathlib import Path
from types import TracebackType


class FileLock:
    """An exclusive lock on a file, for use in a `with` block; waits for its turn. Works between processes and threads
    of one machine, and between machines where the file system carries such locks (NFS 4 does)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = -1

    def __enter__(self) -> FileLock:
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)


class Presence:
    """A sign of life: a locked file in `folder`, from creation until the process ends or `leave` is called."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.name = uuid.uuid4().hex
        self._path = folder / self.name
        self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def leave(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._file)


def is_present(folder: Path, name: str) -> bool:
    """Whether the process that made this sign of life still lives."""
    try:
        file = os.open(folder / name, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        (folder / name).unlink(missing_ok=True)
        return False
    finally:
        os.close(file)
