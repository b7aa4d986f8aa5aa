"""The composed affine map against its parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark.data.augmentation import AUGMENTATIONS, Augmentation, augment, crop

STILL = Augmentation(flip=0.0, degrees=0.0, shift=0.0, scale=0.0, resampling="bilinear")


def _films(n: int = 2) -> torch.Tensor:
    smooth = torch.nn.functional.interpolate(
        torch.rand(n, 1, 16, 16, generator=torch.Generator().manual_seed(0)), size=(256, 256), mode="bicubic"
    )
    return (smooth[:, 0].clamp(0, 1) * 255).to(torch.uint8)


@pytest.mark.parametrize("film", [224, 112])
def test_no_movement_is_the_centre_crop(film: int) -> None:
    films, draws = _films(), np.full((2, 5), 0.5)
    torch.testing.assert_close(augment(films, film, STILL, draws), crop(films, film), atol=1e-4, rtol=0)


def test_crop_keeps_the_middle_of_the_store() -> None:
    films = _films()
    assert torch.equal(crop(films, 224), films[:, 16:240, 16:240] / 255)


def test_flip_mirrors_and_shift_moves_to_the_right_and_down() -> None:
    films = _films()
    flipped = augment(films, 224, Augmentation(1.0, 0.0, 0.0, 0.0, "bilinear"), np.full((2, 5), 0.5))
    torch.testing.assert_close(flipped, crop(films, 224).flip(-1), atol=1e-4, rtol=0)
    draws = np.array([[0.5, 0.5, 1.0, 0.75, 0.5]] * 2)  # right by the whole range, down by half of it
    moved = augment(films, 224, Augmentation(0.0, 0.0, 8 / 256, 0.0, "bilinear"), draws)
    expected = films[:, 12:236, 8:232] / 255
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)


def test_quarter_turn_and_enlargement() -> None:
    films = _films()
    turned = augment(
        films, 224, Augmentation(0.0, 90.0, 0.0, 0.0, "bilinear"), np.array([[0.5, 1.0, 0.5, 0.5, 0.5]] * 2)
    )
    torch.testing.assert_close(turned, crop(films, 224).rot90(-1, (1, 2)), atol=1e-4, rtol=0)
    enlarged = augment(
        films, 224, Augmentation(0.0, 0.0, 0.0, 1.0, "nearest"), np.array([[0.5, 0.5, 0.5, 0.5, 1.0]] * 2)
    )
    assert torch.equal(enlarged[:, 0::2, 0::2], films[:, 72:184, 72:184] / 255)


@pytest.mark.parametrize("name", ["mild", "reference"])
def test_what_lies_outside_the_film_is_black_and_values_stay_in_range(name: str) -> None:
    bright = torch.full((64, 256, 256), 255, dtype=torch.uint8)
    moved = augment(bright, 224, AUGMENTATIONS[name], np.random.default_rng(0).random((64, 5)))
    assert moved.min() == 0.0
    assert moved.max() <= 1.0
    assert moved.mean() > 0.7
