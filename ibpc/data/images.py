"""Batches of images: as floats in [0, 1], in the layout of a network's input, augmented on their device."""

from __future__ import annotations

from enum import Enum
from math import prod, radians
from typing import Final

import torch

from ibpc.errors import DataError

CROP_PADDING: Final = 4
EDGE_PADDING: Final = 2
SHIFT_PIXELS: Final = 1
ROTATION_DEGREES: Final = 10.0
ZOOM: Final = 0.1
SHEAR: Final = 0.1
WAVE_PIXELS: Final = 0.5
_WAVE_KNOTS: Final = 6


class Augmentation(Enum):
    """The random changes to the images of a training batch."""

    NONE = "none"
    SHIFT = "shift"
    CROP_FLIP = "crop-flip"
    CROP_EDGE_FLIP = "crop-edge-flip"
    DISTORT = "distort"


def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as float32 in [0, 1]; floats pass unchanged."""
    return images.float() / 255.0 if images.dtype == torch.uint8 else images


def fit_images(images: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return images (B, C, H, W) in the layout of a network's input: unchanged, flat, or channels last.

    Raises DataError if none of these has the shape.
    """
    given = tuple(images.shape[1:])
    if given == shape:
        return images
    if len(given) == 3 and shape == (*given[1:], given[0]):
        return images.permute(0, 2, 3, 1).contiguous()
    is_flat = sum(size != 1 for size in shape) <= 1 or (len(given) == 3 and given[0] == 1)
    if is_flat and prod(given) == prod(shape):
        return images.reshape(-1, *shape)
    raise DataError.at("data", f"images of shape {given}", f"{shape}, the network's input")


# ── augmentation ────────────────────────────────────────────────────────────────────────────────────────────────
def augment(images: torch.Tensor, kind: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Return the images (B, C, H, W) augmented, with random numbers from a generator on their device."""
    if kind is Augmentation.NONE:
        return images
    if kind is Augmentation.SHIFT:
        return shift(images, SHIFT_PIXELS, generator)
    if kind is Augmentation.DISTORT:
        return distort(to_unit(images), generator)
    if kind is Augmentation.CROP_EDGE_FLIP:
        return crop_and_flip(images, EDGE_PADDING, generator, "replicate")
    return crop_and_flip(images, CROP_PADDING, generator)


def shift(images: torch.Tensor, pixels: int, generator: torch.Generator) -> torch.Tensor:
    """Return each image (C, H, W) shifted by up to `pixels` in each direction, with black coming in.

    Every image has its own shift, uniform over the (2 · pixels + 1)² possible ones.
    """
    height, width = images.shape[2:]
    row, column = _offsets(images, pixels, generator)
    rows = row + torch.arange(height, device=images.device)
    columns = column + torch.arange(width, device=images.device)
    return _gathered(images, pixels, rows, columns)


def crop_and_flip(
    images: torch.Tensor, padding: int, generator: torch.Generator, mode: str = "constant"
) -> torch.Tensor:
    """Return a random crop of each image (C, H, W) padded by `padding` pixels, flipped with probability 1/2.

    The padding is black, or repeats the border in the mode "replicate" of `torch.nn.functional.pad`.

    Every image has its own offset, uniform over the (2 · padding + 1)² crops, and its own coin. One gather does all:
    output[b, c, i, j] = padded[b, c, row_b + i, column_b + j], with columns reversed where the image is flipped.
    """
    height, width = images.shape[2:]
    row, column = _offsets(images, padding, generator)
    coin = torch.randint(0, 2, (len(images), 1), generator=generator, device=images.device) == 1
    forward = torch.arange(width, device=images.device)
    rows = row + torch.arange(height, device=images.device)
    columns = column + torch.where(coin, width - 1 - forward, forward)
    return _gathered(images, padding, rows, columns, mode)


def distort(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return each image (C, H, W) of floats slightly rotated, zoomed, sheared, shifted and elastically distorted.

    Pixels from outside the image are black. Every image has its own affine map, uniform within the constants above, and
    its own elastic map: normal displacements on a coarse grid, smoothly interpolated (Simard et al. 2003).
    """
    field = torch.nn.functional.affine_grid(_affine(images, generator), list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, field + _waves(images, generator), align_corners=False)


def _affine(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return random affine maps (B, 2, 3) of coordinates that range from −1 to 1 across an image."""
    draws = 2 * torch.rand(6, len(images), generator=generator, device=images.device) - 1
    angle, shear = radians(ROTATION_DEGREES) * draws[0], SHEAR * draws[1]
    wide, high = 1 + ZOOM * draws[2], 1 + ZOOM * draws[3]
    row, column = (2 * SHIFT_PIXELS * draws[4 + axis] / images.shape[2 + axis] for axis in (0, 1))
    first = torch.stack([wide * angle.cos(), shear - high * angle.sin(), column], dim=1)
    second = torch.stack([wide * angle.sin(), high * angle.cos(), row], dim=1)
    return torch.stack([first, second], dim=1)


def _waves(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return smooth random displacements (B, H, W, 2) in the same coordinates."""
    size = (len(images), 2, _WAVE_KNOTS, _WAVE_KNOTS)
    knots = torch.randn(size, generator=generator, device=images.device)
    waves = torch.nn.functional.interpolate(knots, images.shape[2:], mode="bicubic", align_corners=True)
    pixel = torch.tensor([2 / images.shape[3], 2 / images.shape[2]], device=images.device)
    return WAVE_PIXELS * waves.movedim(1, -1) * pixel


def _offsets(images: torch.Tensor, padding: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first row and column (B, 1) of a random window into each padded image."""
    size = (2, len(images), 1)
    row, column = torch.randint(0, 2 * padding + 1, size, generator=generator, device=images.device)
    return row, column


def _gathered(
    images: torch.Tensor, padding: int, rows: torch.Tensor, columns: torch.Tensor, mode: str = "constant"
) -> torch.Tensor:
    """Return the rows (B, H) and columns (B, W) of the images padded by `padding` pixels, in one gather."""
    padded = _padded(images, padding, mode)
    sample = torch.arange(len(images), device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[:, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _padded(images: torch.Tensor, padding: int, mode: str) -> torch.Tensor:
    """Return the images (B, C, H, W) padded on all sides; torch replicates floats only."""
    if mode == "constant" or images.is_floating_point():
        return torch.nn.functional.pad(images, [padding] * 4, mode=mode)
    return torch.nn.functional.pad(images.float(), [padding] * 4, mode=mode).to(images.dtype)
