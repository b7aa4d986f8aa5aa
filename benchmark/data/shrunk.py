"""Films that models see smaller than they are stored, and unaltered: shrunk at first use, and kept by the process.

At the sizes of `quick` the shrinking would otherwise be a fifth of a training step on a CPU.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmark.data.augmentation import crop, shrinks

MOST_BYTES = 2**28
"""That the films of a data set may take; of larger ones none are kept."""


class ShrunkFilms:
    """Centre crops of `film` pixels a side, of films `stored` (n, 256, 256) uint8."""

    def __init__(self, stored: np.ndarray, film: int) -> None:
        self._stored, self._film = stored, film
        self._pixels = np.empty((len(stored), film, film), np.float32)
        self._known = np.zeros(len(stored), bool)

    def take(self, rows: np.ndarray) -> Tensor:
        """The crops (r, film, film) in [0, 1] of the films `rows` (r,)."""
        new = np.unique(rows[~self._known[rows]])
        if len(new):
            self._pixels[new] = crop(torch.from_numpy(self._stored[new]), self._film).numpy()
            self._known[new] = True
        return torch.from_numpy(self._pixels[rows])


def shrunk_films(file: Path, film: int) -> ShrunkFilms | None:
    """The crops of the films stored in `file`; None if they are as large as stored, or too many to be kept."""
    if not shrinks(film):
        return None
    written = file.stat()
    return _of_file(file, film, written.st_mtime_ns, written.st_ino)


@lru_cache(2)
def _of_file(file: Path, film: int, *_: int) -> ShrunkFilms | None:
    stored = np.load(file, mmap_mode="r")
    return ShrunkFilms(stored, film) if len(stored) * film**2 * 4 <= MOST_BYTES else None
