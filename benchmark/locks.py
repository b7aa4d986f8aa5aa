"""Locks between processes. The system frees them when their holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def holding(file: Path, wait: bool) -> Iterator[bool]:
    """Holds a lock while the block lasts; gives whether it does.

    Args:
        file: stands for the lock; made if need be, with its folder, and removed in the end.
        wait: until it is free; otherwise, where another process holds it, the block begins without it.
    """
    lock = acquire(file, wait)
    if lock is None:
        yield False
        return
    try:
        yield True
    finally:
        file.unlink(missing_ok=True)
        os.close(lock)


def acquire(file: Path, wait: bool = False) -> int | None:
    """An open descriptor that holds the lock until it is closed, or None if another process holds it.

    Whoever holds it may remove the file and its folder.
    """
    while True:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            lock = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
        except FileNotFoundError:  # another process has just finished and removed the folder
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(os.fstat(lock), os.stat(file)):
                return lock
        except BlockingIOError:
            os.close(lock)
            return None
        except FileNotFoundError:  # it was removed while this process waited
            pass
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
