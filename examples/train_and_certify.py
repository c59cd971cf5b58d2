"""Compile a spec, train it with interval bound propagation, and prove what it learned. Data: scikit-learn's digits."""

from pathlib import Path
from tempfile import TemporaryDirectory

import ibpc

EPS = 0.05
SPEC = Path(__file__).parents[1] / "specs" / "digits_small.json"

network = ibpc.compile(SPEC)
recipe = ibpc.Recipe.default("ibp", eps=EPS, dataset="digits").with_overrides({"epochs": 20})
with TemporaryDirectory() as folder:
    run = ibpc.train(network, recipe, "digits", out=folder)
    trained = ibpc.load(folder)

result = ibpc.certify(trained, "digits", eps=EPS)
print(f"trained for {run.receipt['seconds']:.0f} s on {len(run.records)} epochs")
print(f"nominal {result.nominal_accuracy:.1%}, attack {result.attack_accuracy:.1%}, ", end="")
print(f"certified {result.certified_accuracy:.1%}")
