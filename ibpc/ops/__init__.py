"""The operators. Each module of this package registers one; importing the package registers them all."""

from importlib import import_module
from pkgutil import iter_modules

from ibpc.ops.base import operators

_SHARED = ("base", "combinators", "element_types", "onnx", "rules")

for _module in iter_modules(__path__):
    if not _module.name.startswith("_") and _module.name not in _SHARED:
        import_module(f"{__name__}.{_module.name}")

__all__ = ["operators"]
