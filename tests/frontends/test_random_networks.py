"""Networks that nobody designed: drawn at random, imported, compared with ONNX Runtime, bounded and attacked.

`benchmarks/fuzz_networks.py` runs the same for as many networks as one likes.
"""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings

from tests.networks import faults, models


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models())
def test_random_networks_import_and_are_bounded(model):
    for seed in range(3):
        assert not list(faults(model, seed))


@settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(models())
def test_linear_bounds_of_random_networks_hold(model):
    """At radius 0 nothing but rounding is left: what a binary32 execution adds has to be in the bound."""
    for seed in (0, 2):
        assert not list(faults(model, seed, ["crown-ibp", "crown", "alpha-crown"]))
