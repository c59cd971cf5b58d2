"""Cos: the cosine."""

from __future__ import annotations

import torch

from ibpc.ops._waves import wave
from ibpc.ops.base import register

OPERATOR = register(wave("Cos", "The cosine", torch.cos, lambda x: -torch.sin(x), 1.0))
