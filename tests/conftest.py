"""Workers side by side: each keeps to one thread, and so do the processes that its tests start."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
