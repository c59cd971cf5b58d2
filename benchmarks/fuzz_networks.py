"""Draw random networks, import them, and compare them with ONNX Runtime: values, and boxes with points of them.

    python -m benchmarks.fuzz_networks --networks 5000 --seed 0

Prints one line per thousand networks, and every failure as it is found. Status 1 if there was one.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

import onnx
from hypothesis import HealthCheck, Phase, given, seed, settings

from ibpc.bounds import METHODS
from ibpc.errors import IbpcError
from tests.networks import faults, models


class Census:
    """What was drawn so far, and what failed."""

    def __init__(self, methods: list[str]) -> None:
        self._methods = methods
        self.networks = 0
        self.types: Counter[str] = Counter()
        self.failures: list[str] = []
        self._started = time.monotonic()

    def add(self, model: onnx.ModelProto) -> None:
        """Try one network at three radii: a point, 0.01 and 0.3."""
        self.types.update(node.op_type for node in model.graph.node)
        for number in range(3):
            try:
                found = list(faults(model, 3 * self.networks + number, self._methods))
            except IbpcError as error:
                found = [f"refused: {error}"]
            for fault in found:
                kinds = " ".join(node.op_type for node in model.graph.node)
                self.failures.append(f"network {self.networks}: {fault} ({kinds})")
                print(self.failures[-1], flush=True)
        self.networks += 1
        if self.networks % 1000 == 0:
            print(self.summary(), flush=True)

    def summary(self) -> str:
        """Return one line."""
        minutes = (time.monotonic() - self._started) / 60
        return (
            f"{self.networks:,} networks of {sum(self.types.values()):,} nodes of {len(self.types)} types, "
            f"{len(self.failures)} failures, {minutes:.0f} min"
        )


def main() -> None:
    """Draw the networks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--networks", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["ibp"])
    options = parser.parse_args()
    census = Census(options.methods)

    @seed(options.seed)
    @settings(
        max_examples=options.networks,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(models())
    def draw(model: onnx.ModelProto) -> None:
        census.add(model)

    draw()
    print(census.summary())
    print(", ".join(f"{kind} {count:,}" for kind, count in census.types.most_common()))
    sys.exit(bool(census.failures))


if __name__ == "__main__":
    main()
