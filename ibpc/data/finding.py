"""Finding a data set: by a known name, in a file or in a folder."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ibpc.data.arrays import LAYOUT, read_npz
from ibpc.data.checks import dataset_of
from ibpc.data.datasets import Dataset
from ibpc.data.folders import read_folder
from ibpc.data.known import KNOWN, ROOT_VARIABLE
from ibpc.errors import DataError, nearest

DEFAULT_ROOT: Final = Path("~/.cache/ibpc")


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder of data sets: `root`, else $IBPC_DATA, else ~/.cache/ibpc."""
    return Path(root or os.environ.get(ROOT_VARIABLE) or DEFAULT_ROOT).expanduser()


def load_dataset(
    name: str | Path, root: str | Path | None = None, download: bool = False, beside: Path | None = None
) -> Dataset:
    """Load a data set: a known name, a NAME.npz or a folder NAME in the data root, or the path of either.

    A folder holds `test/`, and `train/` for training, each with one folder of images per class. A known name is read
    from NAME.npz if that exists, otherwise from torchvision's own files in the data root, which are downloaded only
    with `download`. What the data root lacks is looked for in the folder `beside` too, if one is given. Nothing in an
    .npz file is unpickled. Raises DataError if the data are missing or unusable.
    """
    label, roots = str(name), [data_root(root), *([] if beside is None else [beside])]
    arrays, where = _read(label, roots, download)
    title = label if _is_plain(label) else Path(label).name.removesuffix(".npz")
    return dataset_of(title, where, arrays, KNOWN.get(label))


def _is_plain(label: str) -> bool:
    return Path(label).name == label and not label.endswith(".npz")


def _read(label: str, roots: Sequence[Path], download: bool) -> tuple[Mapping[str, Any], str]:
    if not _is_plain(label):
        return _read_path(Path(label).expanduser())
    for file in (root / f"{label}.npz" for root in roots):
        if file.exists():
            return _read_path(file)
    for folder in (*(root / label for root in roots), Path(label)):
        if (folder / "test").is_dir():
            return _read_path(folder)
    if label in KNOWN:
        return KNOWN[label].read(roots[0], download), f"data set {label}"
    raise DataError.at(
        f"data set {label!r}",
        f"there is no {label}.npz and no folder {label} with test/ in {' or '.join(map(str, roots))}",
        f"a known name ({', '.join(KNOWN)}), or a file or folder",
        f"--data-root FOLDER or {ROOT_VARIABLE} says where it lies, its files are {LAYOUT}; {nearest(label, KNOWN)}",
    )


def _read_path(path: Path) -> tuple[Mapping[str, Any], str]:
    if path.is_dir():
        return read_folder(path), str(path)
    if not path.exists():
        raise DataError.at(path, "no such file or folder", LAYOUT)
    return read_npz(path), str(path)
