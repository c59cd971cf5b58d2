"""The operators. Each module of this package registers at most one; importing the package registers them all."""

from importlib import import_module
from pkgutil import iter_modules

from ibpc.ops.base import operators

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["operators"]
