"""Films from the 256-pixel store to model input: one crop in evaluation, one composed affine map in training."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from models.layout import on_device

STORE_SIDE = 256
CROP = 7 / 8
"""Side of the centre crop in parts of the stored side: 224 of 256 pixels."""

DRAWS = 5
"""Uniform random numbers that one film uses: flip, angle, two shifts, scale."""


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random map of a training film (rotation, then scale, then shift, about the film's centre).

    Attributes:
        flip: probability of a horizontal flip. degrees: rotation uniform in +-degrees.
        shift: uniform in +-shift of the stored side, each axis. scale: uniform in 1 +- scale.
        resampling: "bilinear" or "nearest".
    """

    flip: float
    degrees: float
    shift: float
    scale: float
    resampling: str


AUGMENTATIONS: dict[str, Augmentation | None] = {
    "none": None,
    # Laterality carries meaning on a chest film, and films are never taken at 45 degrees.
    "mild": Augmentation(flip=0.0, degrees=10.0, shift=0.15, scale=0.15, resampling="bilinear"),
    # What the authors of FlexCare used, but for two details: their shift is a part of each side of the uncut film, in
    # whole pixels, and what it moves into view from beyond the stored square is black here.
    "reference": Augmentation(flip=0.5, degrees=45.0, shift=0.15, scale=0.15, resampling="nearest"),
}


def shrinks(film: int) -> bool:
    """Whether films of `film` pixels a side are reduced, not only cut."""
    return round(film / CROP) != STORE_SIDE


def to_unit(stored: Tensor, film: int) -> Tensor:
    """Stored films (n, 256, 256) uint8 -> float in [0, 1], reduced so that the centre crop has `film` pixels a side."""
    grey = stored.to(torch.float32).div_(255.0)
    if not shrinks(film):
        return grey
    side = round(film / CROP)
    if STORE_SIDE % side == 0:  # the same means, several times faster
        return F.avg_pool2d(grey, STORE_SIDE // side)
    return F.interpolate(grey[:, None], size=(side, side), mode="area")[:, 0]


def crop(stored: Tensor, film: int) -> Tensor:
    """The centre crop of stored films (n, 256, 256) uint8 -> (n, film, film) in [0, 1]."""
    grey = to_unit(stored, film)
    start = (grey.shape[-1] - film) // 2
    return grey[:, start : start + film, start : start + film].contiguous()


def augment(stored: Tensor, film: int, settings: Augmentation, draws: np.ndarray) -> Tensor:
    """Flip, affine map and centre crop in one resampling; outside the film is black.

    Args:
        stored: (n, 256, 256) uint8. film: side of the result.
        draws: (n, DRAWS) uniform numbers in [0, 1), the films' own random streams.

    Returns:
        (n, film, film) in [0, 1].
    """
    return resample(stored, film, settings, on_device(affine_maps(settings, draws), stored.device))


def affine_maps(settings: Augmentation, draws: np.ndarray) -> np.ndarray:
    """The maps of films as `affine_grid` takes them, from draws (..., DRAWS): (..., 2, 3) float32."""
    flip, angle, right, down, size = np.moveaxis(draws, -1, 0)
    centred = 2.0 * np.stack([angle, right, down, size]) - 1.0
    radians = np.deg2rad(settings.degrees) * centred[0]
    shift = 2.0 * settings.shift * centred[1:3]  # in half sides, the unit of grid_sample
    scale = 1.0 + settings.scale * centred[3]
    mirror = np.where(flip < settings.flip, -1.0, 1.0)
    cosine, sine = np.cos(radians) / scale, np.sin(radians) / scale
    # Output pixel -> input pixel: undo the shift, then rotation and scale, then the flip.
    rows = np.stack(
        [
            np.stack(
                [mirror * cosine * CROP, mirror * sine * CROP, -mirror * (cosine * shift[0] + sine * shift[1])], -1
            ),
            np.stack([-sine * CROP, cosine * CROP, sine * shift[0] - cosine * shift[1]], -1),
        ],
        axis=-2,
    )
    return rows.astype(np.float32)


def resample(stored: Tensor, film: int, settings: Augmentation, maps: Tensor) -> Tensor:
    """As `augment`, given the films' maps (n, 2, 3) on their device."""
    grey = to_unit(stored, film)
    grid = F.affine_grid(maps, [len(grey), 1, film, film], align_corners=False)
    return F.grid_sample(grey[:, None], grid, mode=settings.resampling, padding_mode="zeros", align_corners=False)[:, 0]
