"""Two affine functions that hold a nonlinear one between them over a box, one short rule for each ONNX type.

A plane takes its slope from anywhere and its offset from the points at which function − line can be extreme, so that
what a rule chooses decides how tight a plane is, never whether it is sound. A type without a rule here, and an element
whose box is not finite, has its constant bounds for planes. Binary32 costs a plane what the rule of the type in
binary32 widens over the one in real arithmetic, at the wider end: the rules widen by the greatest error at any point.

    base.py              the registry, and what all rules end with
    piecewise_linear.py  Relu and its kin, Abs, Clip, HardSigmoid
    convex.py            convex and concave functions
    s_shaped.py          functions that rise in the shape of an S
    pieces.py            functions that are convex or concave piece by piece
    products.py          products and quotients of two values
    waves.py             Sin and Cos
    extremes.py          the greatest or least of several values
"""

from ibpc.verify.checking.planes import convex, extremes, pieces, piecewise_linear, products, s_shaped, waves
from ibpc.verify.checking.planes.base import PLANES, bent

__all__ = ["PLANES", "bent", "convex", "extremes", "pieces", "piecewise_linear", "products", "s_shaped", "waves"]
