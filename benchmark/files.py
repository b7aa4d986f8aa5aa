"""Files that are either absent or whole."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_UNFINISHED = ".unfinished-"
_UMASK = os.umask(0o077)
os.umask(_UMASK)  # it cannot be read without being set


def as_usual(path: Path) -> None:
    """Gives a file or folder the permissions that the umask says; temporary ones begin as their owner's alone."""
    path.chmod((0o777 if path.is_dir() else 0o666) & ~_UMASK)


def system_fault(fault: OSError) -> str:
    """What the operating system refused, without Python's dressing.

    >>> system_fault(FileNotFoundError(2, "No such file or directory", "a/b"))
    'No such file or directory: a/b'
    >>> system_fault(OSError("truncated gzip file"))
    'truncated gzip file'
    """
    if not fault.strerror:
        return str(fault) or type(fault).__name__
    return f"{fault.strerror}: {fault.filename}" if fault.filename is not None else fault.strerror


def write_fault(folder: Path) -> str | None:
    """Why nothing can be written in `folder`, which need not exist yet; None if something can. Leaves nothing there."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    try:
        # Trying is the only sure test: permissions say nothing of read-only or special file systems. A file without a
        # name is gone with this process, even if it is killed right now.
        with tempfile.TemporaryFile(prefix=_UNFINISHED, dir=existing):
            return None
    except OSError as fault:
        return fault.strerror or str(fault)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A stream whose content takes the place of `path` when the block ends well; no reader ever meets half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=unfinished_prefix(), dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())  # or a power cut could leave the name with nothing in it
        as_usual(Path(temporary))
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def replace_text(path: Path, text: str) -> None:
    """Writes `text` to `path`, whole or not at all."""
    with replacing(path) as stream:
        stream.write(text.encode())


def unfinished_prefix() -> str:
    """Begin of the names of what this process has not finished yet; it tells whose they are."""
    return f"{_UNFINISHED}{socket.gethostname()}-{os.getpid()}-"


def remove_abandoned(parent: Path) -> int:
    """Deletes files and folders that killed processes of this machine left half-written in `parent`; says how many."""
    prefix, count = f"{_UNFINISHED}{socket.gethostname()}-", 0
    for left in parent.glob(f"{prefix}*"):
        process, *rest = left.name.removeprefix(prefix).split("-")
        # More parts: the name of another machine begins with that of this one.
        if len(rest) != 1 or not process.isdecimal() or _alive(int(process)):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
        count += 1
    return count


def _alive(process: int) -> bool:
    """Whether a process of this machine can still write; one that ended and waits for its parent's notice cannot."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        pass  # no /proc here, or no such process
    else:
        return state not in "ZX"
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
