"""Films: size, crop, antialiasing, and files that cannot be read."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmark.data.films import decode, write_films


def save(path, width: int, height: int, seed: int = 0, mode: str = "L"):
    x, y = np.arange(width) / width, np.arange(height)[:, None] / height
    pixels = 127 + 120 * np.sin(7 * x + seed) * np.cos(5 * y)
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path, quality=95)
    return path


@pytest.mark.parametrize(
    ("width", "height", "mode"), [(2500, 3056, "L"), (600, 512, "RGB"), (256, 256, "L"), (90, 200, "L")]
)
def test_centre_of_the_film_at_256_pixels(tmp_path, width: int, height: int, mode: str):
    pixels = decode(save(tmp_path / "film.jpg", width, height, mode=mode))
    assert pixels.shape == (256, 256) and pixels.dtype == np.uint8
    scale = 256 / min(width, height)
    x, y = np.meshgrid(*((np.arange(256) + 0.5 - 128) / (scale * side) + 0.5 for side in (width, height)))
    expected = 127 + 120 * np.sin(7 * x) * np.cos(5 * y)
    assert np.abs(pixels - expected).mean() < 2.5


def test_fine_grain_is_averaged_not_sampled(tmp_path):
    board = (np.indices((2048, 2048)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    assert np.abs(decode(tmp_path / "board.png").astype(int) - 127).max() <= 2


def test_unreadable_films_are_marked_and_take_no_room(tmp_path):
    good = [save(tmp_path / f"{i}.jpg", 300, 280, seed=i) for i in range(3)]
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "cut.jpg").write_bytes(good[0].read_bytes()[:800])
    seen = []
    paths = [good[0], tmp_path / "text.jpg", good[1], tmp_path / "cut.jpg", tmp_path / "absent.jpg", good[2]]
    rows = write_films(paths, tmp_path / "out", progress=lambda *call: seen.append(call), threads=2)
    assert rows.tolist() == [0, -1, 1, -1, -1, 2]
    pixels = np.load(tmp_path / "out" / "films" / "pixels.npy", mmap_mode="r")
    assert pixels.shape == (3, 256, 256)
    for row, path in enumerate(good):
        np.testing.assert_array_equal(pixels[row], decode(path))
    assert seen[-1] == ("films", 6, 6)
    assert [path.name for path in (tmp_path / "out" / "films").iterdir()] == ["pixels.npy"]


def test_no_film_at_all(tmp_path):
    assert write_films([], tmp_path).shape == (0,)
    assert np.load(tmp_path / "films" / "pixels.npy").shape == (0, 256, 256)
