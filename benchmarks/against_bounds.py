"""CROWN bounds against auto_LiRPA: the same network, box, planes and machine, in turns.

    PYTHON benchmarks/against_bounds.py FOLDER [--only WORD] [--rounds 5]

PYTHON is the interpreter of an environment of its own that has this project, auto_LiRPA and onnx2torch; FOLDER has
`instances.csv`. Each row bounds all outputs over one box from below and above, by CROWN with the adaptive lower slope
of Relu and backward bounds in front of every Relu that intervals leave undecided: over the box of the network's first
property where it has one, else over a ball around the middle. The last rows are specs with their first weights and
balls around random images. What does not depend on the box is prepared before. All in one process on one thread, CPU
milliseconds, medians of rounds in which all take turns; the rival in binary32, as it is by default, and in binary64,
as ours always is.

`apart` is the greatest difference between our final bounds and the rival's (in binary64 where it can) over the same
boxes in front of the Relus, relative to the greatest modulus of a bound of that network. Each then bounds those boxes
by itself, and that is what is timed: ours keep the better of backward and interval bounds for every neuron; `narrower`
is by how much the mean width of the outputs shrinks by that. `crown` is the method as users call it: besides the
backward bounds it computes interval bounds and linear bounds over interval boxes, and takes the intersection.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf, prod
from pathlib import Path
from typing import Any, Final, TypeAlias

import torch
from against_training import module_of as module_of_spec

import ibpc
from benchmarks.nets import listed
from ibpc.bounds import METHODS
from ibpc.bounds.backward import Backward
from ibpc.bounds.crown import bounds_of
from ibpc.bounds.refinement import refined_values
from ibpc.bounds.values import Values, walk_of
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic

Tensor: TypeAlias = torch.Tensor
Ends: TypeAlias = tuple[Tensor, Tensor]

CPU: Final = torch.device("cpu")
SPECS: Final = Path(__file__).parents[1] / "specs"
SPEC_NAMES: Final = ("mlp_mnist", "mnist_small")
SPEC_EPS: Final = 2 / 255
# Networks without a property: the radius around the middle of [0, 1].
RADIUS: Final = 0.02
NETWORKS: Final = (
    "vnncomp2022/rl_onnx/cartpole.onnx.gz",
    "vnncomp2022/reach_prob_density/robot.onnx.gz",
    "vnncomp2022/nn4sys/lindex.onnx.gz",
    "vnncomp2024/safenlp/medical/perturbations_0.onnx.gz",
    "vnncomp2022/tllverifybench/tllBench_n=2_N=M=8_m=1_instance_0_0.onnx.gz",
    "vnncomp2021/mnistfc/mnist-net_256x2.onnx",
    "dnnv-benchmarks/ERAN-MNIST/pyt/convSmallRELU__Point.onnx",
    "vnncomp2021/oval21/cifar_base_kw.onnx",
    "vnncomp2021/cifar10_resnet/resnet_2b.onnx",
)
KINDS: Final = {"binary32": torch.float32, "binary64": torch.float64}
HEAD: Final = (
    "| network | apart | narrower | backward | `crown` | auto_LiRPA, binary32 | binary64 | binary32 / backward | "
    "binary64 / backward |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)


@dataclass(frozen=True)
class Task:
    """A network and boxes (B, *shape) of its input."""

    name: str
    path: Path
    lower: Tensor
    upper: Tensor


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="networks and instances.csv")
    parser.add_argument("--only", default="", help="only rows whose name has this")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    print(HEAD, flush=True)
    for name in (*NETWORKS, *SPEC_NAMES):
        if options.only in name:
            print(row(task_of(options.folder, name), options.rounds), flush=True)


def row(task: Task, rounds: int) -> str:
    """Return a row of the table."""
    ours, rivals = Ours(task), dict(able(task))
    values, found, judge = ours.boxes(), ours.backward(), list(rivals.values())[-1]
    same = judge.bounds(ours.in_front(values))
    size = max(float(end.abs().max()) for end in same)
    apart = max(float((end - other).abs().max()) for end, other in zip(found, same, strict=True)) / size
    own = judge.bounds()
    narrower = 1.0 - float((found[1] - found[0]).mean() / (own[1] - own[0]).mean())
    steps = {"backward": ours.backward, "crown": ours.crown} | {name: rival.bounds for name, rival in rivals.items()}
    times = in_turns(steps, rounds)
    cells = " | ".join(f"{times[name]:.1f}" if name in times else "" for name in ("backward", "crown", *KINDS))
    ratios = " | ".join(f"{times[name] / times['backward']:.2f}" if name in times else "" for name in KINDS)
    return f"| {task.name} | {apart:.0e} | {narrower:.1%} | {cells} | {ratios} |"


def able(task: Task) -> Iterator[tuple[str, Rival]]:
    """Yield the rival by arithmetic: some converted modules have constants that stay in binary32."""
    for name, kind in KINDS.items():
        try:
            rival = Rival(task, kind)
            rival.bounds()
        except RuntimeError as error:
            print(f"{task.name}: {name}: {error}", file=sys.stderr)
            continue
        yield name, rival


def in_turns(steps: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of CPU time of each step over rounds in which all take turns."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started = time.process_time()
            step()
            times[name].append(1e3 * (time.process_time() - started))
    return {name: statistics.median(found) for name, found in times.items()}


# ── networks and boxes ──────────────────────────────────────────────────────────────────────────────────────────
def task_of(folder: Path, name: str) -> Task:
    """Return the network and the boxes of a row."""
    if name in SPEC_NAMES:
        path = SPECS / f"{name}.json"
        shape = json.loads(path.read_text())["input"]["shape"]
        x = torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))
        return Task(name, path, (x - SPEC_EPS).clamp(0, 1), (x + SPEC_EPS).clamp(0, 1))
    path = folder / name
    shape = ibpc.compile(path).input_shape
    prop = next((item.prop for item in listed(folder) if item.network == path), None)
    if prop is None:
        middle = torch.full((1, *shape), 0.5)
        return Task(name, path, middle - RADIUS, middle + RADIUS)
    lower, upper = ibpc.load_vnnlib(prop).cases[0].box.outer
    return Task(name, path, lower.reshape(1, *shape), upper.reshape(1, *shape))


def module_of(path: Path) -> torch.nn.Module:
    """Return the network of a file: a spec as torch.nn has it, an ONNX file as onnx2torch converts it."""
    if path.suffix == ".json":
        torch.manual_seed(0)
        return module_of_spec(json.loads(path.read_text()))
    import onnx
    from onnx2torch import convert

    data = path.read_bytes()
    converted: torch.nn.Module = convert(onnx.load_from_string(gzip.decompress(data) if path.suffix == ".gz" else data))
    return converted


# ── ours ────────────────────────────────────────────────────────────────────────────────────────────────────────
class Ours:
    """The network, prepared."""

    def __init__(self, task: Task) -> None:
        torch.manual_seed(0)
        network = ibpc.compile(task.path)
        network.parameters.eval()
        graph = network.snapshot()
        rows = torch.eye(sum(prod(graph.node(name).shape[1:]) for name in graph.outputs))
        self._box, self._walk, self._rows = Interval.bounds(task.lower, task.upper), walk_of(graph), rows.double()
        self._method = METHODS["crown"].bounder(walk_of(graph), rows, Arithmetic.REAL)

    @torch.no_grad()
    def boxes(self) -> Values:
        """Return the boxes of all values, bounded backward in front of Relus."""
        return refined_values(self._walk, (self._box,), Arithmetic.REAL)

    def in_front(self, values: Values) -> list[Interval]:
        """Return the boxes in front of the Relus, in order."""
        steps = self._walk.steps.values()
        return [values.box(step.operands[0]) for step in steps if step.node.operator == "Relu"]

    @torch.no_grad()
    def backward(self) -> Ends:
        """Return the backward bounds of the outputs."""
        values = self.boxes()
        return bounds_of(self._walk, Backward(self._walk, values), values, self._rows, inf)

    def crown(self) -> Ends:
        """Return the bounds of the method."""
        held = self._method(self._box)
        return held.lower, held.upper


# ── auto_LiRPA ──────────────────────────────────────────────────────────────────────────────────────────────────
class Rival:
    """The network as the rival has it, in an arithmetic."""

    def __init__(self, task: Task, kind: torch.dtype) -> None:
        from auto_LiRPA import BoundedModule, BoundedTensor, PerturbationLpNorm

        lower, upper = task.lower.to(kind), task.upper.to(kind)
        center = (lower + upper) / 2
        self._model: Any = BoundedModule(module_of(task.path).to(kind).eval(), center, device="cpu")
        self._kind = kind
        self._point = BoundedTensor(center, PerturbationLpNorm(norm=inf, x_L=lower, x_U=upper))

    @torch.no_grad()
    def bounds(self, boxes: Sequence[Interval] | None = None) -> Ends:
        """Return the bounds of the outputs, over given boxes in front of the Relus or the rival's own."""
        given = None
        if boxes is not None:
            names = [node.inputs[0].name for node in self._model.nodes() if type(node).__name__ == "BoundRelu"]
            ends = [[box.lower.to(self._kind), box.upper.to(self._kind)] for box in boxes]
            given = dict(zip(names, ends, strict=True))
        low, high = self._model.compute_bounds(x=(self._point,), method="CROWN", interm_bounds=given)
        return low.flatten(1), high.flatten(1)


if __name__ == "__main__":
    main()
