"""Chest films, decoded once into one memory-mapped array of small grey images.

The shorter side becomes 256 pixels with the aspect ratio kept, then the centre 256 x 256 pixels are cut out. JPEG files
are decoded at reduced size where that is enough, then resampled with antialiasing.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

SIDE = 256
"""Height and width of a stored film."""

_END_OF_JPEG, _TAIL = b"\xff\xd9", 64

_UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def decode(path: Path) -> np.ndarray:
    """One film as (256, 256) uint8.

    Raises:
        OSError, SyntaxError, ValueError or PIL.Image.DecompressionBombError: the file cannot be read as an image.
    """
    with Image.open(path) as image:
        width, height = image.size
        scale = SIDE / min(width, height)
        # Decode at twice the final size or more, so that the final, better resampling still does the last step.
        image.draft("L", (round(2 * scale * width), round(2 * scale * height)))
        size = (max(SIDE, round(scale * width)), max(SIDE, round(scale * height)))
        grey = image.convert("L").resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
    left, top = (size[0] - SIDE) // 2, (size[1] - SIDE) // 2
    return np.asarray(grey.crop((left, top, left + SIDE, top + SIDE)))


def looks_whole(path: Path) -> bool:
    """Whether a file begins and ends like a whole image; its pixels are not decoded.

    A file cut short while it was copied lacks the end mark of a JPEG.
    """
    try:
        with Image.open(path) as image:
            if image.format != "JPEG":
                return True
        with path.open("rb") as file:
            file.seek(-min(_TAIL, path.stat().st_size), os.SEEK_END)
            return _END_OF_JPEG in file.read()
    except _UNREADABLE:
        return False


def write_films(
    paths: Sequence[Path],
    out: Path,
    progress: Callable[[str, int, int], None] | None = None,
    threads: int | None = None,
) -> np.ndarray:
    """Writes `out/films/pixels.npy`, (n, 256, 256) uint8, n the number of readable films, in the order of `paths`.

    Args:
        threads: number of decoding threads; at most four of the machine's cores by default.

    Returns:
        (len(paths),) int64: row of each film, -1 where the file is missing or broken.
    """
    notify = progress or (lambda *_: None)
    folder = out / "films"
    folder.mkdir(parents=True, exist_ok=True)
    rows = np.full(len(paths), -1, dtype=np.int64)
    temporary, target = folder / ".pixels.npy.part", folder / "pixels.npy"
    with temporary.open("w+b") as file:
        _write_header(file, len(paths))
        data_start, readable = file.tell(), 0
        for index, pixels in enumerate(_decoded(paths, threads or min(4, os.cpu_count() or 1))):
            if pixels is not None:
                file.write(pixels.tobytes())
                rows[index] = readable
                readable += 1
            if index % 100 == 0:
                notify("films", index, len(paths))
        # The header's number of films may be too high; the format pads headers, so a lower number takes the same room.
        file.seek(0)
        _write_header(file, readable)
        if file.tell() != data_start:
            raise RuntimeError(f"header of {file.tell()} bytes where {data_start} were reserved")
    temporary.replace(target)
    notify("films", len(paths), len(paths))
    return rows


def _write_header(file: BinaryIO, films: int) -> None:
    description = {"descr": "|u1", "fortran_order": False, "shape": (films, SIDE, SIDE)}
    np.lib.format.write_array_header_1_0(file, description)


def _decoded(paths: Sequence[Path], threads: int) -> Iterator[np.ndarray | None]:
    """Films in order, None for unreadable ones; only a few are in memory at a time."""

    def attempt(path: Path) -> np.ndarray | None:
        try:
            return decode(path)
        except _UNREADABLE:
            return None

    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        for path in paths:
            waiting.append(pool.submit(attempt, path))
            if len(waiting) >= 8 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
