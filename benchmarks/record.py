"""Put a training receipt and a certification together into one file of benchmarks/results.

    python benchmarks/record.py RUN VERDICTS.json benchmarks/results/NAME.json [--search SEARCHED.json]

RUN is a trained artifact; VERDICTS.json what `ibpc certify RUN --json` wrote, SEARCHED.json what it wrote with
`--method auto`. The verdicts of single examples are left out: certifying the run again gives them. `tables.py` then
brings the tables in the documents up to date.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("verdicts", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--search", type=Path, help="verdicts on the same images by a search")
    parser.add_argument("--cpu-seconds", type=float, help="CPU seconds of the training, where they were measured")
    options = parser.parse_args()
    receipt = json.loads((options.run / "training" / "receipt.json").read_text())
    manifest = json.loads((options.run / "manifest.json").read_text())
    weights = manifest["files"]["weights.safetensors"]
    result = {"weights_sha256": weights, "certification": certification(options.verdicts), "training": receipt}
    if options.search is not None:
        result["search"] = certification(options.search)
    if options.cpu_seconds is not None:
        result["cpu_seconds"] = options.cpu_seconds
    options.output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(f"wrote {options.output}")


def certification(path: Path) -> dict[str, Any]:
    """Return verdicts without those of single examples; of a receipt of before, what it says of them."""
    verdicts: dict[str, Any] = json.loads(path.read_text())
    if "certification" in verdicts:
        return dict(verdicts["certification"])
    del verdicts["examples"]
    return verdicts


if __name__ == "__main__":
    main()
