"""The composed affine map against its parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

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


def _places(settings: Augmentation, draws: np.ndarray) -> tuple[bool, np.ndarray]:
    """Whether one film is mirrored, and the 2 x 3 matrix from places in the result to places in the (mirrored) film."""
    flip, angle, right, down, size = draws
    radians, scale = np.deg2rad(settings.degrees * (2 * angle - 1)), 1 + settings.scale * (2 * size - 1)
    turn = scale * np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    shift = 256 * settings.shift * (2 * np.array([right, down]) - 1)
    back = np.linalg.inv(turn)
    return flip < settings.flip, np.column_stack([back, 128 - back @ (128 + shift)])


def _bilinear(film: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Brightness at places (x, y) by hand, black outside; pixel (0, 0) has its centre at (0.5, 0.5)."""
    padded = np.pad(film / 255.0, 1)
    x, y = np.clip(places + 0.5, 0, 257 - 1e-9)
    left, top = np.floor(x).astype(int), np.floor(y).astype(int)
    across, down = x - left, y - top
    upper = padded[top, left] * (1 - across) + padded[top, left + 1] * across
    lower = padded[top + 1, left] * (1 - across) + padded[top + 1, left + 1] * across
    return upper * (1 - down) + lower * down


def test_reference_is_the_sequence_of_flip_affine_map_and_crop_on_each_film() -> None:
    """Of grain, the hardest case, one or two pixels in a thousand come from a neighbour.

    Pillow's places have steps of 1/65536 of a pixel, which add up along a row.
    """
    settings, generator = AUGMENTATIONS["reference"], np.random.default_rng(1)
    films = generator.integers(0, 256, (16, 256, 256), dtype=np.uint8)
    draws = generator.random((16, 5))
    together = augment(torch.from_numpy(films), 224, settings, draws)
    differing = 0
    for film, own, result in zip(films, draws, together, strict=True):
        mirrored, matrix = _places(settings, own)
        image = Image.fromarray(film)
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else image
        moved = image.transform((256, 256), Image.Transform.AFFINE, matrix.ravel(), Image.Resampling.NEAREST)
        expected = np.asarray(moved.crop((16, 16, 240, 240)))
        differing += int((np.round(result.numpy() * 255) != expected).sum())
    assert differing < 0.003 * together.numel()


def test_mild_samples_between_pixels_as_by_hand() -> None:
    settings, generator = AUGMENTATIONS["mild"], np.random.default_rng(2)
    films, draws = _films(8).numpy(), generator.random((8, 5))
    together = augment(torch.from_numpy(films), 224, settings, draws)
    x, y = np.meshgrid(np.arange(16, 240) + 0.5, np.arange(16, 240) + 0.5)
    for film, own, result in zip(films, draws, together, strict=True):
        mirrored, matrix = _places(settings, own)
        assert not mirrored
        places = np.einsum("ij,jhw->ihw", matrix, np.stack([x, y, np.ones_like(x)]))
        np.testing.assert_allclose(result.numpy(), _bilinear(film, places), atol=1e-3)


def test_settings_are_the_published_ones_and_a_milder_form() -> None:
    assert AUGMENTATIONS["reference"] == Augmentation(0.5, 45.0, 0.15, 0.15, "nearest")
    assert (AUGMENTATIONS["mild"].flip, AUGMENTATIONS["mild"].degrees) == (0.0, 10.0)


def test_one_resampling_on_the_device_of_the_films(monkeypatch) -> None:
    """On the meta device nothing can be read back, so nothing leaves it."""
    calls, original = [], torch.nn.functional.grid_sample
    monkeypatch.setattr(
        torch.nn.functional, "grid_sample", lambda *args, **options: calls.append(1) or original(*args, **options)
    )
    films = torch.zeros(3, 256, 256, dtype=torch.uint8, device="meta")
    moved = augment(films, 224, AUGMENTATIONS["reference"], np.random.default_rng(0).random((3, 5)))
    assert moved.device.type == "meta" and moved.shape == (3, 224, 224) and calls == [1]
