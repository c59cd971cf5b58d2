"""Folders of images, one folder per class."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from ibpc.data.arrays import UNREADABLE
from ibpc.errors import DataError, Problem, first_line, raise_all
from ibpc.files import expect_regular

if TYPE_CHECKING:
    from PIL import Image


T = TypeVar("T")

_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
# First letters of Pillow's modes with 16 or 32 bits per channel.
_DEEPER: Final = ("I", "F")


def read_folder(path: Path) -> Mapping[str, Any]:
    """Read `test/`, and `train/` if it is there, one folder per class.

    Images have one channel if all are gray, else three.
    """
    from torchvision.datasets import ImageFolder

    folders = {}
    for split in ("train", "test") if os.path.lexists(path / "train") else ("test",):
        _expect_no_cycle(path / split)
        try:
            folders[split] = ImageFolder(str(path / split), is_valid_file=_is_image)
        except OSError as error:
            raise DataError.at(
                path / split,
                f"not a folder of images: {first_line(error)}",
                "test/CLASS/…, and train/CLASS/… for training",
            ) from error
    if "train" in folders and folders["train"].classes != folders["test"].classes:
        odd = sorted(set(folders["train"].classes) ^ set(folders["test"].classes))
        raise DataError.at(path, f"class {odd[0]!r} is in only one of train/ and test/", "the same classes in both")
    files = [Path(file) for folder in folders.values() for file, _ in folder.samples]
    mode = "L" if all(found == "L" for found in _of_all(files, _image_mode)) else "RGB"
    arrays: dict[str, Any] = {}
    for split, folder in folders.items():
        arrays[f"x_{split}"] = _read_images([Path(file) for file, _ in folder.samples], mode)
        arrays[f"y_{split}"] = np.asarray(folder.targets)
    return arrays


def _is_image(name: str) -> bool:
    return name.lower().endswith(_SUFFIXES)


def _of_all(files: Iterable[Path], read: Callable[[Path], T]) -> list[T]:
    """Return what is read of each file. Raises DataError with the problems of all."""
    found: list[T] = []
    problems: list[Problem] = []
    for file in files:
        try:
            found.append(read(file))
        except DataError as error:
            problems += error.problems
    raise_all(DataError, problems)
    return found


def _expect_no_cycle(folder: Path) -> None:
    """Raise DataError if a link leads to a folder that contains the link: listing its images would never end."""
    pending: list[tuple[str, tuple[Path, ...]]] = [(str(folder), (folder.resolve(),))]
    while pending:
        place, chain = pending.pop()
        try:
            children = [entry for entry in os.scandir(place) if entry.is_dir()]
        except OSError:
            continue
        for child in children:
            real = Path(child.path).resolve()
            if any(above.is_relative_to(real) for above in chain):
                raise DataError.at(child.path, f"a link to {real}, which it lies in", "a folder of images")
            pending.append((child.path, (*chain, real)))


def _image_mode(path: Path) -> str:
    """Return the mode of an image. Raises DataError for more than 8 bits per channel, which would be truncated."""
    with _opened(path) as image:
        mode = image.mode
    if mode.startswith(_DEEPER):
        raise DataError.at(path, f"an image of mode {mode}", "8 bits a channel", "scale it, or store arrays as .npz")
    return mode


def _read_images(paths: list[Path], mode: str) -> np.ndarray[Any, Any]:
    images = _of_all(paths, partial(_read_image, mode))
    tall, wide = images[0].shape[:2]
    expected = f"{tall}×{wide}, as {paths[0].name}"
    sizes = [(path, image.shape[:2]) for path, image in zip(paths, images, strict=True)]
    odd = [(path, size) for path, size in sizes if size != (tall, wide)]
    raise_all(
        DataError,
        (Problem(str(path), f"{size[0]}×{size[1]} pixels", expected, "resize the images") for path, size in odd),
    )
    return np.stack(images)


def _read_image(mode: str, path: Path) -> np.ndarray[Any, Any]:
    with _opened(path) as image:
        return np.asarray(image.convert(mode))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open an image for the block. Raises DataError if reading it, then or in the block, fails, or it is too large."""
    from PIL import Image

    try:
        expect_regular(path)
        with Image.open(path) as image:
            yield image
    except (*UNREADABLE, Image.DecompressionBombError) as error:
        raise DataError.at(path, f"unreadable: {first_line(error)}", "an image file") from error
