"""A data set in memory: labeled images for training and for testing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

from ibpc.data.images import Augmentation, to_unit
from ibpc.errors import DataError

VALIDATION_IMAGES: Final = 5000


@dataclass(frozen=True, eq=False)
class Split:
    """Images (N, C, H, W), uint8 or float32 in [0, 1], with labels (N,), int64."""

    images: torch.Tensor
    labels: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: torch.Tensor) -> Split:
        """Return the samples of an index (M,), int64."""
        return Split(self.images[index], self.labels[index])

    def to(self, device: torch.device | str) -> Split:
        """Return the split on a device."""
        return Split(self.images.to(device), self.labels.to(device))

    def floats(self) -> torch.Tensor:
        """Return all images as float32 in [0, 1]."""
        return to_unit(self.images)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set of `classes` classes, with the SHA-256 of its tensors and the augmentation that suits its images.

    The training split is empty where only test images are known, which is enough to certify.
    """

    name: str
    train: Split
    test: Split
    classes: int
    sha256: str
    augmentation: Augmentation = Augmentation.NONE

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of one image."""
        return tuple(self.test.images.shape[1:])

    def held_out(self, images: int | None) -> int:
        """Return how many images `hold_out` takes away."""
        return min(VALIDATION_IMAGES, len(self.train) // 10) if images is None else images

    def hold_out(self, images: int | None, seed: int) -> tuple[Split, Split]:
        """Return the training split without a random `images` of its samples, drawn with `seed`, and these samples.

        None holds out 5,000 images, or a tenth of a small set. Raises DataError unless images of two classes are there,
        and some are left to train on.
        """
        where = f"data set {self.name}"
        if not len(self.train):
            remedy = "x_train and y_train beside the test images, or a folder train/"
            raise DataError.at(where, "it has no training images", "images and labels to train on", remedy)
        if bool((self.train.labels == self.train.labels[0]).all()):
            raise DataError.at(where, "training labels of one class only", "at least two classes")
        images = self.held_out(images)
        if not 0 <= images < len(self.train):
            raise DataError.at(
                where,
                f"{images} of {len(self.train)} training images to hold out",
                f"0 to {len(self.train) - 1}",
            )
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        held, kept = order[:images].sort().values, order[images:].sort().values
        return self.train.take(kept), self.train.take(held)


def evenly(count: int, total: int) -> list[int]:
    """Return `count` indices, at most `total`, spread evenly over `total`, as a test split may be sorted by class."""
    count = min(count, total)
    return [number * total // count for number in range(count)]
