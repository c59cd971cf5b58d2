"""The data sets known by name, read by torchvision, and by scikit-learn for its embedded digits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from ibpc.data.arrays import KEYS, LAYOUT, UNREADABLE
from ibpc.data.images import Augmentation
from ibpc.errors import DataError, first_line

ROOT_VARIABLE: Final = "IBPC_DATA"
DIGITS: Final = "digits"
DIGITS_TRAINING: Final = 1297


@dataclass(frozen=True)
class KnownDataset:
    """A data set known by name: number of classes, shape (C, H, W), augmentation, and reader."""

    classes: int
    shape: tuple[int, int, int]
    augmentation: Augmentation
    read: Callable[[Path, bool], Mapping[str, Any]]


def _read_digits(root: Path, download: bool) -> Mapping[str, Any]:
    """Return scikit-learn's 1,797 digits of 8×8 pixels, scaled from 0…16 to [0, 1].

    The first 1,297 of a permutation by numpy's frozen generator RandomState(0) are for training, the other 500 for
    testing.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    images, labels = (digits.images / 16.0).astype(np.float32)[order], digits.target[order]
    split = DIGITS_TRAINING
    return dict(zip(KEYS, (images[:split], labels[:split], images[split:], labels[split:]), strict=True))


def _stored(dataset: Any) -> Any:
    return dataset.data


def _channels_last(dataset: Any) -> Any:
    return dataset.data.transpose(0, 2, 3, 1)


_BY_FLAG: Final = ({"train": True}, {"train": False})
_BY_NAME: Final = ({"split": "train"}, {"split": "test"})


def _torchvision(
    name: str,
    images: Callable[[Any], Any] = _stored,
    labels: str = "targets",
    parts: tuple[Mapping[str, Any], Mapping[str, Any]] = _BY_FLAG,
) -> Callable[[Path, bool], Mapping[str, Any]]:
    """Return the reader of a torchvision data set `name`.

    `images` returns its N×H×W(×C) pixels, `labels` is the name of its attribute, and `parts` are the arguments that
    select the training and the test split. (CIFAR's own files are pickles; torchvision opens them only if their MD5 is
    the known one.)
    """

    def read(root: Path, download: bool) -> Mapping[str, Any]:
        from torchvision import datasets

        kind = getattr(datasets, name)
        try:
            train, test = (kind(str(root), download=download, **part) for part in parts)
        except (*UNREADABLE, ImportError) as error:
            action = "cannot be downloaded" if download else "not found"
            raise DataError.at(
                f"data set {name}",
                f"{action}: {first_line(error)} (looked in {root} for {name.lower()}.npz and for torchvision's files)",
                LAYOUT,
                f"fetch it with --download, or point --data-root or {ROOT_VARIABLE} to it",
            ) from error
        values = (images(train), getattr(train, labels), images(test), getattr(test, labels))
        return dict(zip(KEYS, map(np.asarray, values), strict=True))

    return read


KNOWN: Final[Mapping[str, KnownDataset]] = MappingProxyType(
    {
        "mnist": KnownDataset(10, (1, 28, 28), Augmentation.NONE, _torchvision("MNIST")),
        "fashion-mnist": KnownDataset(10, (1, 28, 28), Augmentation.NONE, _torchvision("FashionMNIST")),
        "cifar10": KnownDataset(10, (3, 32, 32), Augmentation.CROP_FLIP, _torchvision("CIFAR10")),
        "cifar100": KnownDataset(100, (3, 32, 32), Augmentation.CROP_FLIP, _torchvision("CIFAR100")),
        "svhn": KnownDataset(
            10, (3, 32, 32), Augmentation.NONE, _torchvision("SVHN", _channels_last, "labels", _BY_NAME)
        ),
        DIGITS: KnownDataset(10, (1, 8, 8), Augmentation.NONE, _read_digits),
    }
)
