"""All films of a data set in one memory-mapped array, written by all cores, resumable.

`films/pixels.npy` holds the readable films in the order they were given. While it grows it is `.pixels.part`; a journal
beside it says after every block of films which of them are in it, with a checksum of the block's bytes and a hash of
the size and time of change of its files. A call that was killed goes on after the last block whose bytes and files
agree with the journal; what came after that is written anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from benchmark.cores import core_count
from benchmark.data.films import SIDE, WRONG_SUM, BadFilm, decode
from benchmark.data.rules import Rules
from benchmark.errors import UserError
from benchmark.files import replace_text

FORMAT = 1
"""Raised whenever the same films would be stored differently."""

BLOCK = 512
"""Films between two entries of the journal: at most this many are lost when a call is killed."""

SUMS = "SHA256SUMS.txt"
"""The list of checksums that PhysioNet publishes with every data set."""

_TELLING = 20
"""So many films whose checksums are all wrong were not damaged by chance."""

_FILM_BYTES = SIDE * SIDE

_ASKING = 16
"""Files whose state is asked for at a time."""

_HEADER = 128
"""Bytes of the header: padded, so the same for any number of films."""


@dataclass(frozen=True)
class WrittenFilms:
    """What became of the films.

    Attributes:
        rows: (films,) int64, row of each film in the store, -1 where it cannot be used.
        reasons: why not, by position of the film.
    """

    rows: np.ndarray
    reasons: Mapping[int, str]


@dataclass
class _Journal:
    """What is known to be in the store: number of films looked at and stored, and reasons of those left out.

    Attributes:
        key: first line, of what decides about all films. stamps: (films,) of the file of each as it is now.
    """

    path: Path
    key: str
    stamps: Sequence[str]
    looked_at: int = 0
    stored: int = 0
    reasons: dict[int, str] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Take a block in, as its line of the journal describes it."""
        block = json.loads(line)
        self.reasons |= {self.looked_at + int(position): reason for position, reason in block["bad"].items()}
        self.looked_at += block["films"]
        self.stored += block["films"] - len(block["bad"])
        self.lines.append(line)

    def resume(self, part: Path) -> None:
        """Take in the blocks of an earlier call for the same films, as far as the bytes of `part` agree with them."""
        with part.open("rb") as file:
            file.seek(_HEADER)
            for line in self._earlier():
                block = json.loads(line)
                stored = file.read((block["films"] - len(block["bad"])) * _FILM_BYTES)
                if zlib.crc32(stored) != block["crc"] or self._seen(block["films"]) != block["seen"]:
                    break
                self.add(line)

    def recall(self, target: Path) -> bool:
        """Take in all blocks of an earlier call that has finished; False if there was none for the same films."""
        for line in self._earlier():
            block = json.loads(line)
            if self._seen(block["films"]) != block["seen"]:
                return False
            self.add(line)
        size = _HEADER + self.stored * _FILM_BYTES
        return self.looked_at == len(self.stamps) and target.stat().st_size == size

    def _seen(self, films: int) -> str:
        """Hash of the files of the next films, in whatever state they are."""
        stamps = self.stamps[self.looked_at : self.looked_at + films]
        return hashlib.sha256("\n".join(stamps).encode()).hexdigest()[:16]

    def _earlier(self) -> list[str]:
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        key, *lines = text.split("\n")[:-1] or [""]  # a last line without its end was never finished
        return lines if key == self.key else []

    def save(self) -> None:
        """Write it whole."""
        replace_text(self.path, "\n".join([self.key, *self.lines]) + "\n")

    def append(self, films: Sequence[np.ndarray | str], stored: bytes) -> None:
        """Note a block: pixels or, for films that cannot be used, the reason."""
        bad = {str(position): film for position, film in enumerate(films) if isinstance(film, str)}
        block = {"films": len(films), "bad": bad, "crc": zlib.crc32(stored), "seen": self._seen(len(films))}
        self.add(json.dumps(block))
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self.lines[-1] + "\n")
            file.flush()
            os.fsync(file.fileno())


def write_films(
    paths: Sequence[Path],
    out: Path,
    progress: Callable[[str, int, int], None] | None = None,
    threads: int | None = None,
    rules: Rules = Rules(),
    sums: Mapping[str, str] | None = None,
) -> WrittenFilms:
    """Writes `out/films/pixels.npy`, (n, 256, 256) uint8, n the number of readable films, in the order of `paths`.

    Args:
        out: where an earlier call for the same films may have left a part, or all.
        threads: that decode, by default as many as there are cores: the decoder does not hold Python's lock.
        rules: `film_pixels`. sums: SHA-256 by the last four parts of a path, as `read_sums` gives them.

    Raises:
        UserError: there is no room for the films.
    """
    notify = progress or (lambda *_: None)
    folder = out / "films"
    folder.mkdir(parents=True, exist_ok=True)
    part, target = folder / ".pixels.part", folder / "pixels.npy"
    expected = [None if sums is None else sums.get(_tail(path)) for path in paths]
    # Before they are read: a file that changes in between is taken for another one by the next call.
    known = (folder / "journal.jsonl", _key(paths, expected, rules), _stamps(paths))
    journal = _Journal(*known)
    if part.is_file():
        journal.resume(part)
    elif target.is_file() and journal.recall(target):
        return _written(journal, len(paths), notify)
    else:
        journal = _Journal(*known)
    _require_room(folder, (len(paths) - journal.looked_at) * _FILM_BYTES)
    journal.save()
    with part.open("r+b" if part.is_file() else "w+b") as file:
        _write_header(file, len(paths))
        _append(file, paths, expected, journal, threads or core_count(), rules, notify)
        # The header's number of films may be too high; headers are padded, so a lower number takes the same room.
        file.seek(0)
        _write_header(file, journal.stored)
        file.flush()
        os.fsync(file.fileno())
    part.replace(target)
    return _written(journal, len(paths), notify)


def _written(journal: _Journal, films: int, notify: Callable[[str, int, int], None]) -> WrittenFilms:
    notify("films", films, films)
    usable = np.array([position not in journal.reasons for position in range(films)], dtype=bool)
    return WrittenFilms(np.where(usable, np.cumsum(usable) - 1, -1).astype(np.int64), journal.reasons)


def read_sums(root: Path, paths: Sequence[Path]) -> dict[str, str]:
    """SHA-256 of those of `paths` that are in the list of checksums in the folder `root`; empty if there is no list.

    Raises:
        UserError: the list cannot be read as one.
    """
    listed = root / SUMS
    if not listed.is_file():
        return {}
    wanted = {_tail(path) for path in paths}
    sums: dict[str, str] = {}
    with listed.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            digest, _, name = line.strip().partition(" ")
            tail = "/".join(name.strip().lstrip("*").split("/")[-4:])
            if tail not in wanted:
                continue
            if len(digest) != 64:
                raise UserError(f"{listed}, line {number}: {digest!r} is no SHA-256; repair or remove the file")
            sums[tail] = digest.lower()
    return sums


def _append(
    file: BinaryIO,
    paths: Sequence[Path],
    expected: Sequence[str | None],
    journal: _Journal,
    threads: int,
    rules: Rules,
    notify: Callable[[str, int, int], None],
) -> None:
    """Decode what the journal lacks, block by block."""
    file.truncate(_HEADER + journal.stored * _FILM_BYTES)
    file.seek(0, os.SEEK_END)
    start, films = journal.looked_at, []
    for position, film in enumerate(_decoded(paths[start:], expected[start:], threads, rules), start=start + 1):
        films.append(film)
        if len(films) == BLOCK or position == len(paths):
            wrong = sum(isinstance(film, str) and film == WRONG_SUM for film in films)
            if not journal.stored and wrong == len(films) >= _TELLING:
                raise UserError(
                    f"none of the first {len(films)} films has its checksum of {SUMS}; if they were made smaller or "
                    f"saved anew on purpose, take {SUMS} out of the folder of MIMIC-CXR"
                )
            stored = b"".join(film.tobytes() for film in films if not isinstance(film, str))
            file.write(stored)
            file.flush()
            os.fsync(file.fileno())
            journal.append(films, stored)
            films = []
        if position % 100 == 0:
            notify("films", position, len(paths))


def _decoded(
    paths: Sequence[Path], expected: Sequence[str | None], threads: int, rules: Rules
) -> Iterator[np.ndarray | str]:
    """Films in order, or the reasons why not; only a few are in memory at a time."""

    def attempt(path: Path, sha256: str | None) -> np.ndarray | str:
        try:
            return decode(path, rules, sha256)
        except BadFilm as fault:
            return str(fault)

    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        # Pillow warns of very many pixels; here they are a reason.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        waiting = deque()
        try:
            for pair in zip(paths, expected, strict=True):
                waiting.append(pool.submit(attempt, *pair))
                if len(waiting) >= 8 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _key(paths: Sequence[Path], expected: Sequence[str | None], rules: Rules) -> str:
    """First line of the journal: what decides the content of the store, whatever folder the films lie in."""
    content = hashlib.sha256(f"{FORMAT} {rules.film_pixels}\n".encode())
    for path, sha256 in zip(paths, expected, strict=True):
        content.update(f"{_tail(path)} {sha256}\n".encode())
    return content.hexdigest()


def _stamps(paths: Sequence[Path]) -> list[str]:
    """Size and time of change of each file; what is no file has none."""

    def stamp(path: Path) -> str:
        try:
            found = path.stat()
        except OSError:
            return ""
        return f"{found.st_size} {found.st_mtime_ns}"

    with ThreadPoolExecutor(_ASKING) as pool:  # over a network an answer takes long, and many are given at once
        return list(pool.map(stamp, paths))


def _tail(path: Path) -> str:
    return "/".join(path.parts[-4:])


def _require_room(folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"the films need {size / 1e6:,.1f} MB more in {folder}; {free / 1e6:,.1f} MB are free")


def _write_header(file: BinaryIO, films: int) -> None:
    description = {"descr": "|u1", "fortran_order": False, "shape": (films, SIDE, SIDE)}
    np.lib.format.write_array_header_1_0(file, description)
    if file.tell() != _HEADER:
        raise RuntimeError(f"header of {file.tell()} bytes where {_HEADER} were reserved")
