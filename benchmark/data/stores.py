"""Sequences of unequal length on disk: all rows end to end in one array, memory-mapped, with an array of offsets.

A store is a folder with `values.npy` (rows, width) and `offsets.npy` (sequences + 1). It appears under its name only
when it is complete.
"""

from __future__ import annotations

import mmap
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmark.errors import UserError
from benchmark.files import as_usual


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name at the end; it vanishes if the block raises.

    Raises:
        FileExistsError: `target` exists when the block ends.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield temporary
        if target.exists():
            raise FileExistsError(f"{target} exists already")
        as_usual(temporary)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


class RaggedStore:
    """Sequences of one store, opened for reading.

    Attributes:
        values: (rows, width), memory-mapped. offsets: (sequences + 1,) first row of each sequence.
        lengths: (sequences,) int64.
    """

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values, self.offsets = values, offsets
        self.lengths = np.diff(offsets)

    @classmethod
    def open(cls, folder: Path) -> RaggedStore:
        """Opens the store in `folder`; nothing but the offsets is read."""
        try:
            values = np.load(Path(folder) / "values.npy", mmap_mode="r")
            offsets = np.load(Path(folder) / "offsets.npy")
        except (OSError, ValueError) as error:
            raise UserError(f"{folder} is not a complete store (values.npy and offsets.npy): {error}") from error
        if values.ndim != 2 or offsets[-1] != len(values):
            raise UserError(
                f"{folder}: offsets end at {offsets[-1]}, values have shape {values.shape}; prepare it anew"
            )
        return cls(np.asarray(values), offsets.astype(np.int64))

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, row: int) -> np.ndarray:
        """One sequence, (length, width)."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def width(self) -> int:
        return self.values.shape[1]

    def gather(
        self, rows: np.ndarray, starts: np.ndarray | None = None, stops: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Several sequences, or a part of each, end to end.

        Args:
            rows: (n,) sequences in any order, repeats allowed.
            starts, stops: (n,) first and one past the last row taken of each sequence; all of it by default.

        Returns:
            values (sum of lengths, width), a copy, and lengths (n,) int64.
        """
        rows = np.asarray(rows, dtype=np.int64)
        if rows.size and (rows.min() < 0 or rows.max() >= len(self)):
            raise IndexError(f"sequence {rows.min() if rows.min() < 0 else rows.max()} of a store of {len(self)}")
        available = self.lengths[rows]
        starts = np.zeros_like(available) if starts is None else np.asarray(starts, dtype=np.int64)
        stops = available if stops is None else np.asarray(stops, dtype=np.int64)
        wrong = (starts < 0) | (stops < starts) | (stops > available)
        if wrong.any():
            first = int(np.flatnonzero(wrong)[0])
            raise IndexError(f"rows {starts[first]} to {stops[first]} of a sequence of {available[first]}")
        lengths = stops - starts
        # Row j of the result is row j - (results before its sequence) + (first stored row) of the store.
        shift = self.offsets[rows] + starts - (np.cumsum(lengths) - lengths)
        index = np.arange(int(lengths.sum())) + np.repeat(shift, lengths)
        return self.values[index], lengths


class RaggedWriter:
    """Fills a store whose lengths are known, in any order, without holding it in memory.

    Args:
        folder: where to write; usually the folder of a `new_folder` block, which makes the whole atomic.
        lengths: rows of each sequence. width: columns. dtype: of the stored values.
    """

    def __init__(self, folder: Path, lengths: Sequence[int] | np.ndarray, width: int, dtype: type = np.float16) -> None:
        lengths = np.asarray(lengths, dtype=np.int64)
        if lengths.size and lengths.min() < 0:
            raise ValueError(f"length {lengths.min()}; a sequence has 0 rows or more")
        self.offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "offsets.npy", self.offsets)
        shape = (int(self.offsets[-1]), width)
        if shape[0]:
            self.values = np.lib.format.open_memmap(folder / "values.npy", mode="w+", dtype=dtype, shape=shape)
        else:  # an empty file cannot be mapped
            self.values = np.zeros(shape, dtype=dtype)
            np.save(folder / "values.npy", self.values)

    @classmethod
    def reopen(cls, folder: Path) -> RaggedWriter:
        """Goes on with a store that another writer has begun."""
        writer = cls.__new__(cls)
        writer.offsets = np.load(folder / "offsets.npy")
        mode = "r+" if writer.offsets[-1] else None
        writer.values = np.load(folder / "values.npy", mmap_mode=mode)
        return writer

    def write(self, row: int, values: np.ndarray) -> None:
        """Stores sequence `row`; `values` has exactly its length and the store's width."""
        start, stop = self.offsets[row], self.offsets[row + 1]
        if values.shape != (stop - start, self.values.shape[1]):
            raise ValueError(
                f"sequence {row}: shape {values.shape}; {(int(stop - start), self.values.shape[1])} expected"
            )
        self.values[start:stop] = values

    def write_many(self, rows: np.ndarray, values: np.ndarray) -> None:
        """Stores sequences `rows`, given end to end."""
        lengths = self.offsets[rows + 1] - self.offsets[rows]
        if values.shape != (lengths.sum(), self.values.shape[1]):
            raise ValueError(f"shape {values.shape}; {(int(lengths.sum()), self.values.shape[1])} expected")
        shift = self.offsets[rows] - (np.cumsum(lengths) - lengths)
        self.values[np.arange(len(values)) + np.repeat(shift, lengths)] = values
        self._let_go()

    def read(self, row: int) -> np.ndarray:
        """Sequence `row` as it is now."""
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def _let_go(self) -> None:
        """Lets the system take back the pages that were written, so that a store of any size needs little memory."""
        mapping = getattr(self.values, "_mmap", None)
        if mapping is not None and hasattr(mapping, "madvise"):
            # Of a shared mapping, dirty pages stay in the system's cache and reach the file as usual.
            mapping.madvise(mmap.MADV_DONTNEED)

    def close(self) -> None:
        """Flushes to disk."""
        if isinstance(self.values, np.memmap):
            self.values.flush()
