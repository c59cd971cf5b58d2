"""Locks between processes, as files. The system releases them when the process ends, for whatever reason."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Final

# The errors of file systems without locks, where work goes on without them.
_NO_LOCKS: Final = frozenset({errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK})


def take(path: Path) -> IO[bytes] | None:
    """Return the open file that holds the lock until it is closed, or None if another process holds the lock."""
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


@contextmanager
def briefly_locked(path: Path) -> Iterator[None]:
    """Like `locked`, for a lock whose file exists only while a process holds it or waits for it."""
    while True:
        with path.open("ab") as stream:
            _lock(stream, wait=True)
            if not _is_still(stream, path):
                continue
            try:
                yield
            finally:
                with suppress(OSError):
                    path.unlink()
            return


def _is_still(stream: IO[bytes], path: Path) -> bool:
    """Return whether the open file is still the one at `path`; the previous holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(stream: IO[bytes], *, wait: bool) -> None:
    if sys.platform == "win32":
        import msvcrt

        stream.seek(0)
        msvcrt.locking(stream.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        try:
            fcntl.flock(stream, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
