"""Keeping freed memory in the process instead of returning it to the system after every step.

The C library maps each block above 32 MiB anew and unmaps it when freed, so a step that allocates the same large
tensors as the one before pays for all their pages again. On a CPU, that took a third of a paired step.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch

# Parameters of mallopt(3); `_USUAL` has the largest values that glibc sets them to by itself.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
_MMAP_MAX: Final = -4
_KEPT: Final = ((_TRIM_THRESHOLD, -1), (_MMAP_MAX, 0))
_USUAL: Final = ((_MMAP_MAX, 65536), (_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, 64 << 20))


@contextmanager
def kept_memory(device: torch.device) -> Iterator[None]:
    """Keep freed memory for reuse while the block runs on a CPU, then return free memory to the system.

    Only glibc supports this; with other libraries and on other devices, nothing changes. It affects the whole process.
    """
    library = ctypes.CDLL(None) if device.type == "cpu" and platform.libc_ver()[0] == "glibc" else None
    if library is None:
        yield
        return
    for parameter, value in _KEPT:
        library.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _USUAL:
            library.mallopt(parameter, value)
        library.malloc_trim(0)
