"""Workers side by side, which keep to one thread each, and what others made."""

import os
from pathlib import Path

import pytest

# So do the processes that tests start.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture
def shared() -> Path:
    """Return the folder of networks and properties that others made; without it the test is skipped."""
    folder = os.environ.get("IBPC_SHARED")
    if not folder:
        pytest.skip("IBPC_SHARED is not set")
    return Path(folder)
