"""Files of numpy arrays, of which nothing is ever unpickled: data sets as .npz, single arrays as .npy."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from ibpc.errors import DataError, Problem, first_line, raise_all

KEYS: Final = ("x_train", "y_train", "x_test", "y_test")
LAYOUT: Final = "NAME.npz with x_train, y_train, x_test, y_test: images uint8 N×H×W or N×H×W×C, labels integers"
# What libraries raise for files that they cannot read.
UNREADABLE: Final = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: Path) -> Mapping[str, Any]:
    """Return the four arrays of a data set. Raises DataError where they are not there, or cannot be read."""
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                raise DataError.at(path, "a single array", LAYOUT)
            raise_all(DataError, _missing_keys(path, archive.files))
            return {key: archive[key] for key in KEYS}
    except UNREADABLE as error:
        raise DataError.at(path, f"unreadable: {first_line(error)}", f"{LAYOUT}, without pickled objects") from error


def _missing_keys(path: Path, found: list[str]) -> Iterator[Problem]:
    for key in KEYS:
        if key not in found:
            yield Problem(str(path), f"no array {key!r} among {', '.join(sorted(found)) or 'none'}", LAYOUT)


def read_array(path: Path) -> np.ndarray[Any, Any]:
    """Return the finite numbers of a `.npy` file as float64 or float32. Raises DataError; nothing is unpickled."""
    try:
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
    except UNREADABLE as error:
        raise DataError.at(path, f"it cannot be read: {first_line(error)}", "a .npy file of numbers") from error
    if array.dtype.kind not in "fiub" or not np.isfinite(array).all():
        raise DataError.at(path, f"{array.dtype} values that are not all finite numbers", "finite numbers")
    return array if array.dtype == np.float32 else array.astype(np.float64)
