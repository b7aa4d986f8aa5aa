"""Drawings that stand for chest films: lungs, heart, ribs and the findings at their usual places, as 8-bit grey JPEG.

Not meant to fool a radiologist. What matters is that each finding changes a limited region in its own way, in
proportion to its strength, on films that vary in position, size, exposure and noise.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image as Pictures

from benchmark.simulation import tables

HEIGHT, WIDTH = 368, 336
_COARSE = 2  # drawn at half the size, then enlarged: soft edges and a quarter of the work
_QUALITY = 85


def draw_film(view: str, strength: np.ndarray, random: np.random.Generator) -> bytes:
    """Return the JPEG of one film.

    Args:
        view: AP, PA, LATERAL or blank.
        strength: (14,) of the study; see ``radiology.Study``.
        random: the film's own stream.
    """
    marked = np.clip(0.5 + 0.55 * strength, 0.0, 1.6)
    amount = dict(zip(tables.linear("findings").names, marked, strict=True))
    x, y = _grid(random)
    shade = _lateral(x, y, amount) if view == "LATERAL" else _frontal(x, y, amount, random)
    size = (HEIGHT // _COARSE, WIDTH // _COARSE)
    cloud = random.standard_normal((6, 6)).astype(np.float32)
    shade = shade + 0.02 * np.asarray(Pictures.fromarray(cloud).resize(size[::-1], Pictures.Resampling.BICUBIC))
    shade = 0.5 + (shade - 0.5) * random.uniform(0.92, 1.08) + random.uniform(-0.04, 0.04)
    picture = np.asarray(
        Pictures.fromarray(shade.astype(np.float32)).resize((WIDTH, HEIGHT), Pictures.Resampling.BILINEAR)
    )
    grain = random.integers(-6, 7, (HEIGHT, WIDTH), dtype=np.int16)
    pixels = np.clip(picture * 255 + grain, 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Pictures.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()


def _grid(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates from -1 to 1, slightly shifted and scaled: no two patients stand alike."""
    rows, columns = HEIGHT // _COARSE, WIDTH // _COARSE
    shift, scale = random.uniform(-0.04, 0.04, 2), random.uniform(0.96, 1.05, 2)
    x = (np.linspace(-1, 1, columns, dtype=np.float32) * np.float32(scale[0]) + np.float32(shift[0]))[None, :]
    y = (np.linspace(-1, 1, rows, dtype=np.float32) * np.float32(scale[1]) + np.float32(shift[1]))[:, None]
    return x, y


def _spot(x: np.ndarray, y: np.ndarray, at: tuple[float, float], size: tuple[float, float]) -> np.ndarray:
    """A Gaussian spot; the two axes are drawn apart and multiplied."""
    return np.exp(-(((x - at[0]) / size[0]) ** 2)) * np.exp(-(((y - at[1]) / size[1]) ** 2))


def _ellipse(
    x: np.ndarray, y: np.ndarray, at: tuple[float, float], size: tuple[float, float], edge: float = 0.12
) -> np.ndarray:
    """A filled ellipse with a soft edge."""
    distance = ((x - at[0]) / size[0]) ** 2 + ((y - at[1]) / size[1]) ** 2
    return np.clip((1 - distance) / edge * 0.5 + 0.5, 0, 1)


def _frontal(x: np.ndarray, y: np.ndarray, amount: dict[str, float], random: np.random.Generator) -> np.ndarray:
    """The chest from the front. The patient's left is on the right of the picture."""
    body = _ellipse(x, y, (0, 0.45), (1.08, 1.5), 0.3)
    right = _ellipse(x, y, (-0.42, -0.10), (0.32, 0.64)) * _edge(0.42 - 0.5 * (x + 0.40) ** 2 - y)
    left = _ellipse(x, y, (0.42, -0.10), (0.31, 0.64)) * _edge(0.50 - 0.5 * (x - 0.45) ** 2 - y)
    lungs = np.maximum(right, left)
    shade = 0.05 + 0.52 * body - 0.34 * lungs
    arcs = np.cos(17 * (y - 0.45 * x * x) + random.uniform(-0.5, 0.5))
    ribs = 0.05 * np.maximum(arcs, 0) * np.maximum(lungs, 0.5 * body)
    collar = 0.10 * _edge(0.035 - np.abs(y + 0.80 - 0.12 * np.abs(x))) * _edge(np.abs(x) - 0.12)
    centre = 0.24 * _spot(x, y, (0, 0), (0.14, 2.0))
    heart = _ellipse(
        x, y, (0.10 + 0.07 * amount["Cardiomegaly"], 0.25), (0.20 + 0.17 * amount["Cardiomegaly"], 0.27), 0.3
    )
    shade = shade + ribs + collar + centre
    shade = shade + heart * np.maximum(0.60 - shade, 0)
    return shade + _findings(x, y, amount, random)


def _edge(distance: np.ndarray) -> np.ndarray:
    """1 where the distance is positive, 0 where negative, soft between."""
    return np.clip(0.5 + distance / 0.05, 0, 1)


def _findings(x: np.ndarray, y: np.ndarray, amount: dict[str, float], random: np.random.Generator) -> np.ndarray:
    """What each finding but the large heart adds to the picture."""
    right, left = random.uniform(0.7, 1.0, 2)
    added = 0.30 * amount["Enlarged Cardiomediastinum"] * _spot(x, y, (0, -0.42), (0.30, 0.22))
    angles = right * _spot(x, y, (-0.62, 0.52), (0.20, 0.24)) + left * _spot(x, y, (0.64, 0.52), (0.18, 0.24))
    added = added + 0.42 * amount["Pleural Effusion"] * angles
    hila = _spot(x, y, (-0.26, -0.02), (0.16, 0.26)) + _spot(x, y, (0.28, -0.10), (0.14, 0.22))
    added += 0.28 * amount["Edema"] * hila
    added += 0.34 * amount["Consolidation"] * _spot(x, y, (-0.42, 0.24), (0.17, 0.13))
    added += 0.28 * amount["Lung Opacity"] * _spot(x, y, (0.48, -0.30), (0.18, 0.20))
    added += 0.32 * amount["Pneumonia"] * _spot(x, y, (-0.52, -0.08), (0.13, 0.14))
    added += 0.30 * amount["Atelectasis"] * _spot(x, y, (0.50, 0.30), (0.20, 0.06))
    added += 0.38 * amount["Lung Lesion"] * _spot(x, y, (-0.40, -0.38), (0.09, 0.09))
    added += 0.32 * amount["Pleural Other"] * _spot(x, y, (0.74, 0.05), (0.06, 0.35))
    added += 0.38 * amount["Fracture"] * _spot(x, y, (-0.74, -0.20), (0.10, 0.10))
    air = _spot(x, y, (0.40, -0.60), (0.22, 0.12))
    added -= 0.30 * amount["Pneumothorax"] * air
    device = amount["Support Devices"]
    line = _spot(x, y, (0.02, -0.75), (0.025, 0.32)) + _spot(x, y, (-0.16, -0.45), (0.025, 0.35))
    leads = _spot(x, y, (-0.62, -0.78), (0.05, 0.05)) + _spot(x, y, (0.66, -0.78), (0.05, 0.05))
    return added + 0.40 * device * (line + leads)


def _lateral(x: np.ndarray, y: np.ndarray, amount: dict[str, float]) -> np.ndarray:
    body = _ellipse(x, y, (0, 0.2), (0.8, 1.3), 0.3)
    lung = _ellipse(x, y, (0.05, -0.1), (0.55, 0.65), 0.3)
    heart = _ellipse(x, y, (-0.25, 0.3), (0.22 + 0.1 * amount["Cardiomegaly"], 0.25))
    spine = _spot(x, y, (0.62, 0.1), (0.12, 2.0))
    return (
        0.06
        + 0.5 * body
        - 0.3 * lung
        + 0.25 * heart
        + 0.2 * spine
        + 0.3 * amount["Pleural Effusion"] * _spot(x, y, (0.4, 0.5), (0.15, 0.15))
    )
