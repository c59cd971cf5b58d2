"""Training methods. Each registers itself; importing the package imports every module in it."""

from importlib import import_module
from pkgutil import iter_modules

from ibpc.training.methods.base import Objective, Terms, TrainingMethod, method_named, methods, reads

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["Objective", "Terms", "TrainingMethod", "method_named", "methods", "reads"]
