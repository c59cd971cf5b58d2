"""Sin: the sine."""

from __future__ import annotations

import torch

from ibpc.ops._waves import wave
from ibpc.ops.base import register

OPERATOR = register(wave("Sin", "The sine", torch.sin, torch.cos, 0.0))
