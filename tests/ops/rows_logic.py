"""Rows of comparisons, logic, selection, rounding, casts and quantization: the operators with jumps."""

from __future__ import annotations

from tests.ops.cases import Box, Case, Uniform, Values

_WIDE = Box((3, 4), -5.0, 5.0, 2.5)

_ROUNDING = (
    Case("Sign", (Box((3, 4)),), name="matrix"),
    Case("Sign", (Box((2, 5), radius=2.0),), name="wide"),
    Case("Floor", (Box((3, 4)),), name="narrow"),
    Case("Floor", (_WIDE,), name="wide"),
    Case("Ceil", (Box((3, 4)),), name="narrow"),
    Case("Ceil", (_WIDE,), name="wide"),
    Case("Round", (Box((3, 4)),), name="narrow"),
    Case("Round", (_WIDE,), name="wide"),
    Case("Cast", (_WIDE,), {"to": "int64"}, name="to integers"),
    Case("Cast", (Box((3, 4), -300.0, 300.0, 250.0),), {"to": "int32"}, name="to integers, wide"),
    Case("Cast", (Box((3, 4), 0.0, 200.0, 60.0),), {"to": "uint8"}, name="to bytes"),
    Case("Cast", (Box((3, 4)),), {"to": "bool"}, name="to booleans"),
    Case("InRange", (_WIDE,), {"type": "int64"}, name="inside"),
    Case("InRange", (Box((2, 5), -90.0, 90.0, 20.0),), {"type": "int8"}, name="inside, wide"),
)

# The bounds need not be attained at corners, because boxes may meet elsewhere: test_logic_rules enumerates points.
_MEETING = {"attained": "equality is no corner of the boxes; test_logic_rules enumerates the cases"}
_COMPARISONS = tuple(
    row
    for name, without in (
        *((name, {}) for name in ("Greater", "Less", "GreaterOrEqual", "LessOrEqual")),
        ("Equal", _MEETING),
    )
    for row in (
        Case(name, (Box((3, 4)), Uniform((4,), -2.0, 2.0)), name="box and constant"),
        Case(name, (Uniform((1, 3, 1), -2.0, 2.0), Box((3, 4))), name="constant and box", without=without),
        Case(name, (Box((3, 4)), Box((3, 1))), name="boxes broadcast", without=without),
    )
)

_BIT = Box((3, 4), 0.0, 1.0, 0.5)
_LOGIC = (
    *(
        row
        for name in ("And", "Or", "Xor")
        for row in (
            Case(name, (_BIT, Values([0.0, 1.0, 0.0, 1.0])), name="box and constant"),
            Case(name, (_BIT, Box((1, 4), 0.0, 1.0, 0.5)), name="boxes broadcast"),
        )
    ),
    Case("Not", (_BIT,), name="booleans"),
    Case("Not", (Box((2, 5)),), name="any numbers"),
)

_SELECTION = (
    Case("Where", (Values([[1.0, 0.0, 0.0, 1.0]]), Box((3, 4)), Box((3, 1))), name="constant condition"),
    Case("Where", (Values([0.0, 1.0]), Box((3, 2)), Uniform((2,))), name="constant condition, box or constant"),
    Case("Where", (_BIT, Box((3, 4)), Box((1, 4))), name="bounded condition"),
    Case("Where", (_BIT, Uniform((4,)), Uniform((3, 1))), name="bounded condition, constants"),
    Case("Where", (_BIT, Uniform((4,)), Box((3, 4))), name="bounded condition, constant or box"),
)

_TIES = {"attained": "an index wins where the others are at the far ends; test_logic_rules enumerates the cases"}
_CLOSE = Box((5,), 0.0, 1.0, 0.3)
_INDICES = (
    *(
        row
        for name, without in (("ArgMax", _TIES), ("ArgMin", {}))
        for row in (
            Case(name, (_CLOSE,), {"axis": 1}, name="vector", without=_TIES),
            Case(name, (Box((3, 2, 2)),), {"axis": 1, "keepdims": False}, name="channels", without=without),
            Case(name, (Box((2, 4)),), {"axis": 2, "select_last_index": True}, name="last of ties"),
            Case(name, (Box((2, 1)),), {"axis": 2}, name="single"),
        )
    ),
    Case("OneHot", (Box((3,), 0.0, 3.0, 1.5),), {"axis": 2, "depth": 4}, name="last axis"),
    Case(
        "OneHot",
        (Box((2, 3), -3.0, 2.0, 1.5),),
        {"axis": 1, "depth": 3, "on": -1.5, "off": 2.0},
        name="from the end, other values",
    ),
    Case(
        "OneHot",
        (Box((2,), 0.0, 2.0, 1.0),),
        {"axis": 1, "depth": 3, "on": 0.1},
        name="a value that binary32 lacks",
        tolerance=1e-3,
    ),
)

_SCALES = {"scale": Values([0.03125, 0.5, 0.09375]), "zero_point": Values([0.0, -3.0, 100.0])}
_QUANTIZATION = (
    Case(
        "QuantizeLinear",
        (Box((3, 4)),),
        {"type": "uint8"},
        {"scale": Values(0.0625), "zero_point": Values(20.0)},
        name="one scale, saturating",
    ),
    Case("QuantizeLinear", (Box((3, 2, 2), radius=1.0),), {"type": "int8", "axis": 1}, _SCALES, name="per channel"),
    Case(
        "DequantizeLinear",
        (Box((3, 4), -128.0, 127.0, 20.0),),
        {},
        {"scale": Values(0.0625), "zero_point": Values(20.0)},
        name="one scale",
    ),
    Case("DequantizeLinear", (Box((2, 3), 0.0, 255.0, 20.0),), {"axis": 2}, _SCALES, name="per channel"),
)

_JUMPS = {"attained": "beside a jump the bound is a limit that no point attains; test_logic_rules enumerates"}
_DIVISORS = Values([[0.75], [-2.0], [5.0]])
_BY_BOXES = {"loose": "y is taken apart from x", "without": {"checker": "it takes constant divisors only"}}
_REMAINDERS = (
    Case("Mod", (Box((3, 4)), _DIVISORS), {"fmod": True}, name="sign of the first", without=_JUMPS),
    Case("Mod", (Box((3, 4)), _DIVISORS), name="sign of the second", without=_JUMPS),
    Case("Mod", (Box((3, 4)), Box((3, 1), 0.5, 3.0)), {"fmod": True}, name="boxes", **_BY_BOXES),
    Case("Mod", (Uniform((4,)), Box((3, 1), -3.0, -0.5)), name="by a box", **_BY_BOXES),
    Case("IsNaN", (Box((3, 4)),), name="matrix"),
    Case("IsNaN", (Box((2, 1, 3)),), name="rank 3"),
    Case("IsInf", (Box((3, 4)),), name="matrix"),
    Case("IsInf", (Box((3, 4)),), {"detect_negative": False}, name="positive only"),
    Case("TopK", (Box((5,)),), {"axis": 1, "k": 3}, name="greatest of a vector"),
    Case("TopK", (Box((3, 2, 2)),), {"axis": 1, "k": 2, "largest": False}, name="least of channels"),
)

ROWS = (*_ROUNDING, *_COMPARISONS, *_LOGIC, *_SELECTION, *_INDICES, *_QUANTIZATION, *_REMAINDERS)
