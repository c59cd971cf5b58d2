"""Certify a PyTorch module that you already have: no spec, no training, three lines of ibpc."""

import torch
from torch import nn

import ibpc

torch.manual_seed(0)
module = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 6, 10)).eval()
digits = ibpc.load_dataset("digits")

network = ibpc.compile(module, example=digits.test.floats()[:1])
result = ibpc.certify(network, digits, eps=0.001, limit=100)

print(f"nominal {result.nominal_accuracy:.1%}, certified {result.certified_accuracy:.1%}")
for example in result.examples[:5]:
    print(f"image {example.index}: label {example.label}, predicted {example.predicted}, {example.verdict.value}")
