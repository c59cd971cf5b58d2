"""ibpc: a compiler for certified neural networks.

    import ibpc
    net = ibpc.compile("specs/mnist_small.json")
    run = ibpc.train(net, ibpc.Recipe.default("ibp", eps=0.1), data="mnist", out="runs/a")
    result = ibpc.certify(net, data="mnist", eps=0.1)

Names are loaded on first use, so that `import ibpc` (and `ibpc --help`) does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibpc.api import *  # the explicit list of ibpc.api.__all__


def __getattr__(name: str) -> Any:
    # `from ibpc import module` asks here first, while `ibpc.api` may still be importing that very module.
    if name.startswith("_") or find_spec(f"ibpc.{name}") is not None:
        raise AttributeError(f"module 'ibpc' has no attribute {name!r}")
    api = import_module("ibpc.api")
    if name in api.__all__:
        return getattr(api, name)
    raise AttributeError(f"module 'ibpc' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(import_module("ibpc.api").__all__)
