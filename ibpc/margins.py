"""Specifications of a classifier: margins between logits, as rows of a matrix that elision merges.

A network of K classes is robust for label y if z_y − z_j > 0 for every other class j. All K (K − 1) / 2 differences
z_i − z_j with i < j serve every label at once: bounds of the others are the same with the signs turned.
"""

from __future__ import annotations

import torch


def class_differences(classes: int) -> torch.Tensor:
    """Return the matrix (K (K − 1) / 2, K), float32, whose rows give z_i − z_j for all i < j in lexicographic order."""
    first, second = torch.triu_indices(classes, classes, offset=1)
    rows = torch.arange(len(first))
    matrix = torch.zeros(len(first), classes)
    matrix[rows, first] = 1.0
    matrix[rows, second] = -1.0
    return matrix


def margin_index(classes: int) -> torch.Tensor:
    """Return the table (K, K), int64, that finds z_y − z_j in the concatenation [lower, −upper, 0] of all differences.

    Entry (y, j) is the column of the lower bound of z_y − z_j; the diagonal points at the appended zero.
    """
    pairs = classes * (classes - 1) // 2
    first, second = torch.triu_indices(classes, classes, offset=1)
    table = torch.full((classes, classes), 2 * pairs, dtype=torch.int64)
    table[first, second] = torch.arange(pairs)
    table[second, first] = torch.arange(pairs) + pairs
    return table


def margins_of(lower: torch.Tensor, upper: torch.Tensor, labels: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return the lower bounds (B, K) of z_y − z_j for each sample's label y; 0 at j = y.

    `lower`, `upper` are (B, K (K − 1) / 2) bounds of the class differences, `labels` (B,) int64 and `index` the
    table of `margin_index`.
    """
    found = torch.cat([lower, -upper, lower.new_zeros(lower.shape[0], 1)], dim=1)
    return found.gather(1, index[labels])


def other_classes(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Return the K − 1 classes (B, K − 1), int64, other than each sample's label (B,)."""
    return (labels[:, None] + torch.arange(1, classes, device=labels.device)) % classes


def spread_margins(margins: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """Return the margins (B, K − 1) against the classes `others` as a table (B, K), with 0 at the label."""
    table = margins.new_zeros(len(margins), margins.shape[1] + 1)
    return table.scatter(1, others, margins)
