"""From arrays to a data set, after checking them; all problems are reported at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch

from ibpc.data.datasets import Dataset, Split
from ibpc.data.images import Augmentation
from ibpc.data.known import KnownDataset
from ibpc.errors import DataError, Problem, raise_all

_MOST_LABELS: Final = 2**31
_REMEDY: Final = "give pixels in [0, 1], put the normalization into the network: --mean and --std, or ibpc.normalized"
_PARTS: Final = "x_test and y_test, and both x_train and y_train for training"
_LABELS: Final = f"labels from 0 to {_MOST_LABELS - 1:,}"


def dataset_of(title: str, where: str, arrays: Mapping[str, Any], known: KnownDataset | None) -> Dataset:
    """Return the data set of arrays; `where` names them in errors. Raises DataError with everything that is wrong.

    Without `x_train` and `y_train` its training split is empty.
    """
    splits = ("train", "test") if {"x_train", "y_train"} & arrays.keys() else ("test",)
    raise_all(DataError, _missing(where, splits, arrays))
    raise_all(DataError, [problem for split in splits for problem in _split_problems(where, split, arrays)])
    *trained, test = (_split(arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in splits)
    train = trained[0] if trained else Split(test.images[:0], test.labels[:0])
    classes = known.classes if known else int(torch.cat([train.labels, test.labels]).max()) + 1
    raise_all(DataError, _joint_problems(where, train, test, classes, known))
    augmentation = known.augmentation if known else Augmentation.NONE
    return Dataset(title, train, test, classes, _sha256((train, test)), augmentation)


def _missing(where: str, splits: Iterable[str], arrays: Mapping[str, Any]) -> Iterator[Problem]:
    for key in (f"{kind}_{split}" for split in splits for kind in "xy"):
        if key not in arrays:
            yield Problem(where, f"no array {key!r} among {', '.join(arrays) or 'none'}", _PARTS)


def _split_problems(where: str, split: str, arrays: Mapping[str, Any]) -> Iterator[Problem]:
    images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
    yield from (Problem(f"{where}: x_{split}", *words) for words in _image_problems(images))
    if labels.dtype.kind not in "iu" or labels.ndim == 0 or labels.shape[1:] not in ((), (1,)):
        yield Problem(f"{where}: y_{split}", f"{labels.dtype} of shape {labels.shape}", "integers of shape (N,)")
    elif images.ndim and len(labels) != len(images):
        yield Problem(f"{where}: y_{split}", f"{len(labels)} labels", f"{len(images)}, as many as images")
    elif len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < _MOST_LABELS:
        yield Problem(f"{where}: y_{split}", f"labels from {labels.min()} to {labels.max()}", _LABELS)


def _image_problems(images: np.ndarray[Any, Any]) -> Iterator[tuple[str, ...]]:
    if images.ndim not in (3, 4):
        yield f"an array of shape {images.shape}", "N×H×W or N×H×W×C"
    elif images.size == 0:
        yield f"no images (shape {images.shape})", "at least one"
    elif images.ndim == 4 and images.shape[3] > 4 >= images.shape[1]:
        yield f"shape {images.shape}, which looks like channels first", "channels last: N×H×W×C"
    elif images.dtype.kind not in "uf" or (images.dtype.kind == "u" and images.dtype != np.uint8):
        yield f"pixels of type {images.dtype}", "uint8, or floats in [0, 1]"
    elif images.dtype.kind == "f" and not np.isfinite(images).all():
        count = int(np.count_nonzero(~np.isfinite(images).reshape(len(images), -1).all(1)))
        yield f"NaN or infinite pixels in {count} images", "finite pixels"
    elif images.dtype.kind == "f" and not (images.min() >= 0 and images.max() <= 1):
        yield f"pixels from {images.min():g} to {images.max():g}", "floats in [0, 1], or uint8", _REMEDY


def _joint_problems(
    where: str, train: Split, test: Split, classes: int, known: KnownDataset | None
) -> Iterator[Problem]:
    if len(train) and train.images.shape[1:] != test.images.shape[1:]:
        shapes = [_times(split.images.shape[1:]) for split in (train, test)]
        yield Problem(where, f"training images {shapes[0]} and test images {shapes[1]}", "one shape C×H×W")
    if known and tuple(test.images.shape[1:]) != known.shape:
        yield Problem(where, f"images {_times(test.images.shape[1:])}", f"{_times(known.shape)}, those of this name")
    for split, samples in (("train", train), ("test", test)):
        if len(samples) and int(samples.labels.max()) >= classes:
            yield Problem(f"{where}: y_{split}", f"a label of {int(samples.labels.max())}", f"0 to {classes - 1}")


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _split(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Split:
    kept = images if images.dtype == np.uint8 else images.astype(np.float32)
    channels_first = kept[:, None] if kept.ndim == 3 else kept.transpose(0, 3, 1, 2)
    pixels = torch.from_numpy(np.array(channels_first, order="C"))
    return Split(pixels, torch.from_numpy(labels.reshape(-1).astype(np.int64)))


def _sha256(splits: Iterable[Split]) -> str:
    """Return the SHA-256 of type, shape and bytes of each tensor, images before labels."""
    digest = hashlib.sha256()
    for split in splits:
        for tensor in (split.images, split.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().data)
    return digest.hexdigest()
