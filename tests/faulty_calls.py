"""A call of `bench` in a child process that suffers a fault: what `fault_injection.py` strikes with."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

NEEDS_ROOM = ("open", "os.mkdir", "os.rename", "os.link")
CHANGES = (*NEEDS_ROOM, "os.remove", "os.rmdir", "os.truncate")


@dataclass(frozen=True)
class Fault:
    """`at` counts operations, seconds or bytes."""

    kind: str
    at: float


@dataclass(frozen=True)
class Ended:
    """How a call ended: `signal` 0 if by itself, with `code`; `changes` counts its operations, `said` is its stderr."""

    signal: int
    code: int
    changes: int
    said: str


def call(arguments: list[str], folder: Path, fault: Fault | None = None) -> Ended:
    """Runs `bench` with `arguments` in a child process that suffers `fault`."""
    said, counted = folder.parent / "said", folder.parent / "counted"
    child = os.fork()
    if not child:
        code = 70
        try:
            os.setsid()
            _redirect(said)
            counter = _Operations(folder, fault, counted)
            sys.addaudithook(counter)
            code = _main(arguments, fault)
        finally:
            os._exit(code)
    deadline = fault.at if fault and fault.kind == "kill after a time" else 600.0
    status = _wait(child, deadline)
    if status is None:
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if not fault or fault.kind != "kill after a time":
            raise AssertionError(f"{arguments} hangs after {fault}")
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    changes = int(counted.read_text() or 0) if counted.exists() else 0
    return Ended(number, os.waitstatus_to_exitcode(status) if not number else 0, changes, said.read_text())


class _Operations:
    """An audit hook that counts what changes the folder, and strikes."""

    def __init__(self, folder: Path, fault: Fault | None, counted: Path) -> None:
        self.folder, self.fault, self.count = str(folder), fault, 0
        counted.unlink(missing_ok=True)
        self.file = os.open(counted, os.O_WRONLY | os.O_CREAT, 0o600)

    def __call__(self, event: str, arguments: tuple) -> None:
        if event not in CHANGES or not self._concerns(event, arguments):
            return
        self.count += 1
        os.pwrite(self.file, str(self.count).encode(), 0)
        if self.fault is None or self.count < self.fault.at:
            return
        if self.fault.kind == "kill at an operation":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault.kind == "full disk" and event in NEEDS_ROOM:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    def _concerns(self, event: str, arguments: tuple) -> bool:
        if not isinstance(arguments[0], str | bytes | os.PathLike):
            return False
        if event == "open" and not (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return False
        return os.path.abspath(os.fsdecode(arguments[0])).startswith(self.folder)


def _redirect(said: Path) -> None:
    target = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(target, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)


def _main(arguments: list[str], fault: Fault | None) -> int:
    import traceback

    from benchmark.cli import main

    if fault and fault.kind == "short write":
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(fault.at), int(fault.at)))
    sys.argv = ["bench", *arguments]
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
        code = 71
    else:
        code = 0
    sys.stdout.flush()
    sys.stderr.flush()
    return code


def _wait(child: int, seconds: float) -> int | None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return status
        time.sleep(0.005)
    return None
