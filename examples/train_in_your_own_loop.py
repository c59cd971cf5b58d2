"""IBP training in a loop of one's own: the paired graph is a torch module, and gradients go through it."""

import torch
from torch import nn
from torch.nn import functional as F

import ibpc

EPS = 0.02

torch.manual_seed(0)
module = nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10)).eval()
network = ibpc.compile(module, torch.zeros(1, 1, 8, 8))
data = ibpc.load_dataset("digits")
images, labels = data.train.floats(), data.train.labels

optimizer = torch.optim.Adam(network.parameters.parameters(), lr=0.005)
for epoch in range(12):
    eps = EPS * min(1.0, epoch / 6)  # boxes grow for six epochs
    for index in torch.randperm(len(images)).split(64):
        x, y = images[index], labels[index]
        box = ibpc.Interval.ball(x, eps, clip=(0, 1))
        logits, lower, upper = network.paired(x, box.lower, box.upper)  # one pass for values and bounds
        worst = torch.where(F.one_hot(y, 10).bool(), lower, upper)  # the least for the label, the most for others
        loss = 0.5 * F.cross_entropy(logits, y) + 0.5 * F.cross_entropy(worst, y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

result = ibpc.certify(network, data, EPS)  # sound for every float32 execution
print(f"nominal {result.nominal_accuracy:.1%}, certified at {EPS}: {result.certified_accuracy:.1%}")
