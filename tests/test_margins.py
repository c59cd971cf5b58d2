"""The other classes of a label, and tables of margins against them."""

from __future__ import annotations

import torch

from ibpc.margins import other_classes, spread_margins

LABELS = torch.tensor([0, 2, 1])


def test_other_classes_are_all_but_the_label():
    assert other_classes(LABELS, 3).tolist() == [[1, 2], [0, 1], [2, 0]]


def test_spread_margins_have_0_at_the_label():
    margins = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert spread_margins(margins, other_classes(LABELS, 3)).tolist() == [[0, 1, 2], [3, 4, 0], [6, 0, 5]]
