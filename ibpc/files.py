"""Files as they are read: regular ones, of a bounded size. A pipe or a device would never end."""

from __future__ import annotations

import errno
import stat
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 2**32
MOST_TEXT: Final = 2**28


def expect_regular(path: Path, most: int = MOST_BYTES) -> None:
    """Raise OSError unless `path` is a regular file of at most `most` bytes."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"{found.st_size:,} bytes, where {most:,} is the most", str(path))


def read_regular(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a regular file of at most `most` bytes. Raises OSError where it is none."""
    expect_regular(path, most)
    return path.read_bytes()
