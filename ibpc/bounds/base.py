"""What is known of a bounding method: one record each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from math import inf
from typing import Protocol, TypeAlias

from torch import Tensor

from ibpc.bounds.values import Values, Walk
from ibpc.interval import Interval
from ibpc.rounding import Arithmetic

Bounder: TypeAlias = Callable[..., Interval]
Boxes: TypeAlias = tuple[Interval, ...]


class MakeBounder(Protocol):
    """Makes, of a network and margin rows, the function that bounds the margins over boxes.

    That function takes one box (B, …) for each input of the network.
    """

    def __call__(
        self,
        walk: Walk,
        matrix: Tensor,
        arithmetic: Arithmetic,
        deadline: float = inf,
    ) -> Bounder:
        """Return the function boxes (B, …) → bounds of `matrix` · outputs, (B, rows).

        `walk` goes over the network made ready (`walk_of`), on the device of the boxes; `matrix` is (rows, K) over
        all outputs, flat and one after the other. After `deadline` (of `time.monotonic`) the function stops tightening
        and returns what it has: looser bounds, equally sound.
        """
        ...


class Proof(Enum):
    """How the checker, which runs no bounding method, confirms the bounds of one."""

    INTERVALS = "it computes interval bounds itself"
    PLANES = "it computes planes over interval bounds itself"
    TIGHTENED_PLANES = "it tightens boxes by the planes that the proof names; of a data set it does so itself"
    OTHER_PLANES = "as for tightened planes, which are not those of the method and may bound less"
    CHOICES = "it replays the choices of planes that the proof lists"
    SEARCH = "it replays a search that refutes the same property; the margin itself has no proof"


@dataclass(frozen=True)
class AffineRules:
    """How a method bounds the values in between, and then forms of the outputs by forms of the inputs.

    `pulled` maps forms (R, B, *shape) of the output to their lower bounds (R, B) and the forms they become at each
    input.
    """

    values: Callable[[Walk, Boxes, Arithmetic, float], Values]
    pulled: Callable[[Walk, Values, Tensor, float], tuple[Tensor, Mapping[str, Tensor]]]


@dataclass(frozen=True)
class BoundingMethod:
    """A bounding method.

    `is_slow`: it may take seconds for one sample. `affine` is None where the method has no affine bounds.
    """

    name: str
    bounder: MakeBounder
    is_slow: bool
    proof: Proof
    affine: AffineRules | None = None
