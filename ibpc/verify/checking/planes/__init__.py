"""Two affine functions that enclose a nonlinear one over a box, one short rule for each ONNX type.

A plane's slope may be anything; its offset comes from the points at which function − line can be extreme. So the slope
that a rule picks decides how tight a plane is, never whether it is sound. A type without a rule here, and an element
whose box is not finite, gets its constant bounds as planes. In binary32 a plane is widened by as much as the type's
interval rule in binary32 widens over the one in real arithmetic, at the wider end: the interval rules widen by the
greatest error at any point.

    base.py              the registry, and what all rules end with
    piecewise_linear.py  Relu and its kin, Abs, Clip, HardSigmoid
    convex.py            convex and concave functions
    s_shaped.py          functions that rise in the shape of an S
    pieces.py            functions that are convex or concave piece by piece
    products.py          products and quotients of two values
    waves.py             Sin and Cos
    extremes.py          the greatest or least of several values
"""

from importlib import import_module
from pkgutil import iter_modules

from ibpc.verify.checking.planes.base import PLANES, bent

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["PLANES", "bent"]
