"""Feed damaged ONNX and VNN-LIB files to the importers: each must be read or refused by one of ibpc's own errors.

    python -m benchmarks.fuzz_parsers onnx --minutes 10
    python -m benchmarks.fuzz_parsers vnnlib --minutes 10

Hypothesis draws a sound file and damages it: bytes are changed, dropped, doubled, moved. Any other exception, or a file
that takes longer than `--slowest` seconds, is printed with the seed that leads to it. Status 1 if there was one.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

import ibpc
from ibpc.errors import IbpcError
from tests.networks import models

PROPERTY = b"""(declare-const X_0 Real) (declare-const X_1 Real) (declare-const Y_0 Real) (declare-const Y_1 Real)
(assert (and (<= X_0 0.5) (>= X_0 -1e-3) (<= X_1 1) (> X_1 0)))
(assert (or (and (>= Y_0 Y_1) (<= (+ (* 2 Y_0) (- X_0)) 3)) (!= Y_1 0.25)))
"""
TENSORS = b"""(vnnlib-version <2.0>) (declare-network N (declare-input X float32 [1,2] "x")
(declare-output Y Real [1,2])) (assert (and (<= X[0,0] 0.5) (>= X[0,0] 0) (== X[0,1] 1)))
(assert (or (<= Y[0,0] Y[0,1]) (< Y[0,0] 0)))
"""


@st.composite
def damaged(draw: Any, sound: st.SearchStrategy[bytes]) -> bytes:
    """Draw a sound file and damage it in a few places."""
    data = bytearray(draw(sound))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(data)))
        end = min(len(data), start + draw(st.integers(0, 12)))
        piece = bytes(data[start:end])
        what = draw(st.sampled_from(["replace", "drop", "double", "move", "cut"]))
        if what == "replace":
            data[start:end] = draw(st.binary(max_size=12))
        elif what == "drop":
            del data[start:end]
        elif what == "double":
            data[start:start] = piece * draw(st.integers(1, 50))
        elif what == "move":
            del data[start:end]
            place = draw(st.integers(0, len(data)))
            data[place:place] = piece
        else:
            del data[end:]
    return bytes(data)


def read_onnx(path: Path) -> object:
    """Compile a file."""
    return ibpc.compile(path)


def read_vnnlib(path: Path) -> object:
    """Parse a file and bound it as a certifier would."""
    return ibpc.load_vnnlib(path)


KINDS: dict[str, tuple[str, Callable[[Path], object], st.SearchStrategy[bytes]]] = {
    "onnx": (".onnx", read_onnx, damaged(models().map(lambda model: model.SerializeToString()))),
    "vnnlib": (".vnnlib", read_vnnlib, damaged(st.sampled_from([PROPERTY, TENSORS]))),
}


def main() -> None:
    """Fuzz one of the parsers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--slowest", type=float, default=10.0)
    options = parser.parse_args()
    suffix, read, files = KINDS[options.kind]
    counts = {"read": 0, "refused": 0, "failed": 0}
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        path, number = Path(folder) / f"file{suffix}", options.seed
        while time.monotonic() < end:
            _round(path, read, files, number, counts, options.slowest)
            number += 1
    print(f"{sum(counts.values()):,} files: " + ", ".join(f"{count:,} {what}" for what, count in counts.items()))
    sys.exit(counts["failed"] > 0)


def _round(
    path: Path,
    read: Callable[[Path], object],
    files: st.SearchStrategy[bytes],
    number: int,
    counts: dict[str, int],
    slowest: float,
) -> None:
    @seed(number)
    @settings(
        max_examples=200, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck)
    )
    @given(files)
    def attempt(data: bytes) -> None:
        path.write_bytes(data)
        started = time.monotonic()
        try:
            read(path)
            result = "read"
        except IbpcError:
            result = "refused"
        except Exception:
            result = "failed"
            print(f"seed {number}: {traceback.format_exc()}", flush=True)
            (Path(tempfile.gettempdir()) / f"fuzz-{number}-{counts['failed']}{path.suffix}").write_bytes(data)
        if time.monotonic() - started > slowest:
            result = "failed"
            print(f"seed {number}: {time.monotonic() - started:.0f} s for a file of {len(data):,} bytes", flush=True)
        counts[result] += 1

    attempt()


if __name__ == "__main__":
    main()
