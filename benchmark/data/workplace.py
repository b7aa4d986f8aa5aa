"""Where a data set is made: a hidden folder beside its final place, for one process at a time.

Long steps put their results there, so that a call that was killed can be made again and goes on after the last step
that it finished. Each step knows by itself whether what it finds there was made from the same files by the same rules,
so that what a repaired file does not touch is not done again. The data set itself is built in a folder of its own,
which takes its name only when all is done.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmark.errors import UserError
from benchmark.files import system_fault
from benchmark.locks import acquire

_LOCK, _DATA = "lock", "data"


@dataclass(frozen=True)
class Workplace:
    """The hidden folder.

    Attributes:
        folder: for results of steps. data: what will be the data set.
    """

    folder: Path

    @property
    def data(self) -> Path:
        return self.folder / _DATA

    @property
    def events(self) -> Path:
        return self.folder / "events"

    @property
    def films(self) -> Path:
        return self.folder / "films"

    def take(self, made: Path, target: Path) -> None:
        """Put a file that a step has made into the data set; where the disk can, it stays with the step as well."""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(made, target)
        except OSError:  # a file system without links: a call that is killed after this makes the file again
            made.rename(target)

    def worth_keeping(self) -> bool:
        """Whether a long step is finished or can be taken up."""
        return (self.events / "events.json").is_file()


@contextmanager
def workplace(out: Path) -> Iterator[Workplace]:
    """Build `out`, the data set, in a `with` block; it appears when the block ends without an error.

    Raises:
        UserError: another process is preparing `out`.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / f".{out.name}.work"
    lock = _locked(folder, out)
    place = Workplace(folder)
    try:
        _begin(place)
        try:
            yield place
            if os.path.lexists(out):
                raise UserError(f"{out} exists already; choose another name or remove it")
            place.data.rename(out)
        except OSError as fault:  # names no file where a library or the system's limits refuse to write on
            raise UserError(f"{out} cannot be prepared in {folder}: {system_fault(fault)}{_kept(place)}") from fault
        except UserError as fault:
            if kept := _kept(place):
                raise UserError(f"{fault}{kept}") from fault
            raise
        finally:
            shutil.rmtree(place.data, ignore_errors=True)
            if out.exists() or not place.worth_keeping():
                shutil.rmtree(folder)
    finally:
        os.close(lock)


def _kept(place: Workplace) -> str:
    if not place.worth_keeping():
        return ""
    return f"\nFinished steps are kept in {place.folder}; the same call goes on from there."


def _locked(folder: Path, out: Path) -> int:
    """The open lock of the folder, which is made if need be. The system frees it when the process ends in any way."""
    lock = acquire(folder / _LOCK)
    if lock is None:
        raise UserError(
            f"{out} is being prepared by another process, which holds {folder / _LOCK}; wait for it, or choose another "
            "name"
        )
    return lock


def _begin(place: Workplace) -> None:
    if place.data.exists():
        shutil.rmtree(place.data)
    place.data.mkdir(mode=0o700)
