"""A network whose plain interval bounds exclude what ONNX Runtime computes, and bounds that account for rounding.

Two halves of the hidden layer cancel up to a millionth. The sums are rounded differently in every implementation, so
the margin that PyTorch computes, and bounds without rounding around it, say nothing about the margin elsewhere.
"""

import torch

import ibpc
from ibpc.verify.replay import Replay

WIDTH, SEED = 128, 2


def cancelling(seed: int) -> torch.nn.Module:
    """Return x → (1000 + Σ aᵢ (hᵢ(x) − h′ᵢ(x)), 1000) with hᵢ and h′ᵢ alike and aᵢ large."""
    generator = torch.Generator().manual_seed(seed)
    scale = 300 * torch.randn(WIDTH, generator=generator)
    first, change = torch.randn(2, WIDTH, 8, generator=generator)
    module = torch.nn.Sequential(torch.nn.Linear(8, 2 * WIDTH), torch.nn.ReLU(), torch.nn.Linear(2 * WIDTH, 2))
    module[0].weight.data = torch.cat([first, first + 1e-6 * change])
    module[0].bias.data.fill_(3.0)
    module[2].weight.data = torch.stack([torch.cat([scale, -scale]), torch.zeros(2 * WIDTH)])
    module[2].bias.data.fill_(1000.0)
    return module.eval()


network = ibpc.compile(cancelling(SEED), torch.zeros(1, 8))
x = torch.rand(1, 8, generator=torch.Generator().manual_seed(1000 + SEED))
point, margin = ibpc.Interval.bounds(x, x), torch.tensor([[1.0, -1.0]])
logits = Replay.of(network)([x[0]])

print("z0 - z1 at one point")
print(f"  computed by ONNX Runtime  {float(logits[0] - logits[1]):+.6f}")
for arithmetic in (ibpc.Arithmetic.REAL, ibpc.Arithmetic.FLOAT32):
    bound = ibpc.bound(network, point, margin, method="ibp", arithmetic=arithmetic)
    print(f"  bounds, {arithmetic.value + ' arithmetic':<18} [{float(bound.lower):+.6f}, {float(bound.upper):+.6f}]")
