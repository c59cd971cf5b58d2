"""How far bounds of one network lie apart, exact ones as judge: two Markdown tables.

    python benchmarks/exact.py MODEL --eps 0.1 0.15 --limit 10 [--methods ibp crown alpha-crown mip] [--timeout 120]

For test images that are classified correctly, spread evenly: the least margin that each method proves at each ε, and
the largest radius that it certifies, to a thousandth. Real arithmetic, one thread, CPU seconds. Programs are solved for
the margins that α-CROWN finds least, until no other can be the least; a box whose time was over is counted.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import torch

import ibpc
from ibpc.api import load_dataset, open_network
from ibpc.bounds import METHODS
from ibpc.bounds.values import walk_of
from ibpc.cli.options import parse_eps
from ibpc.data import fit_images, to_unit
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic
from ibpc.verify.radius import largest_radius
from ibpc.verify.verdicts import Verdict

_TOLERANCE = 1e-3


def main() -> None:
    """Bound and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="mnist", help="a data set, as for `ibpc certify`")
    parser.add_argument("--eps", type=parse_eps, nargs="+", required=True)
    parser.add_argument("--methods", nargs="+", default=["ibp", "crown", "alpha-crown", "mip"])
    parser.add_argument("--limit", type=int, default=10, help="images")
    parser.add_argument("--timeout", type=float, default=120.0, help="CPU seconds a box")
    parser.add_argument("--most", type=float, default=0.5, help="the largest radius that is tried")
    options = parser.parse_args()
    torch.set_num_threads(1)
    vars(time)["monotonic"] = time.process_time
    network = open_network(options.model)
    images, labels = correct(network, options.data, options.limit)
    print(f"{network.name}, {len(images)} images, {options.timeout:g} CPU seconds a box\n")
    for eps in options.eps:
        margins_table(network, images, labels, eps, options.methods, options.timeout)
    if options.most:
        radii_table(network, images, labels, options.methods, options.most, options.timeout)


def correct(network: ibpc.Network, data: str, limit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images that the network classifies correctly, spread evenly over the test split, and their labels."""
    test = load_dataset(data).test
    chosen = test.take(torch.arange(0, len(test), max(1, len(test) // (4 * limit))))
    images = fit_images(to_unit(chosen.images), network.input_shape)
    with torch.no_grad():
        right = (network.nominal(images).argmax(1) == chosen.labels).nonzero()[:, 0]
    picked = right[:: max(1, len(right) // limit)][:limit]
    return images[picked], chosen.labels[picked]


def least_margin(
    network: ibpc.Network, image: torch.Tensor, label: int, eps: float, method: str, timeout: float
) -> tuple[float, bool, float]:
    """Return what a method proves of the least margin over a ball, whether time was left, and CPU seconds."""
    rows, started = torch.eye(network.classes), time.process_time()
    matrix = rows[label] - rows[[other for other in range(network.classes) if other != label]]

    def lower(matrix: torch.Tensor, name: str) -> list[float]:
        bounder = METHODS[name].bounder(walk_of(network.snapshot()), matrix, Arithmetic.REAL, started + timeout)
        return [float(end) for end in bounder(Interval.ball(image[None], eps, (0.0, 1.0))).lower[0]]

    if method != "mip":
        return min(lower(matrix, method)), True, time.process_time() - started
    least = float("inf")
    for quick, number in sorted((end, number) for number, end in enumerate(lower(matrix, "alpha-crown"))):
        if quick >= least:
            break
        least = min(least, *lower(matrix[number : number + 1], method))
    seconds = time.process_time() - started
    return least, seconds < timeout, seconds


def margins_table(
    network: ibpc.Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    eps: float,
    methods: Sequence[str],
    timeout: float,
) -> None:
    """Print what each method proves of the least margins at one ε."""
    print(f"Least margins at ε = {eps:g}:\n")
    print("| method | mean | median | above 0 | mean below the last method | out of time | CPU s an image |")
    print("|---|---:|---:|---:|---:|---:|---:|", flush=True)
    pairs = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    found = {name: [least_margin(network, *pair, eps, name, timeout) for pair in pairs] for name in methods}
    last = [margin for margin, *_ in found[methods[-1]]]
    for name in methods:
        margins = [margin for margin, *_ in found[name]]
        gap = statistics.mean(best - margin for best, margin in zip(last, margins, strict=True))
        late = sum(not is_done for _, is_done, _ in found[name])
        seconds = statistics.mean(spent for *_, spent in found[name])
        print(
            f"| {name} | {statistics.mean(margins):.3f} | {statistics.median(margins):.3f} | "
            f"{sum(margin > 0 for margin in margins)} | {gap:.3f} | {late} | {seconds:.2f} |"
        )
    print(flush=True)


def radii_table(
    network: ibpc.Network,
    images: torch.Tensor,
    labels: torch.Tensor,
    methods: Sequence[str],
    most: float,
    timeout: float,
) -> None:
    """Print the largest radii that each method certifies, by bisection."""
    print("Largest radii that are certified:\n")
    print("| method | mean | least | greatest | CPU s an image |\n|---|---:|---:|---:|---:|", flush=True)
    for name in methods:
        started, radii = time.process_time(), []
        for image, label in zip(images, labels, strict=True):
            radii.append(certified_radius(network, image, int(label), name, most, timeout))
        seconds = (time.process_time() - started) / len(images)
        print(
            f"| {name} | {statistics.mean(radii):.4f} | {min(radii):.4f} | {max(radii):.4f} | {seconds:.1f} |",
            flush=True,
        )


def certified_radius(
    network: ibpc.Network, image: torch.Tensor, label: int, method: str, most: float, timeout: float
) -> float:
    """Return the largest radius, to a thousandth, at which a method proves all margins positive."""

    def verdict_at(eps: float) -> Verdict:
        margin, *_ = least_margin(network, image, label, eps, method, timeout)
        return Verdict.VERIFIED if margin > 0 else Verdict.UNKNOWN

    return largest_radius(verdict_at, most, _TOLERANCE).certified


if __name__ == "__main__":
    main()
