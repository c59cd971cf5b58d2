"""Locks between processes, as files: the system frees them when their process ends, however it ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


def take(path: Path) -> IO[bytes] | None:
    """Return the open file that holds the lock until it is closed, None if another process holds it."""
    stream = path.open("ab")
    try:
        _lock(stream, wait=False)
    except OSError:
        stream.close()
        return None
    return stream


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock and hold it while the block runs."""
    with path.open("ab") as stream:
        _lock(stream, wait=True)
        yield


def _lock(stream: IO[bytes], *, wait: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        stream.seek(0)
        msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
