"""ibpc: a compiler for certified neural networks.

    import ibpc
    net = ibpc.compile("specs/mnist_small.json")
    run = ibpc.train(net, ibpc.Recipe.default("ibp", eps=0.1, dataset="mnist"), data="mnist", out="runs/a")
    result = ibpc.certify(net, data="mnist", eps=0.1)

Names are loaded on first use, so that `import ibpc` (and `ibpc --help`) does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ibpc.api import AUTO as AUTO
    from ibpc.api import METHODS as METHODS
    from ibpc.api import QUICK as QUICK
    from ibpc.api import AffineBounds as AffineBounds
    from ibpc.api import AffineForms as AffineForms
    from ibpc.api import Arithmetic as Arithmetic
    from ibpc.api import Attack as Attack
    from ibpc.api import Ball as Ball
    from ibpc.api import Claim as Claim
    from ibpc.api import Counterexample as Counterexample
    from ibpc.api import Dataset as Dataset
    from ibpc.api import Decision as Decision
    from ibpc.api import Interval as Interval
    from ibpc.api import Judge as Judge
    from ibpc.api import Network as Network
    from ibpc.api import Property as Property
    from ibpc.api import Recipe as Recipe
    from ibpc.api import Robustness as Robustness
    from ibpc.api import Sweep as Sweep
    from ibpc.api import TrainingRun as TrainingRun
    from ibpc.api import Verdict as Verdict
    from ibpc.api import affine_bounds as affine_bounds
    from ibpc.api import bake as bake
    from ibpc.api import ball as ball
    from ibpc.api import ball_property as ball_property
    from ibpc.api import bound as bound
    from ibpc.api import bounder as bounder
    from ibpc.api import certify as certify
    from ibpc.api import check as check
    from ibpc.api import chosen_images as chosen_images
    from ibpc.api import compile as compile
    from ibpc.api import constrain as constrain
    from ibpc.api import copy_weights as copy_weights
    from ibpc.api import dataset as dataset
    from ibpc.api import decide as decide
    from ibpc.api import earlier_verdicts as earlier_verdicts
    from ibpc.api import export as export
    from ibpc.api import linear_property as linear_property
    from ibpc.api import load as load
    from ibpc.api import load_dataset as load_dataset
    from ibpc.api import load_vnnlib as load_vnnlib
    from ibpc.api import node_bounds as node_bounds
    from ibpc.api import normalized as normalized
    from ibpc.api import open_network as open_network
    from ibpc.api import outer_ball as outer_ball
    from ibpc.api import parse_vnnlib as parse_vnnlib
    from ibpc.api import radius as radius
    from ibpc.api import spread_balls as spread_balls
    from ibpc.api import torch_dataset as torch_dataset
    from ibpc.api import train as train
    from ibpc.api import write_certificate as write_certificate
    from ibpc.api import write_report as write_report
    from ibpc.api import write_result as write_result
    from ibpc.api import write_verdicts as write_verdicts


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
