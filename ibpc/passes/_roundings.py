"""The number of roundings that operators fused into a node add to each term of its sum, kept as a hint of the graph.

A fused node computes y = W' x + b' in place of a run of the original network's operators. Its binary32 bound must
cover *their* rounding errors. Let n be the number of terms of one output and u = 2⁻²⁴. On its way to the output each
term W'ᵢ xᵢ and each part of the bias passes the n + 1 roundings of the sum and f more in the fused operators, so the
original execution is off by at most γ(n + 1 + f) (|W'||x| + B), with B the sum of the moduli of all parts of b'
(`bias_magnitude`; the parts may cancel, their rounding errors do not) (Higham 2002, lemma 3.1). f includes the
roundings of W' and b' themselves, which passes compute in binary64 and round once.

The bound's radius is computed from R = |W'| ((1 + ρ) r + ρ |c|) + ρ B, ρ = 4 γ(n + 16) (`ibpc.rounding.inflation`),
and its computed value is at least (1 − γ(n + 5)) R. It must cover, coefficient by coefficient: the operand's own
conversion to center and radius and the sum of r and ρ |c| (8u of |c| and of r, generously), the original execution,
the bound's center, and the conversion of the result to lower/upper (2u). For |W'||c| and B, and for |W'| r, that is

    4 γ(n + 16) (1 − γ(n + 5)) ≥ (γ(n + 1 + f) + γ(n + 1)) (1 + 10u) + 10u + 8u γ(n + 16),
    (1 + 4 γ(n + 16)) (1 − γ(n + 5)) ≥ 1 + 10u + γ(n + 1 + f) (1 + 10u) + 8u γ(n + 16),

to first order f ≤ 2n + 52 and f ≤ 2n + 48. `MOST_ROUNDINGS` leaves a margin for the products of these terms; both
inequalities hold with it for all n up to 2²² (tests/passes).

Underflow: a fused operator may lose at most 2⁻¹²⁶ per term below the normal range, times the scale that follows.
Passes add 2⁻¹⁰⁰ times that scale to B, of which ρ ≥ (n + 16) 2⁻²² makes (n + 16) 2⁻¹²². It is assumed that the
original's intermediate values do not overflow.
"""

from __future__ import annotations

from typing import Final

from ibpc.ir import Graph

MOST_ROUNDINGS: Final = 40
UNDERFLOW: Final = 2.0**-100
HINT: Final = "fused_roundings"


def fused_roundings(graph: Graph, name: str) -> int:
    """Return the number of roundings per term that were fused into the node."""
    return int(graph.hints.get(HINT, {}).get(name, 0))


def add_fused_roundings(graph: Graph, name: str, count: int) -> None:
    """Note that `count` more roundings per term were fused into the node."""
    if count:
        graph.hints[HINT] = {**graph.hints.get(HINT, {}), name: fused_roundings(graph, name) + count}


def copy_fused_roundings(graph: Graph, source: str, name: str) -> None:
    """Note for the node `name` the roundings of `source`."""
    add_fused_roundings(graph, name, fused_roundings(graph, source))


def forget_removed(graph: Graph) -> None:
    """Drop the notes about nodes that are gone."""
    kept = {name: count for name, count in graph.hints.pop(HINT, {}).items() if name in graph}
    if kept:
        graph.hints[HINT] = kept
