"""Random small networks through the pipelines: same values, bounds no looser, and sound for the original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ibpc.entries import Entries
from ibpc.interval import Interval
from ibpc.ir import Graph
from ibpc.passes import COMPILE, EVALUATION, merge_specification
from ibpc.rounding import Arithmetic
from tests.passes.building import Net, bounds, nominal, seeded
from tests.passes.test_float32_claim import escapes


@dataclass
class Drawing:
    """A network that grows at its head; earlier heads may be read again."""

    net: Net
    draw: torch.Generator
    head: str
    count: int = 0
    heads: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.net.graph.node(self.head).shape[1:]

    def name(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def normal(self, *shape: int) -> Tensor:
        """Draw normally distributed numbers, with one scale from 1e-3 to 1e3 per call."""
        size = 10.0 ** (6.0 * torch.rand((), generator=self.draw) - 3.0)
        return size * torch.randn(shape, generator=self.draw)

    def moved(self, name: str) -> None:
        self.heads.append(self.head)
        self.head = name


Step = Callable[[Drawing], None]


def convolve(d: Drawing) -> None:
    if len(d.shape) == 3 and min(d.shape[1:]) >= 3:
        pads = int(torch.randint(2, (), generator=d.draw))
        state = {"bias": d.normal(4)} if pads == 0 else {}
        d.moved(d.net.conv(d.name(), d.head, d.normal(4, d.shape[0], 3, 3), pads, **state))


def convolve_transposed(d: Drawing) -> None:
    if len(d.shape) == 3 and d.shape[1] <= 3:
        d.moved(d.net.conv_transpose(d.name(), d.head, d.normal(d.shape[0], 2, 2, 2), bias=d.normal(2)))


def normalize(d: Drawing) -> None:
    d.moved(d.net.normalization(d.name(), d.head, d.draw, 1e-6))


def multiply(d: Drawing) -> None:
    d.moved(d.net.add(d.name(), "Mul", [d.net.constant(d.name(), d.normal()), d.head]))


def divide(d: Drawing) -> None:
    divisor = d.normal(*per_channel(d)).abs() + 1e-2
    d.moved(d.net.add(d.name(), "Div", [d.head, d.net.constant(d.name(), divisor)]))


def shift(d: Drawing) -> None:
    d.moved(d.net.add(d.name(), "Add", [d.head, d.net.constant(d.name(), d.normal(*per_channel(d)))]))


def shift_each(d: Drawing) -> None:
    d.moved(d.net.add(d.name(), "Sub", [d.net.constant(d.name(), d.normal(*d.shape)), d.head]))


def negate(d: Drawing) -> None:
    d.moved(d.net.add(d.name(), "Neg", d.head))


def clip(d: Drawing) -> None:
    d.moved(d.net.add(d.name(), "Relu", d.head))


def copy(d: Drawing) -> None:
    d.moved(d.net.add(d.name(), "Identity", d.net.add(d.name(), "Dropout", d.head)))


def add_earlier(d: Drawing) -> None:
    earlier = [name for name in d.heads if d.net.graph.node(name).shape[1:] == d.shape]
    if earlier:
        d.moved(d.net.add(d.name(), "Add", [d.head, earlier[-1]]))


def multiply_matrix(d: Drawing) -> None:
    if len(d.shape) > 1:
        d.moved(d.net.add(d.name(), "Flatten", d.head))
    d.moved(d.net.add(d.name(), "MatMul", [d.head, d.net.constant(d.name(), d.normal(d.shape[0], 3))]))


def view(d: Drawing) -> None:
    shape = [3, 1, 1] if d.shape == (3,) else [*reversed(d.shape)]
    d.moved(d.net.add(d.name(), "Reshape", d.head, {"shape": shape}))


def per_channel(d: Drawing) -> tuple[int, ...]:
    return (d.shape[0], *[1] * (len(d.shape) - 1))


STEPS: tuple[Step, ...] = (
    convolve,
    convolve_transposed,
    normalize,
    multiply,
    divide,
    shift,
    shift_each,
    negate,
    clip,
    copy,
    add_earlier,
    multiply_matrix,
    view,
)


def network(steps: list[Step], seed: int) -> Graph:
    net = Net(2, 4, 4)
    drawing = Drawing(net, seeded(seed), "x")
    for step in steps:
        step(drawing)
    multiply_matrix(drawing)
    return net.finish(drawing.head)


networks = st.builds(network, st.lists(st.sampled_from(STEPS), max_size=10), st.integers(0, 2**20))
randomly = settings(max_examples=15, deadline=None, derandomize=True)


def samples(graph: Graph) -> tuple[Tensor, Tensor]:
    """Return points and radii, float32."""
    draw = seeded(len(graph))
    x = torch.randn(6, 2, 4, 4, generator=draw)
    return x, 0.1 * torch.rand(x.shape, generator=draw)


def tolerance_of(graph: Graph, x: Tensor, width: Tensor) -> float:
    """Return 1e-11 times the largest sum of moduli in any node, to which binary64 rounding errors are proportional."""
    probe = graph.copy()
    probe.outputs = tuple(node.name for node in graph.order() if node.operator not in ("Constant", "Input"))
    wide = Interval.bounds(-(x.abs() + width), x.abs() + width)
    boxes = bounds(probe, wide, Arithmetic.REAL, torch.float64)
    return 1e-11 * max(1.0, *(float(torch.maximum(-box.lower, box.upper).max()) for box in boxes))


@randomly
@given(networks)
def test_values_stay(graph: Graph) -> None:
    graph.state = Entries({key: value.double() for key, value in graph.state.items()})
    x, width = samples(graph)
    (before,) = nominal(graph, x)
    tolerance = tolerance_of(graph, x, width)
    for pipeline in (COMPILE, EVALUATION):
        (after,) = nominal(pipeline.run(graph)[0], x)
        torch.testing.assert_close(after, before, rtol=0.0, atol=tolerance)


@randomly
@given(networks)
def test_a_pass_that_notes_nothing_changes_nothing(graph: Graph) -> None:
    """`Pass.run` does not verify such a graph again."""
    for step in (*COMPILE.passes, *EVALUATION.passes):
        result = step.run(graph)
        if not result.changes and not result.refusals:
            after = result.graph
            assert (after.to_text(), after.inputs, after.ties) == (graph.to_text(), graph.inputs, graph.ties)
            assert list(after.state) == list(graph.state)
            assert all(after.state[key] is graph.state[key] for key in graph.state)
        graph = result.graph


@randomly
@given(networks)
def test_real_bounds_get_no_looser(graph: Graph) -> None:
    graph.state = Entries({key: value.double() for key, value in graph.state.items()})
    x, width = samples(graph)
    box = Interval.ball(x.double(), width.double())
    (before,) = bounds(graph, box, Arithmetic.REAL, torch.float64)
    (after,) = bounds(EVALUATION.run(graph)[0], box, Arithmetic.REAL, torch.float64)
    tolerance = tolerance_of(graph, x, width)
    assert bool((after.lower >= before.lower - tolerance).all())
    assert bool((after.upper <= before.upper + tolerance).all())
    wider = Interval.bounds(after.lower - tolerance, after.upper + tolerance)
    assert bool(wider.contains(nominal(graph, x)[0]).all())


@randomly
@given(networks)
def test_binary32_bounds_hold_for_the_original(graph: Graph) -> None:
    x, width = samples(graph)
    result, _ = EVALUATION.run(graph)
    assert escapes(graph, result, x, Interval.bounds(x, x)) == 0
    corners = torch.where(torch.rand(x.shape, generator=seeded(1)) < 0.5, x - width, x + width)
    assert escapes(graph, result, corners, Interval.bounds(x - width, x + width)) == 0


@randomly
@given(networks, st.booleans())
def test_margins_after_and_before_the_pipeline(graph: Graph, first: bool) -> None:
    graph.state = Entries({key: value.double() for key, value in graph.state.items()})
    x, width = samples(graph)
    matrix = torch.tensor([[1.0, -1.0, 0.0], [0.5, 0.0, 2.0]], dtype=torch.float64)
    (logits,) = nominal(graph, x)
    if first:
        merged, _ = EVALUATION.run(merge_specification(graph, matrix).graph)
    else:
        merged = merge_specification(EVALUATION.run(graph)[0], matrix).graph
    tolerance = tolerance_of(graph, x, width)
    torch.testing.assert_close(nominal(merged, x)[1], logits @ matrix.T, rtol=0.0, atol=tolerance)
