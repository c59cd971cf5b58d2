"""Memory that is kept: pages that were there once are not asked for again."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import pytest
import torch

from ibpc.memory import kept_memory

LARGE = 12 << 20  # floats: 48 MiB, which the C library maps anew each time
PAGES = LARGE * 4 // resource.getpagesize()
# In a process of its own: what lies in the heap of this one decides where a block fits.
FAULTS = f"""
import resource, torch
from ibpc.memory import kept_memory

def faults(elements):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.zeros(elements).add_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

with kept_memory(torch.device("cpu")):
    print(*(faults({LARGE} - 1024 * number) for number in range(4)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_large_tensors_find_their_pages_again():
    output = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    found = [int(count) for count in output.split()]
    assert found[0] > PAGES // 1000  # there is something to count: pages are of 4 KiB to 2 MiB
    assert min(found[1:]) < PAGES // 1000


def test_other_devices_are_left_alone():
    with kept_memory(torch.device("meta")):
        pass
