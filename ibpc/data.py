"""Data sets: by name, from `NAME.npz` files, or from folders of images. The only module that knows torchvision.

Images are N×C×H×W, uint8 or float32 in [0, 1]. They are kept as they are stored and turned into floats batch by
batch on the device that trains; augmentation happens there too.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import torch

from ibpc.errors import DataError, Problem, nearest, raise_all

ROOT_VARIABLE: Final = "IBPC_DATA"
DEFAULT_ROOT: Final = Path("~/.cache/ibpc")
DIGITS: Final = "digits"
DIGITS_TRAINING: Final = 1297
CROP_PADDING: Final = 4
SHIFT_PIXELS: Final = 1
VALIDATION_IMAGES: Final = 5000

_KEYS: Final = ("x_train", "y_train", "x_test", "y_test")
_LAYOUT: Final = "NAME.npz with x_train, y_train, x_test, y_test: images uint8 N×H×W or N×H×W×C, labels integers"
_MOST_LABELS: Final = 2**31
_UNREADABLE: Final = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


class Augmentation(Enum):
    """What is done to the images of a training batch."""

    NONE = "none"
    SHIFT = "shift"
    CROP_FLIP = "crop-flip"


# ── data sets ───────────────────────────────────────────────────────────────────────────────────────────────────
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
    """A data set of `classes` classes. `sha256` is that of its tensors, `augmentation` what suits its images."""

    name: str
    train: Split
    test: Split
    classes: int
    sha256: str
    augmentation: Augmentation = Augmentation.NONE

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape (C, H, W) of one image."""
        return tuple(self.train.images.shape[1:])

    def hold_out(self, images: int | None, seed: int) -> tuple[Split, Split]:
        """Return the training split without `images` of its samples, and those: a validation split drawn with `seed`.

        None holds out 5,000, or a tenth of a small set. Raises DataError unless something is left to train on.
        """
        if images is None:
            images = min(VALIDATION_IMAGES, len(self.train) // 10)
        if not 0 <= images < len(self.train):
            raise DataError.at(
                f"data set {self.name}",
                f"{images} of {len(self.train)} training images to hold out",
                f"0 to {len(self.train) - 1}",
            )
        order = torch.randperm(len(self.train), generator=torch.Generator().manual_seed(seed))
        held, kept = order[:images].sort().values, order[images:].sort().values
        return self.train.take(kept), self.train.take(held)


@dataclass(frozen=True)
class Known:
    """What is known of a data set by name: its classes, the shape (C, H, W), what augments it, and its reader."""

    classes: int
    shape: tuple[int, int, int]
    augmentation: Augmentation
    read: Callable[[Path, bool], Mapping[str, Any]]


def read_array(path: Path) -> np.ndarray[Any, Any]:
    """Return the finite numbers of a `.npy` file as float64 or float32. Raises DataError; nothing is unpickled."""
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except _UNREADABLE as error:
        raise DataError.at(path, f"it cannot be read: {_first_line(error)}", "a .npy file of numbers") from error
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise DataError.at(path, f"{array.dtype} values that are not all finite numbers", "finite numbers")
    return array if array.dtype == np.float32 else array.astype(np.float64)


# ── batches on the device ───────────────────────────────────────────────────────────────────────────────────────
def to_unit(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as float32 in [0, 1]; floats pass unchanged."""
    return images.float() / 255.0 if images.dtype == torch.uint8 else images


def fit_images(images: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return images (B, C, H, W) in the layout of a network's input: as they are, flat, or channels last.

    Raises DataError if none of them has the shape.
    """
    found = tuple(images.shape[1:])
    if found == shape:
        return images
    if len(found) == 3 and shape == (*found[1:], found[0]):
        return images.permute(0, 2, 3, 1).contiguous()
    is_flat = sum(size != 1 for size in shape) <= 1 or (len(found) == 3 and found[0] == 1)
    if is_flat and prod(found) == prod(shape):
        return images.reshape(-1, *shape)
    raise DataError.at("data", f"images of shape {found}", f"{shape}, the network's input")


def augment(images: torch.Tensor, kind: Augmentation, generator: torch.Generator) -> torch.Tensor:
    """Return the images (B, C, H, W) augmented, drawing from a generator of their device."""
    if kind is Augmentation.NONE:
        return images
    if kind is Augmentation.SHIFT:
        return shift(images, SHIFT_PIXELS, generator)
    return crop_and_flip(images, CROP_PADDING, generator)


def shift(images: torch.Tensor, pixels: int, generator: torch.Generator) -> torch.Tensor:
    """Return each image (C, H, W) moved by up to `pixels` in each direction, black where nothing comes in.

    Every image has its own move, uniform over the (2 · pixels + 1)².
    """
    height, width = images.shape[2:]
    row, column = _offsets(images, pixels, generator)
    rows = row + torch.arange(height, device=images.device)
    columns = column + torch.arange(width, device=images.device)
    return _gathered(images, pixels, rows, columns)


def crop_and_flip(images: torch.Tensor, padding: int, generator: torch.Generator) -> torch.Tensor:
    """Return each image (C, H, W) cropped at random from itself framed by `padding` black pixels, and half flipped.

    Every image has its own offset, uniform over the (2 · padding + 1)² crops, and its own coin. One gather for all:
    output[b, c, i, j] = padded[b, c, row_b + i, column_b + j], columns read backwards where the coin says so.
    """
    height, width = images.shape[2:]
    row, column = _offsets(images, padding, generator)
    coin = torch.randint(0, 2, (len(images), 1), generator=generator, device=images.device) == 1
    forward = torch.arange(width, device=images.device)
    rows = row + torch.arange(height, device=images.device)
    columns = column + torch.where(coin, width - 1 - forward, forward)
    return _gathered(images, padding, rows, columns)


def _offsets(images: torch.Tensor, padding: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the first row and column (B, 1) of a random window into each framed image."""
    size = (2, len(images), 1)
    row, column = torch.randint(0, 2 * padding + 1, size, generator=generator, device=images.device)
    return row, column


def _gathered(images: torch.Tensor, padding: int, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return the rows (B, H) and columns (B, W) of the images framed by `padding` black pixels, in one gather."""
    padded = torch.nn.functional.pad(images, [padding] * 4)
    sample = torch.arange(len(images), device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[:, None, None]
    return padded[sample, channel, rows[:, None, :, None], columns[:, None, None, :]]


# ── finding ─────────────────────────────────────────────────────────────────────────────────────────────────────
def data_root(root: str | Path | None = None) -> Path:
    """Return where data sets lie: `root`, else $IBPC_DATA, else ~/.cache/ibpc."""
    return Path(root or os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).expanduser()


def load_dataset(name: str | Path, root: str | Path | None = None, download: bool = False) -> Dataset:
    """Load a data set: a known name, a NAME.npz or a folder NAME in the data root, or the path of either.

    A folder holds `train/` and `test/`, each with one folder of images per class. Known names come from NAME.npz if
    it is there, otherwise from torchvision's own files in the data root, which it downloads only with `download`.
    Nothing from an .npz file is unpickled. Raises DataError if the data are missing or unusable.
    """
    label, folder = str(name), data_root(root)
    arrays, where = _read(label, folder, download)
    title = label if _is_plain(label) else Path(label).stem
    return _checked(title, where, arrays, KNOWN.get(label))


def _is_plain(label: str) -> bool:
    return Path(label).name == label and not label.endswith(".npz")


def _read(label: str, root: Path, download: bool) -> tuple[Mapping[str, Any], str]:
    if not _is_plain(label):
        return _read_path(Path(label).expanduser())
    if (root / f"{label}.npz").exists():
        return _read_path(root / f"{label}.npz")
    for folder in (root / label, Path(label)):
        if (folder / "train").is_dir():
            return _read_path(folder)
    if label in KNOWN:
        return KNOWN[label].read(root, download), f"data set {label}"
    raise DataError.at(
        f"data set {label!r}",
        f"there is no {label}.npz and no folder {label} with train/ and test/ in {root}",
        f"a known name ({', '.join(KNOWN)}), or a file or folder",
        f"{nearest(label, KNOWN)} The data root is --data-root or {ROOT_VARIABLE}; its files are {_LAYOUT}",
    )


def _read_path(path: Path) -> tuple[Mapping[str, Any], str]:
    if path.is_dir():
        return _read_folder(path), str(path)
    if not path.exists():
        raise DataError.at(path, "no such file or folder", _LAYOUT)
    return _read_npz(path), str(path)


# ── reading ─────────────────────────────────────────────────────────────────────────────────────────────────────
def _read_npz(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError.at(path, "a single array", _LAYOUT)
            raise_all(DataError, _missing_keys(path, archive.files))
            return {key: archive[key] for key in _KEYS}
    except _UNREADABLE as error:
        raise DataError.at(path, f"unreadable: {_first_line(error)}", f"{_LAYOUT}, without pickled objects") from error


def _missing_keys(path: Path, found: list[str]) -> Iterator[Problem]:
    for key in _KEYS:
        if key not in found:
            yield Problem(str(path), f"no array {key!r} among {', '.join(sorted(found)) or 'none'}", _LAYOUT)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_digits(root: Path, download: bool) -> Mapping[str, Any]:
    """Return scikit-learn's 1,797 digits of 8×8 pixels, 0…16 scaled to [0, 1].

    1,297 train and 500 test, by the permutation of numpy's frozen generator RandomState(0).
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.RandomState(0).permutation(len(digits.target))
    images, labels = (digits.images / 16.0).astype(np.float32)[order], digits.target[order]
    split = DIGITS_TRAINING
    return dict(zip(_KEYS, (images[:split], labels[:split], images[split:], labels[split:]), strict=True))


def _torchvision(
    name: str, images: Callable[[Any], Any], labels: str, parts: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> Callable[[Path, bool], Mapping[str, Any]]:
    """Return the reader of a torchvision data set `name`.

    `images` gets N×H×W(×C) pixels from it, `labels` is its attribute, and `parts` are the arguments that choose the
    training and the test split. (CIFAR's own files are pickles; torchvision opens only those of the known MD5.)
    """

    def read(root: Path, download: bool) -> Mapping[str, Any]:
        from torchvision import datasets

        kind = getattr(datasets, name)
        try:
            train, test = (kind(str(root), download=download, **part) for part in parts)
        except (*_UNREADABLE, ImportError) as error:
            action = "cannot be downloaded" if download else "not found"
            raise DataError.at(
                f"data set {name}",
                f"{action}: {_first_line(error)} (looked in {root} for {name.lower()}.npz and for torchvision's files)",
                _LAYOUT,
                f"fetch it with --download, or point --data-root or {ROOT_VARIABLE} to it",
            ) from error
        values = (images(train), getattr(train, labels), images(test), getattr(test, labels))
        return dict(zip(_KEYS, map(np.asarray, values), strict=True))

    return read


_BY_FLAG: Final = ({"train": True}, {"train": False})
_BY_NAME: Final = ({"split": "train"}, {"split": "test"})


def _stored(dataset: Any) -> Any:
    return dataset.data


def _channels_last(dataset: Any) -> Any:
    return dataset.data.transpose(0, 2, 3, 1)


KNOWN: Final[Mapping[str, Known]] = MappingProxyType(
    {
        "mnist": Known(10, (1, 28, 28), Augmentation.NONE, _torchvision("MNIST", _stored, "targets", _BY_FLAG)),
        "fashion-mnist": Known(
            10, (1, 28, 28), Augmentation.NONE, _torchvision("FashionMNIST", _stored, "targets", _BY_FLAG)
        ),
        "cifar10": Known(
            10, (3, 32, 32), Augmentation.CROP_FLIP, _torchvision("CIFAR10", _stored, "targets", _BY_FLAG)
        ),
        "cifar100": Known(
            100, (3, 32, 32), Augmentation.CROP_FLIP, _torchvision("CIFAR100", _stored, "targets", _BY_FLAG)
        ),
        "svhn": Known(10, (3, 32, 32), Augmentation.NONE, _torchvision("SVHN", _channels_last, "labels", _BY_NAME)),
        DIGITS: Known(10, (1, 8, 8), Augmentation.NONE, _read_digits),
    }
)


def _read_folder(path: Path) -> Mapping[str, Any]:
    """Read `train/` and `test/`, one folder a class: grey images stay grey if all of them are."""
    from torchvision.datasets import ImageFolder

    folders = {}
    for split in ("train", "test"):
        try:
            folders[split] = ImageFolder(str(path / split))
        except OSError as error:
            raise DataError.at(
                path / split, f"not a folder of images: {_first_line(error)}", "train/CLASS/… and test/CLASS/…"
            ) from error
    if folders["train"].classes != folders["test"].classes:
        odd = sorted(set(folders["train"].classes) ^ set(folders["test"].classes))
        raise DataError.at(path, f"class {odd[0]!r} is in only one of train/ and test/", "the same classes in both")
    files = [Path(file) for folder in folders.values() for file, _ in folder.samples]
    mode = "L" if all(_image_mode(file) == "L" for file in files) else "RGB"
    arrays: dict[str, Any] = {}
    for split, folder in folders.items():
        arrays[f"x_{split}"] = _read_images([Path(file) for file, _ in folder.samples], mode)
        arrays[f"y_{split}"] = np.asarray(folder.targets)
    return arrays


def _image_mode(path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.mode
    except _UNREADABLE as error:
        raise DataError.at(path, f"unreadable: {_first_line(error)}", "an image file") from error


def _read_images(paths: list[Path], mode: str) -> np.ndarray[Any, Any]:
    from PIL import Image

    images: list[np.ndarray[Any, Any]] = []
    for path in paths:
        try:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert(mode)))
        except _UNREADABLE as error:
            raise DataError.at(path, f"unreadable: {_first_line(error)}", "an image file") from error
        if images[-1].shape != images[0].shape:
            (height, width), (tall, wide) = images[-1].shape[:2], images[0].shape[:2]
            raise DataError.at(
                path, f"{height}×{width} pixels", f"{tall}×{wide}, as {paths[0].name}", "resize the images"
            )
    return np.stack(images)


# ── checking ────────────────────────────────────────────────────────────────────────────────────────────────────
def _checked(title: str, where: str, arrays: Mapping[str, Any], known: Known | None) -> Dataset:
    problems = [problem for split in ("train", "test") for problem in _split_problems(where, split, arrays)]
    raise_all(DataError, problems)
    train, test = (_split(arrays[f"x_{split}"], arrays[f"y_{split}"]) for split in ("train", "test"))
    classes = known.classes if known else int(train.labels.max()) + 1
    raise_all(DataError, _joint_problems(where, train, test, classes, known))
    augmentation = known.augmentation if known else Augmentation.NONE
    return Dataset(title, train, test, classes, _sha256((train, test)), augmentation)


def _split_problems(where: str, split: str, arrays: Mapping[str, Any]) -> Iterator[Problem]:
    images, labels = arrays[f"x_{split}"], arrays[f"y_{split}"]
    yield from (Problem(f"{where}: x_{split}", *words) for words in _image_problems(images))
    if labels.dtype.kind not in "iu" or labels.ndim == 0 or labels.shape[1:] not in ((), (1,)):
        yield Problem(f"{where}: y_{split}", f"{labels.dtype} of shape {labels.shape}", "integers of shape (N,)")
    elif images.ndim and len(labels) != len(images):
        yield Problem(f"{where}: y_{split}", f"{len(labels)} labels", f"{len(images)}, as many as images")
    elif len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < _MOST_LABELS:
        yield Problem(f"{where}: y_{split}", f"labels from {labels.min()} to {labels.max()}", "labels from 0")


def _image_problems(images: np.ndarray[Any, Any]) -> Iterator[tuple[str, str]]:
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
        yield f"pixels from {images.min():g} to {images.max():g}", "floats in [0, 1], or uint8"


def _joint_problems(where: str, train: Split, test: Split, classes: int, known: Known | None) -> Iterator[Problem]:
    if train.images.shape[1:] != test.images.shape[1:]:
        shapes = [_times(split.images.shape[1:]) for split in (train, test)]
        yield Problem(where, f"training images {shapes[0]} and test images {shapes[1]}", "one shape C×H×W")
    if known and tuple(train.images.shape[1:]) != known.shape:
        yield Problem(where, f"images {_times(train.images.shape[1:])}", f"{_times(known.shape)}, those of this name")
    if classes < 2:
        yield Problem(where, "training labels of one class only", "at least two classes")
    for split, samples in (("train", train), ("test", test)):
        if int(samples.labels.max()) >= classes:
            yield Problem(f"{where}: y_{split}", f"a label of {int(samples.labels.max())}", f"0 to {classes - 1}")


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape))


def _split(images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> Split:
    kept = images if images.dtype == np.uint8 else images.astype(np.float32)
    channels_first = kept[:, None] if kept.ndim == 3 else kept.transpose(0, 3, 1, 2)
    pixels = torch.from_numpy(np.array(channels_first, order="C"))
    return Split(pixels, torch.from_numpy(labels.reshape(-1).astype(np.int64)))


def _sha256(splits: Iterable[Split]) -> str:
    """Return the SHA-256 of the tensors in order (images, labels): type, shape and bytes of each."""
    digest = hashlib.sha256()
    for split in splits:
        for tensor in (split.images, split.labels):
            digest.update(f"{tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.numpy().data)
    return digest.hexdigest()
