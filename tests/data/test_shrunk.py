"""Films that are shrunk once: the same pixels as those shrunk in each batch, and never those of another file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.data import shrunk
from benchmark.data.augmentation import crop


def _store(file: Path, seed: int) -> np.ndarray:
    films = np.random.default_rng(seed).integers(0, 256, (5, 256, 256), np.uint8)
    aside = file.with_suffix(".part.npy")
    np.save(aside, films)
    aside.replace(file)
    return films


def test_pixels_are_those_of_the_crop_whenever_and_in_whatever_company_they_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "pixels.npy"
    films = _store(file, 0)
    expected = crop(torch.from_numpy(films), 96)
    for rows in ([3], [4, 3, 4], [0, 1, 2, 3, 4]):
        assert torch.equal(shrunk.shrunk_films(file, 96).take(np.array(rows)), expected[rows])
    other = _store(file, 1)
    assert torch.equal(shrunk.shrunk_films(file, 96).take(np.array([0])), crop(torch.from_numpy(other[:1]), 96))


def test_none_are_kept_at_the_stored_size_or_beyond_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "pixels.npy"
    _store(file, 0)
    assert shrunk.shrunk_films(file, 224) is None
    monkeypatch.setattr(shrunk, "MOST_BYTES", 5 * 96 * 96 * 4 - 1)
    assert shrunk.shrunk_films(file, 96) is None
