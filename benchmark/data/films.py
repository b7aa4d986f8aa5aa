"""One chest film: from a JPEG of any size to 256 x 256 grey pixels, or the reason why not.

The shorter side becomes 256 pixels with the aspect ratio kept, and the centre 256 x 256 pixels are what is stored. JPEG
files are decoded at reduced size where that is enough, then resampled with antialiasing.

What is found out about a damaged file: that it is no image, that it was cut short, that data are missing before its
end mark, and, where its checksum is known, any change at all. The decoder says nothing of bytes that were changed
inside a JPEG: they show as wrong pixels, which only the checksum reveals.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from benchmark.data.rules import Rules
from benchmark.errors import UserError

SIDE = 256
"""Height and width of a stored film."""

MOST_PIXELS = 80_000_000
"""A film has about 8 million pixels; far more are a mistake, and could fill the memory."""

LEAST_SIDE, MOST_ELONGATED = 32, 5
"""A picture with a shorter side in pixels, or a larger ratio of its sides, is no film."""

WRONG_SUM = "its checksum is not the published one"

_FORMATS = ("JPEG", "PNG")
_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK")
"""Kinds of pixels with at most eight bits a channel, by the names of Pillow."""

_WIDTH, _CROP = 512, 224

_END_OF_JPEG, _TAIL = b"\xff\xd9", 64

_NOT_DECODED = 128
"""The grey of a block that no data came for: all coefficients zero."""

_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
"""What Pillow raises for files that it cannot read."""


class BadFilm(Exception):
    """A film that cannot be used; the text is the reason, without the file's name."""


def decode(path: Path, rules: Rules = Rules(), sha256: str | None = None) -> np.ndarray:
    """One film as (256, 256) uint8.

    Args:
        rules: `film_pixels`. sha256: checksum that the file must have, if it is known.

    Raises:
        BadFilm: the file is missing, damaged, or holds no film.
        UserError: a disk, a network or a right stands in the way, which says nothing about the film.
    """
    try:
        data = path.read_bytes()
        if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
            raise BadFilm(WRONG_SUM)
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            _require_film(image)
            return _twice(image) if rules.film_pixels == "twice" else _once(image)
    except _UNREADABLE as fault:
        _require_own_fault(fault, path)
        raise BadFilm(_reason(fault, path)) from fault


def looks_whole(path: Path) -> bool:
    """Whether a file begins and ends like a whole image; its pixels are not decoded.

    A file cut short while it was copied lacks the end mark of a JPEG.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.format != "JPEG":
                return True
        with path.open("rb") as file:
            file.seek(-min(_TAIL, path.stat().st_size), os.SEEK_END)
            return _END_OF_JPEG in file.read()
    except _UNREADABLE as fault:
        _require_own_fault(fault, path)
        return False


def _require_own_fault(fault: Exception, path: Path) -> None:
    """A file that could be read another time must not cost the film its place in the data set."""
    of_the_system = isinstance(fault, OSError) and fault.errno is not None
    if of_the_system and not isinstance(fault, (FileNotFoundError, IsADirectoryError)):
        raise UserError(f"{path} cannot be read: {fault.strerror}; once it can be, call again") from fault


def _require_film(image: Image.Image) -> None:
    width, height = image.size
    if image.mode not in _MODES:
        raise BadFilm(f"pixels of kind {image.mode}; at most 8 bits a channel are allowed")
    if width * height > MOST_PIXELS:
        raise BadFilm(f"{width} x {height} pixels; at most {MOST_PIXELS:,} are allowed")
    if min(width, height) < LEAST_SIDE or max(width, height) > MOST_ELONGATED * min(width, height):
        raise BadFilm(f"sides of {width} x {height} pixels are not those of a film")


def _once(image: Image.Image) -> np.ndarray:
    """Straight from the original, by the centre square of its shorter side."""
    scale = SIDE / min(image.size)
    # Decode at twice the final size or more, so that the final, better resampling still does the last step.
    image.draft("L", (round(2 * scale * image.width), round(2 * scale * image.height)))
    grey = _grey(image)
    side = min(grey.size)
    left, top = (grey.width - side) / 2, (grey.height - side) / 2
    box = (left, top, left + side, top + side)
    return np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0))


def _twice(image: Image.Image) -> np.ndarray:
    """As published: to a width of 512 as a JPEG of its own, and from there.

    The centre is where the published crop of 224 pixels has it; the rest of the longer side, which a published film can
    still turn or shift into view in training, is not stored.
    """
    _grey(image)  # for what it finds out
    wide = image.resize((_WIDTH, int(image.height * (_WIDTH / image.width))))
    buffer = BytesIO()
    wide.save(buffer, "JPEG")
    with Image.open(buffer) as again:
        grey = again.convert("L")
    short, long = min(grey.size), max(grey.size)
    length = int(SIDE * long / short)
    start = min(max(round((length - _CROP) / 2) - (SIDE - _CROP) // 2, 0), length - SIDE)
    if grey.width < grey.height:
        small, corner = grey.resize((SIDE, length), Image.Resampling.BILINEAR), (0, start)
    else:
        small, corner = grey.resize((length, SIDE), Image.Resampling.BILINEAR), (start, 0)
    return np.asarray(small.crop((*corner, corner[0] + SIDE, corner[1] + SIDE)))


def _grey(image: Image.Image) -> Image.Image:
    """The decoded image in grey; refuses a JPEG whose data end long before its pixels do.

    The decoder fills what is missing with one grey and says nothing.
    """
    image.load()
    grey = image.convert("L")
    if image.format == "JPEG":
        last = np.asarray(grey.crop((grey.width * 3 // 4, grey.height - 1, grey.width, grey.height)))
        low, high = grey.getextrema()
        if (last == _NOT_DECODED).all() and low != high:
            raise BadFilm("damaged: its data end before its last row")
    return grey


def _reason(fault: Exception, path: Path) -> str:
    """Why a file cannot be read, without its name."""
    if isinstance(fault, FileNotFoundError):
        return "no such file"
    if isinstance(fault, UnidentifiedImageError):
        return "no JPEG or PNG image" if path.stat().st_size else "an empty file"
    if isinstance(fault, OSError) and fault.strerror:
        return fault.strerror
    if isinstance(fault, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return f"far too many pixels; at most {MOST_PIXELS:,} are allowed"
    if "truncated" in str(fault):
        return "cut short"
    return f"damaged: {fault}"
