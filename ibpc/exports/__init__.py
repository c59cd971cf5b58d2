"""Handing a network on: its nominal, interval and margin graphs as ONNX files or `torch.export` programs."""

from ibpc.exports.bounds import Claimed, bounding_module, export_bounds
from ibpc.exports.nominal import OPSET, export_nominal, nominal_model
from ibpc.exports.programs import export_program

__all__ = [
    "OPSET",
    "Claimed",
    "bounding_module",
    "export_bounds",
    "export_nominal",
    "export_program",
    "nominal_model",
]
