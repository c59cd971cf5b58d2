"""Reads only regular files of bounded size (a pipe might never end); writes are atomic."""

from __future__ import annotations

import errno
import glob
import gzip
import hashlib
import json
import os
import stat
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from ibpc.errors import ArtifactError, IbpcError

MOST_BYTES: Final = 2**32
MOST_TEXT: Final = 2**28

_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_GROWTH: Final = 100
# Sparse networks compress well: one of VNN-COMP unpacks to 159 MB, 172 times its size.
_GZIP_ALLOWANCE: Final = 512 * 2**20
_CHUNK: Final = 2**20


def expect_regular(path: Path, most: int = MOST_BYTES) -> None:
    """Raise OSError unless `path` is a regular file of at most `most` bytes."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    if found.st_size > most:
        raise OSError(errno.EFBIG, f"{found.st_size:,} bytes, where {most:,} is the most", str(path))


def read_regular(path: Path, most: int = MOST_BYTES) -> bytes:
    """Return the bytes of a regular file of at most `most` bytes. Raises OSError if it is not one."""
    expect_regular(path, most)
    return path.read_bytes()


@dataclass(frozen=True)
class Packable:
    """A kind of file that may be gzipped: suffix, content, largest size in bytes, and the error for a bad file.

    Unpacking stops at a limit, against zip bombs.
    """

    suffix: str
    kind: str
    most: int
    error: type[IbpcError]

    def read(self, path: Path) -> bytes:
        """Return the bytes of a file, unpacked. Raises `error` if it is missing, too large or damaged."""
        if not path.is_file():
            found = "it is no regular file" if path.exists() else "there is no such file"
            raise self.error.at(path, found, f"{self.kind} in a file of suffix {self.suffix} or {self.suffix}.gz")
        try:
            with path.open("rb") as file:
                size = os.fstat(file.fileno()).st_size
                if size > self.most:
                    raise self.error.at(path, f"{size:,} bytes", f"at most {self.most:,}")
                packed = file.read(2) == _GZIP_MAGIC
                file.seek(0)
                return self._unpacked(file, size, path) if packed else file.read(self.most)
        except OSError as error:
            raise self.error.at(path, f"it cannot be read: {error.strerror or error}") from error

    def _unpacked(self, file: IO[bytes], size: int, path: Path) -> bytes:
        limit = min(self.most, max(_GZIP_ALLOWANCE, _GZIP_GROWTH * size))
        data = bytearray()
        try:
            with gzip.GzipFile(fileobj=file) as stream:
                while chunk := stream.read(_CHUNK):
                    data += chunk
                    if len(data) > limit:
                        raise self.error.at(path, f"{size:,} bytes unpack to more than {limit:,}", self.kind)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise self.error.at(path, f"it is damaged: {error}", f"{self.kind}, gzipped") from error
        return bytes(data)


def beside(path: Path, name: str) -> Path:
    """Return the path of that name in the same folder. Raises ArtifactError if `path` has no name, such as `.`."""
    if not path.name:
        raise ArtifactError.at(path, "a path without a name of its own", "one that ends in a name", "go one folder up")
    return path.with_name(name)


def write_durably(path: Path, data: bytes) -> None:
    """Write `data` and wait until it is on disk."""
    with path.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` beside `path` and rename it into place. Raises ArtifactError if that fails.

    What writers left there that did not live to finish it goes.
    """
    temporary = beside(path, f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for leftover in leftovers(path):
            with suppress(OSError):
                leftover.unlink()
        write_durably(temporary, data)
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def unwritable(path: Path, error: OSError, expected: str = "a writable place") -> ArtifactError:
    """Return the error for a file or a folder that cannot be written: what is in the way, or that it is full."""
    folder = next(place for place in path.absolute().parents if place.exists())
    if not folder.is_dir():
        return ArtifactError.at(path, f"cannot be written: {folder} is not a folder", "a place in a folder")
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    wanted = "a place with room" if is_full else expected
    return ArtifactError.at(path, f"cannot be written: {error.strerror or error}", wanted)


def leftovers(path: Path) -> Iterator[Path]:
    """Yield what was left half written beside `path` by processes that are gone."""
    prefix, suffix = f".{path.name}.", ".partial"
    for leftover in path.parent.glob(f"{glob.escape(prefix)}*{suffix}"):
        number = leftover.name.removeprefix(prefix).removesuffix(suffix)
        if number.isdecimal() and _is_dead(int(number)):
            yield leftover


def _is_dead(process: int) -> bool:
    """Return whether there is no process of that number; False where that cannot be asked without harm."""
    if sys.platform == "win32":
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


# ── contents ────────────────────────────────────────────────────────────────────────────────────────────────────
def sha256_of(data: bytes) -> str:
    """Return the SHA-256 of `data` in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def json_bytes(data: Any) -> bytes:
    """Return indented JSON. Lone surrogates, as in file names that are not UTF-8, are escaped."""
    return (json.dumps(data, indent=2, ensure_ascii=False) + "\n").encode(errors="backslashreplace")


def write_json(path: Path, data: Mapping[str, Any]) -> None:
    """Write indented JSON atomically. Raises ArtifactError if that fails."""
    write_atomically(path, json_bytes(data))
