"""Files of numpy arrays, never unpickled: data sets as .npz, single arrays as .npy."""

from __future__ import annotations

import lzma
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from ibpc.errors import DataError, first_line
from ibpc.files import expect_regular

KEYS: Final = ("x_train", "y_train", "x_test", "y_test")
LAYOUT: Final = (
    "NAME.npz with x_test, y_test, and x_train, y_train for training: images uint8 N×H×W or N×H×W×C, labels integers"
)
# The exceptions of libraries for unreadable files.
UNREADABLE: Final = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    OverflowError,
    TypeError,
    lzma.LZMAError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)
_MOST_BYTES: Final = 2**40
_ALWAYS_UNPACKED: Final = 2**28
_MOST_GROWTH: Final = 100
_ARRAY_MAGIC: Final = b"\x93NUMPY"


def read_npz(path: Path) -> Mapping[str, Any]:
    """Return those arrays of a data set that a file has. Raises DataError where they cannot be read, or it has none."""
    try:
        expect_regular(path, _MOST_BYTES)
        with path.open("rb") as stream:
            if stream.read(len(_ARRAY_MAGIC)) == _ARRAY_MAGIC:
                raise DataError.at(path, "a single array", LAYOUT)
            with zipfile.ZipFile(stream) as archive:
                members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
                present = [key for key in KEYS if key in members]
                if not present:
                    raise DataError.at(path, f"the arrays {', '.join(sorted(members)) or 'none'}", LAYOUT)
                _expect_size(path, sum(members[key].file_size for key in present))
                return {key: _read_member(archive, members[key]) for key in present}
    except UNREADABLE as error:
        raise DataError.at(path, f"unreadable: {first_line(error)}", f"{LAYOUT}, without pickled objects") from error


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with archive.open(member) as stream:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(stream, allow_pickle=False)
        return array


def _expect_size(path: Path, unpacked: int) -> None:
    """Raise DataError if a file unpacks to far more than its size, which images do not."""
    size = path.stat().st_size
    most = max(_ALWAYS_UNPACKED, _MOST_GROWTH * size)
    if unpacked > most:
        found = f"{size:,} bytes that unpack to {unpacked:,}"
        raise DataError.at(path, found, f"at most {most:,}", "store such images uncompressed, with numpy.savez")


def read_array(path: Path) -> np.ndarray[Any, Any]:
    """Return the finite numbers of a `.npy` file as float64 or float32. Raises DataError; nothing is unpickled."""
    try:
        expect_regular(path)
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except UNREADABLE as error:
        raise DataError.at(path, f"it cannot be read: {first_line(error)}", "a .npy file of numbers") from error
    return real_array(array, path)


def real_array(given: Any, where: object) -> np.ndarray[Any, Any]:
    """Return the finite numbers of an array, a tensor or nested lists as float64 or float32. Raises DataError."""
    if isinstance(given, torch.Tensor):
        moved = given.detach().cpu()
        given = moved.float() if moved.dtype == torch.bfloat16 else moved
    try:
        array = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise DataError.at(where, f"found {type(given).__name__}: {first_line(error)}", "real numbers") from error
    if array.dtype.kind not in "fiub":
        raise DataError.at(where, f"values of type {array.dtype}", "real numbers")
    if not np.isfinite(array).all():
        raise DataError.at(where, f"{array.dtype} values that are not all finite numbers", "finite numbers")
    return np.ascontiguousarray(array, np.float32 if array.dtype == np.float32 else np.float64).reshape(array.shape)
