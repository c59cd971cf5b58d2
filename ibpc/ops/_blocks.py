"""Moving blocks of positions into channels and back: ONNX imports that become a Transpose between Reshapes."""

from __future__ import annotations

from collections.abc import Sequence

from ibpc.errors import GraphError
from ibpc.ir import format_shape
from ibpc.ops.onnx import Builder, OnnxNode, Value


def read_depth_to_space(node: OnnxNode, builder: Builder) -> Value:
    """Import DepthToSpace: channels, counted (block row, block column, channel) or (channel, row, column)."""
    block, (channels, height, width) = _block(node), node.operand(0).shape[-3:]
    if channels % (block * block):
        raise GraphError.at(f"node {node.name}", f"{channels} channels", f"a multiple of {block * block}")
    depth = channels // (block * block)
    if _counts_depth_last(node):
        split, order = [block, block, depth, height, width], (2, 3, 0, 4, 1)
    else:
        split, order = [depth, block, block, height, width], (0, 3, 1, 4, 2)
    return _rearranged(node.operand(0), split, order, [depth, height * block, width * block], builder)


def read_space_to_depth(node: OnnxNode, builder: Builder) -> Value:
    """Import SpaceToDepth, the inverse of DepthToSpace."""
    block, (depth, height, width) = _block(node), node.operand(0).shape[-3:]
    if height % block or width % block:
        raise GraphError.at(f"node {node.name}", f"positions {height}×{width}", f"multiples of {block}")
    split = [depth, height // block, block, width // block, block]
    order = (2, 4, 0, 1, 3) if _counts_depth_last(node) else (0, 2, 4, 1, 3)
    joined = [depth * block * block, height // block, width // block]
    return _rearranged(node.operand(0), split, order, joined, builder)


def _block(node: OnnxNode) -> int:
    x, block = node.operand(0).shape, int(node.attributes["blocksize"])
    if len(x) < 4 or block < 1:
        raise GraphError.at(
            f"node {node.name}",
            f"blocks of {block} of {format_shape(x)}",
            "positive ones of channels, height and width",
        )
    return block


def _counts_depth_last(node: OnnxNode) -> bool:
    mode = str(node.attributes.get("mode", "DCR"))
    if mode not in ("DCR", "CRD"):
        raise GraphError.at(f"node {node.name}", f"mode {mode}", "DCR or CRD")
    return mode == "DCR"


def _rearranged(x: Value, split: list[int], order: Sequence[int], joined: list[int], builder: Builder) -> Value:
    """Return the last three dimensions `split` into five, in another order, joined to three again."""
    front = list(x.shape[1:-3])
    first = len(front) + 1
    parts = builder.add("Reshape", [x], {"shape": [*front, *split]})
    moved = builder.add("Transpose", [parts], {"perm": [*range(first), *(first + axis for axis in order)]})
    return builder.add("Reshape", [moved], {"shape": [*front, *joined]})
