"""Push a box through a network, layer by layer of a network that fits on a napkin."""

import torch

import ibpc
from ibpc.frontends.spec import graph_from_spec

SPEC = {
    "ibpc": 1,
    "name": "napkin",
    "input": {"shape": [2]},
    "classes": 2,
    "layers": [
        {"type": "Linear", "out_features": 2},
        {"type": "ReLU"},
        {"type": "Linear", "out_features": 2},
    ],
}

network = ibpc.Network(graph_from_spec(SPEC, "napkin"))
network.assign(
    {
        "linear1.weight": torch.tensor([[1.0, -1.0], [1.0, 1.0]]),
        "linear1.bias": torch.tensor([0.0, -0.5]),
        "linear2.weight": torch.tensor([[1.0, 1.0], [1.0, -1.0]]),
        "linear2.bias": torch.tensor([0.0, 0.0]),
    }
)
x = torch.tensor([[0.6, 0.4]])
box = network.interval(ibpc.Interval.ball(x, 0.1, clip=(0, 1)))

print(network.graph.to_text())
print("nominal", network.nominal(x).tolist())
print("lower  ", box.lower.tolist())
print("upper  ", box.upper.tolist())
