"""From the IR to PyTorch graphs, by running the operator rules on `torch.fx` proxies.

The rules that tests call on tensors are the rules that emit the graphs; there is no second implementation. All
graphs of one network read their parameters from one shared tree of modules, one child a node, so that training any of
them trains the network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from types import MappingProxyType
from typing import Any, Final, cast

import torch
from torch import fx, nn

from ibpc.interval import Interval, Paired, ends_of
from ibpc.ir import INPUT, Graph, Node
from ibpc.ops import operators
from ibpc.ops.rules import Call, Rules, call_of
from ibpc.rounding import Arithmetic

NO_OVERRIDES: Final[Mapping[str, Rules]] = MappingProxyType({})


class Phase(Enum):
    """Which rules a nominal graph has.

    TRAINING normalizes by the statistics of the batch and applies dropout. ATTACK computes the values of EVALUATION,
    with usable gradients where those of EVALUATION are 0.
    """

    EVALUATION = "evaluation"
    TRAINING = "training"
    ATTACK = "attack"


# ── parameters ──────────────────────────────────────────────────────────────────────────────────────────────────
def parameter_tree(graph: Graph, shared: nn.Module | None = None) -> nn.Module:
    """Return the modules that hold the graph's state: child `node`, parameter or buffer `role`, as copies.

    Trainable roles become Parameters, all others buffers. Nodes that `shared`, another such tree, knows keep its
    modules: so a pass may add nodes to a network in training.
    """
    root = nn.Module()
    known = {} if shared is None else dict(shared.named_children())
    for node in graph.order():
        if node.name in known:
            root.add_module(node.name, known[node.name])
            continue
        arrays = graph.parameters_of(node.name)
        owned = {role: value for role, value in arrays.items() if f"{node.name}.{role}" in graph.state}
        if not owned:
            continue
        holder = nn.Module()
        trainable = operators()[node.operator].trainable
        for role, value in owned.items():
            tensor = torch.as_tensor(value).detach().clone()
            if role in trainable and tensor.is_floating_point():
                holder.register_parameter(role, nn.Parameter(tensor))
            else:
                holder.register_buffer(role, tensor)
        root.add_module(node.name, holder)
    return root


# ── emission ────────────────────────────────────────────────────────────────────────────────────────────────────
class _Emission:
    """An fx graph under construction over a shared parameter tree."""

    def __init__(self, name: str, parameters: nn.Module) -> None:
        self.name = name
        self.parameters = parameters
        self.fx = fx.Graph()
        self._tracer = fx.proxy.GraphAppendingTracer(self.fx)
        self._fetched: dict[str, torch.Tensor] = {}

    def placeholder(self, name: str) -> torch.Tensor:
        return cast(torch.Tensor, fx.Proxy(self.fx.placeholder(name), self._tracer))

    def parameters_of(self, graph: Graph, name: str) -> dict[str, torch.Tensor]:
        return {role: self._fetch(graph.source_of(f"{name}.{role}")) for role in graph.parameters_of(name)}

    def _fetch(self, target: str) -> torch.Tensor:
        if target not in self._fetched:
            node = self.fx.create_node("get_attr", target, name=target.replace(".", "_"))
            self._fetched[target] = cast(torch.Tensor, fx.Proxy(node, self._tracer))
        return self._fetched[target]

    def finish(self, outputs: Sequence[torch.Tensor]) -> fx.GraphModule:
        nodes = tuple(cast(fx.Proxy, output).node for output in outputs)
        self.fx.output(nodes[0] if len(nodes) == 1 else nodes)
        self.fx.eliminate_dead_code()
        module = fx.GraphModule(nn.Module(), fx.Graph(), self.name)
        used = {str(node.target).partition(".")[0] for node in self.fx.nodes if node.op == "get_attr"}
        for name, child in self.parameters.named_children():
            if name in used:
                module.add_module(name, child)
        module.graph = self.fx
        return module


def lower_nominal(
    graph: Graph,
    parameters: nn.Module,
    phase: Phase = Phase.EVALUATION,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> fx.GraphModule:
    """Return the graph x → y: one argument an input, one result an output (a tuple where there are several).

    `inputs` and `outputs` name nodes to cut a part out of the network; by default they are the graph's own.
    """
    emission = _Emission("Nominal", parameters)
    starts = graph.inputs if inputs is None else tuple(inputs)
    ends = graph.outputs if outputs is None else tuple(outputs)
    values = {name: emission.placeholder(name) for name in starts}
    for node in _between(graph, starts, ends):
        rules = operators()[node.operator].rules
        rule = {Phase.TRAINING: rules.training, Phase.ATTACK: rules.guiding}.get(phase) or rules.nominal
        operands = [values[name] for name in graph.operands(node.name)]
        values[node.name] = rule(call_of(graph, node), *operands, **emission.parameters_of(graph, node.name))
    return emission.finish([values[name] for name in ends])


def lower_interval(
    graph: Graph,
    parameters: nn.Module,
    arithmetic: Arithmetic = Arithmetic.REAL,
    outputs: Sequence[str] | None = None,
) -> fx.GraphModule:
    """Return the graph (l, u) → (l, u): two arguments an input, two results a node of `outputs`, in evaluation.

    By default these are the graph's own.
    """
    emission = _Emission("IntervalBounds", parameters)
    ends = graph.outputs if outputs is None else tuple(outputs)
    values: dict[str, Interval | torch.Tensor] = {}
    for name in graph.inputs:
        lower, upper = (emission.placeholder(f"{name}_{side}") for side in ("lower", "upper"))
        values[name] = Interval.bounds(lower, upper)
    perturbed = graph.descendants(graph.inputs)
    for node in _between(graph, graph.inputs, ends):
        rules = operators()[node.operator].rules
        rule: Callable[..., Interval | torch.Tensor] = rules.interval if node.name in perturbed else rules.nominal
        operands = [values[name] for name in graph.operands(node.name)]
        call = call_of(graph, node, arithmetic)
        values[node.name] = rule(call, *operands, **emission.parameters_of(graph, node.name))
    boxes = [value if isinstance(value := values[name], Interval) else Interval.point(value) for name in ends]
    return emission.finish(ends_of(boxes))


def lower_paired(
    graph: Graph,
    parameters: nn.Module,
    nominal: Sequence[str],
    bounded: Sequence[str],
    inputs: Sequence[str] | None = None,
    scaled: Sequence[str] = (),
    rules: Mapping[str, Rules] = NO_OVERRIDES,
) -> fx.GraphModule:
    """Return the training graph (x, l, u per input) → (y per `nominal` node, then l, u per `bounded` node).

    For each node of `scaled`, whose training rule differs from its nominal one, the scale a and the shift b of this
    step (x ↦ a · x + b) come last; such a node lies between the inputs and the `bounded` nodes. Where a node serves
    both sides they run through its weight together; where only one side needs it, only that side is emitted.
    BatchNormalization normalizes both by the nominal batch. `rules` by operator stand in for the registered ones: then
    the bounds may be none.
    """
    emission = _Emission("Paired", parameters)
    starts = graph.inputs if inputs is None else tuple(inputs)
    sides = _Sides(graph, starts, nominal, bounded, scaled, rules)
    for name in starts:
        x, lower, upper = (emission.placeholder(f"{name}{suffix}") for suffix in ("", "_lower", "_upper"))
        sides.place(name, Paired.separate(x, Interval.bounds(lower, upper)))
    for node in _between(graph, starts, [*nominal, *bounded]):
        sides.run(node, emission.parameters_of(graph, node.name))
    values = [sides.nominal(name) for name in nominal]
    bounds = ends_of(sides.interval(name) for name in bounded)
    return emission.finish([*values, *bounds, *(part for name in scaled for part in sides.scalings[name])])


class _Sides:
    """The values of a paired graph under construction, and which side of each node somebody needs."""

    def __init__(
        self,
        graph: Graph,
        starts: Sequence[str],
        nominal: Sequence[str],
        bounded: Sequence[str],
        scaled: Sequence[str],
        rules: Mapping[str, Rules],
    ) -> None:
        self._graph = graph
        self._rules = rules
        self._scaled = frozenset(scaled)
        self.scalings: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._perturbed = graph.descendants(starts)
        self._interval_needed = graph.ancestors(bounded)
        self._nominal_needed = graph.ancestors([*nominal, *self._batch_dependent()])
        self._values: dict[str, Paired | Interval | torch.Tensor] = {}

    def _batch_dependent(self) -> list[str]:
        """Return the nodes whose box depends on the nominal batch, so that both sides are needed there."""
        rules = {name: operators()[self._graph.node(name).operator].rules for name in self._interval_needed}
        return [name for name, rule in rules.items() if rule.training is not rule.nominal]

    def place(self, name: str, value: Paired) -> None:
        self._values[name] = value

    def run(self, node: Node, parameters: Mapping[str, torch.Tensor]) -> None:
        rules = self._rules.get(node.operator, operators()[node.operator].rules)
        call = call_of(self._graph, node)
        names = self._graph.operands(node.name)
        both = node.name in self._nominal_needed and node.name in self._interval_needed
        if node.name not in self._perturbed:
            self._values[node.name] = rules.nominal(call, *map(self.nominal, names), **parameters)
        elif both and node.name in self._scaled:
            self._values[node.name] = self._scale(node.name, call, self._values[names[0]], parameters)
        elif both:
            self._values[node.name] = rules.paired(call, *map(self._operand, names), **parameters)
        elif node.name in self._interval_needed:
            operands = [self._box(name) for name in names]
            self._values[node.name] = rules.interval(call, *operands, **parameters)
        else:
            self._values[node.name] = rules.training(call, *map(self.nominal, names), **parameters)

    def _scale(self, name: str, call: Call, x: Any, parameters: Mapping[str, torch.Tensor]) -> Paired:
        rule = operators()[self._graph.node(name).operator].rules.scaling
        assert rule is not None
        scale, shift = self.scalings[name] = rule(call, x.nominal, **parameters)
        box = Interval.around(x.interval.center * scale + shift, x.radius * scale.abs())
        return Paired.separate(x.nominal * scale + shift, box)

    def _operand(self, name: str) -> Paired | torch.Tensor:
        value = self._values[name]
        assert not isinstance(value, Interval)
        return value

    def _box(self, name: str) -> Interval | torch.Tensor:
        value = self._values[name]
        return value.interval if isinstance(value, Paired) else value

    def nominal(self, name: str) -> torch.Tensor:
        value = self._values[name]
        assert not isinstance(value, Interval)
        return value.nominal if isinstance(value, Paired) else value

    def interval(self, name: str) -> Interval:
        box = self._box(name)
        return box if isinstance(box, Interval) else Interval.point(box)


def _between(graph: Graph, starts: Sequence[str], ends: Iterable[str]) -> list[Node]:
    """Return in order the nodes that `ends` need and `starts` do not hide."""
    needed: set[str] = set()
    pending = list(ends)
    while pending:
        name = pending.pop()
        if name in needed or name in starts:
            continue
        needed.add(name)
        pending.extend(graph.operands(name))
    return [node for node in graph.order() if node.name in needed and node.operator != INPUT]


# ── freezing ────────────────────────────────────────────────────────────────────────────────────────────────────
def freeze(module: fx.GraphModule) -> fx.GraphModule:
    """Return a copy of an evaluation graph in which everything that depends on parameters alone is precomputed.

    |W|, folded scales and merged specifications then cost nothing per call. The copy shares no parameters.
    """
    constants: dict[fx.Node, Any] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            constants[node] = entry_of(module, str(node.target)).detach().clone()
        elif node.op in ("call_function", "call_method") and _is_constant(node, constants):
            constants[node] = _evaluate(node, constants)
    frozen, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    holder = nn.Module()
    for node in module.graph.nodes:
        if node in constants:
            if any(user not in constants for user in node.users):
                name = f"constant_{node.name}"
                holder.register_buffer(name, constants[node])
                copies[node] = frozen.get_attr(name)
        else:
            copies[node] = frozen.node_copy(node, copies.__getitem__)
    return fx.GraphModule(holder, frozen, type(module).__name__)


def _is_constant(node: fx.Node, constants: Mapping[fx.Node, Any]) -> bool:
    return bool(node.all_input_nodes) and all(source in constants for source in node.all_input_nodes)


def entry_of(tree: nn.Module, key: str) -> torch.Tensor:
    """Return the parameter or buffer of a state entry ("node.role") in a tree of modules."""
    owner, _, role = key.rpartition(".")
    return cast(torch.Tensor, getattr(tree.get_submodule(owner), role))


@torch.no_grad()
def _evaluate(node: fx.Node, constants: Mapping[fx.Node, Any]) -> Any:
    arguments = fx.node.map_arg(node.args, constants.__getitem__)
    keywords = fx.node.map_arg(node.kwargs, constants.__getitem__)
    if node.op == "call_function":
        return cast(Callable[..., Any], node.target)(*arguments, **keywords)
    receiver, *rest = arguments
    return getattr(receiver, str(node.target))(*rest, **keywords)
