"""One film: size, crop, antialiasing, the published way, and files that hold no film."""

from __future__ import annotations

import errno
import struct
import zlib
from io import BytesIO
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

import benchmark.data.films as films_module
from benchmark.data.films import BadFilm, decode, looks_whole
from benchmark.data.rules import Rules
from benchmark.errors import UserError

TWICE = Rules(film_pixels="twice")


def save(path: Path, width: int, height: int, seed: int = 0, mode: str = "L") -> Path:
    x, y = np.arange(width) / width, np.arange(height)[:, None] / height
    pixels = 127 + 120 * np.sin(7 * x + seed) * np.cos(5 * y)
    Image.fromarray(pixels.astype(np.uint8)).convert(mode).save(path, quality=95)
    return path


def jpeg() -> bytes:
    grain = np.random.default_rng(0).normal(127, 40, (600, 500)).clip(0, 255).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(grain).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


@pytest.mark.parametrize("rules", [Rules(), TWICE])
@pytest.mark.parametrize(
    ("width", "height", "mode"),
    [(2500, 3056, "L"), (600, 512, "RGB"), (256, 256, "L"), (90, 200, "L"), (600, 512, "CMYK")],
)
def test_centre_of_the_film_at_256_pixels(tmp_path, width: int, height: int, mode: str, rules: Rules) -> None:
    pixels = decode(save(tmp_path / "film.jpg", width, height, mode=mode), rules)
    assert pixels.shape == (256, 256) and pixels.dtype == np.uint8
    scale = 256 / min(width, height)
    x, y = np.meshgrid(*((np.arange(256) + 0.5 - 128) / (scale * side) + 0.5 for side in (width, height)))
    expected = 127 + 120 * np.sin(7 * x) * np.cos(5 * y)
    assert np.abs(pixels - expected).mean() < 2.5


def test_fine_grain_is_averaged_not_sampled(tmp_path) -> None:
    board = (np.indices((2048, 2048)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    assert np.abs(decode(tmp_path / "board.png").astype(int) - 127).max() <= 2


@pytest.mark.parametrize(("width", "height"), [(700, 851), (851, 700), (640, 640)])
def test_published_pixels_step_by_step(tmp_path, width: int, height: int) -> None:
    """The stored square, cropped in the middle, is the published crop to the pixel."""
    grain = np.random.default_rng(0).normal(127, 40, (height, width)).clip(0, 255).astype(np.uint8)
    Image.fromarray(grain).save(tmp_path / "film.jpg", quality=95)
    with Image.open(tmp_path / "film.jpg") as image:
        image.resize((512, int(float(height) * (512 / float(width))))).save(tmp_path / "wide.jpg")
    wide = Image.open(tmp_path / "wide.jpg").convert("RGB")
    across = 256 if wide.width <= wide.height else int(256 * wide.width / wide.height)
    down = 256 if wide.height <= wide.width else int(256 * wide.height / wide.width)
    small = wide.resize((across, down), Image.Resampling.BILINEAR)
    left, top = round((across - 224) / 2), round((down - 224) / 2)
    expected = np.asarray(small.crop((left, top, left + 224, top + 224)))[:, :, 0]
    np.testing.assert_array_equal(decode(tmp_path / "film.jpg", TWICE)[16:240, 16:240], expected)


@pytest.mark.parametrize("rules", [Rules(), TWICE])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: b"", "an empty file"),
        (lambda data: b"plain text", "no JPEG or PNG image"),
        (lambda data: data[:300], "no JPEG or PNG image|cut short|damaged"),
        (lambda data: data[: len(data) // 2], "cut short"),
        (lambda data: data[:-400], "cut short"),
        # a hole in the middle; the end mark is there
        (lambda data: data[:20_000] + data[30_000:], "its data end before its last row"),
        (lambda data: data[:20_000] + b"\xff\xd9", "its data end before its last row"),
    ],
)
def test_damaged_files_have_a_reason(tmp_path, damage, reason: str, rules: Rules) -> None:
    (tmp_path / "film.jpg").write_bytes(damage(jpeg()))
    with pytest.raises(BadFilm, match=reason) as raised:
        decode(tmp_path / "film.jpg", rules)
    assert str(tmp_path) not in str(raised.value)


def png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"IDAT" + zlib.compress(b"")
    chunks = [struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (chunk, data)]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png_header(60_000, 60_000), "far too many pixels"),
        (png_header(10_000, 9_000), "far too many pixels"),
        (png_header(9_000, 8_900), r"9000 x 8900 pixels; at most 80,000,000"),
        (png_header(3_000, 40), "sides of 3000 x 40 pixels"),
        (png_header(20, 20), "sides of 20 x 20 pixels"),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_decoded(
    tmp_path, monkeypatch, content: bytes, reason: str
) -> None:
    monkeypatch.setattr(films_module, "_grey", lambda _: pytest.fail("decoded"))
    (tmp_path / "film.jpg").write_bytes(content)
    with pytest.raises(BadFilm, match=reason):
        decode(tmp_path / "film.jpg")


def test_other_formats_and_sixteen_bits_are_refused(tmp_path) -> None:
    Image.fromarray(np.arange(90_000, dtype=np.uint16).reshape(300, 300)).save(tmp_path / "deep.png")
    with pytest.raises(BadFilm, match="pixels of kind I;16; at most 8 bits"):
        decode(tmp_path / "deep.png")
    Image.new("L", (300, 300)).save(tmp_path / "film.jpg", "GIF")
    with pytest.raises(BadFilm, match="no JPEG or PNG image"):
        decode(tmp_path / "film.jpg")
    with pytest.raises(BadFilm, match="no such file"):
        decode(tmp_path / "absent.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with pytest.raises(BadFilm, match="Is a directory"):
        decode(tmp_path / "folder.jpg")


def test_a_disk_that_fails_is_no_fault_of_the_film(tmp_path, monkeypatch) -> None:
    """As a film that cannot be used it would leave the data set for good."""
    Image.new("L", (300, 300)).save(tmp_path / "film.jpg")
    for error in (OSError(errno.EIO, "Input/output error"), PermissionError(errno.EACCES, "Permission denied")):
        for reader in (decode, looks_whole):
            with (
                monkeypatch.context() as patch,
                pytest.raises(UserError, match=f"film.jpg cannot be .* {error.strerror}"),
            ):
                patch.setattr(Path, "open", Mock(side_effect=error))
                patch.setattr(Path, "read_bytes", Mock(side_effect=error))
                reader(tmp_path / "film.jpg")


def test_an_even_film_is_not_taken_for_one_without_data(tmp_path) -> None:
    Image.new("L", (300, 300), 128).save(tmp_path / "even.jpg")
    assert (decode(tmp_path / "even.jpg") == 128).all()


def test_a_file_cut_short_does_not_look_whole(tmp_path) -> None:
    (tmp_path / "whole.jpg").write_bytes(jpeg())
    (tmp_path / "cut.jpg").write_bytes(jpeg()[:-100])
    (tmp_path / "text.jpg").write_text("no image")
    assert [looks_whole(tmp_path / f"{name}.jpg") for name in ("whole", "cut", "text", "absent")] == [True] + [
        False
    ] * 3
