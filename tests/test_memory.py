"""Memory that is kept: pages that were there once are not asked for again."""

from __future__ import annotations

import platform
import resource

import pytest
import torch

from ibpc.memory import kept_memory

LARGE = 12 << 20  # floats: 48 MiB, which the C library maps anew each time
PAGES = LARGE * 4 // resource.getpagesize()


def faults_of_a_tensor(elements: int) -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(elements).add_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_large_tensors_find_their_pages_again():
    with kept_memory(torch.device("cpu")):
        # A block that was freed holds an aligned one that is a little smaller, whatever lies behind it.
        found = [faults_of_a_tensor(LARGE - 1024 * number) for number in range(4)]
    assert found[0] > PAGES // 1000  # there is something to count: pages are of 4 KiB to 2 MiB
    assert min(found[1:]) < PAGES // 1000


def test_other_devices_are_left_alone():
    with kept_memory(torch.device("meta")):
        pass
