"""Bounds of margins over boxes, by intervals, CROWN and α-CROWN: what a loop of one's own asks of a network."""

import torch
from torch import nn

import ibpc

torch.manual_seed(0)
module = nn.Sequential(nn.Linear(8, 32), nn.SiLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3)).eval()
network = ibpc.compile(module, torch.zeros(1, 8))

x = torch.rand(2, 8)
box = ibpc.outer_ball(x, 0.05, clip=(0, 1))  # [x − ε, x + ε] within [0, 1], rounded outward to float32
rows = torch.tensor([[1.0, -1.0, 0.0], [1.0, 0.0, -1.0]])  # z₀ − z₁ and z₀ − z₂

print("margins at x", (module(x) @ rows.T).tolist())
for method in ("ibp", "crown", "alpha-crown"):
    found = ibpc.bound(network, box, rows, method=method)  # sound for every float32 execution
    print(
        f"{method:12}",
        [
            [f"[{low:.3f}, {high:.3f}]" for low, high in zip(*pair, strict=True)]
            for pair in zip(found.lower.tolist(), found.upper.tolist(), strict=True)
        ],
    )
