"""A recipe: every value that decides how a network is trained, as JSON that a schema checks.

`Recipe.default` starts from the recipes that ibpc ships (`specs/recipes/METHOD_FAMILY[_RADIUS].json`); `with_overrides`
changes any value by its dotted name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import log
from pathlib import Path
from typing import Any, Final, Self

from ibpc.data import Augmentation
from ibpc.errors import Problem, SpecError, UsageError, nearest, raise_all
from ibpc.frontends.initialization import SCHEMES
from ibpc.frontends.strict_json import data_problems, located, read_json, schema_problems, shown
from ibpc.training.attack import AttackOptions, SmallBox
from ibpc.training.averaging import Averaging
from ibpc.training.engine import Precision
from ibpc.training.fields import build, object_schema, optional, required, section, to_data, value
from ibpc.training.latent import CutOptions
from ibpc.training.linear import LinearOptions
from ibpc.training.methods import method_named, methods, reads
from ibpc.training.objectives import Combination
from ibpc.training.optimizers import Optimization
from ibpc.training.regularizers import Regularization
from ibpc.training.schedules import LearningRate, Schedule

AUTO: Final = "auto"
KEEP: Final = "keep"

# Radii below count as this one where ratios are compared.
_LEAST: Final = 1e-9
_FAMILIES: Final[Mapping[str, str]] = {
    "mnist": "mnist",
    "fashion-mnist": "mnist",
    "cifar10": "cifar",
    "cifar100": "cifar",
    "svhn": "cifar",
    "digits": "digits",
}
_FALLBACK: Final = "ibp"


@dataclass(frozen=True)
class ValidationOptions:
    """The training images that are held out for validation."""

    images: int | None = value(
        None,
        "Number of held-out images; null: 5000, or a tenth of a small set",
        **optional(type="integer", minimum=0),
    )
    every: int = value(
        1, "Epochs from one validation to the next; the last epoch always validates", type="integer", minimum=1
    )
    seed: int = value(
        0, "Seed of the random choice of images, independent of the seed of the run", type="integer", minimum=0
    )


@dataclass(frozen=True)
class Recipe:
    """How to train. Make it with `default`, `load` or `from_json`, which check every value."""

    method: str = required("The training method", type="string")
    eps: float = required(
        'Radius to certify at, in pixels of [0, 1]: a number or a fraction such as "2/255"',
        title='a number from 0 to 1, or a fraction such as "2/255"',
        anyOf=[
            {"type": "number", "minimum": 0, "maximum": 1},
            {"type": "string", "pattern": r"^[0-9]{1,9}/[1-9][0-9]{0,8}$(?!\n)"},
        ],
    )
    epochs: int = value(30, "Passes over the training images", type="integer", minimum=1)
    batch_size: int = value(256, "Images per step", type="integer", minimum=1)
    accumulate: int = value(
        1,
        "Micro-batches into which a process splits its images of a step, to save memory",
        type="integer",
        minimum=1,
    )
    clip_norm: float | None = value(
        8.0, "Largest norm of the gradient; null: no limit", **optional(type="number", exclusiveMinimum=0)
    )
    initialization: str = value(
        AUTO,
        "Fresh weights: a scheme; keep the network's own; auto: ibp where the spec leaves it open, otherwise keep",
        enum=[AUTO, KEEP, *SCHEMES],
    )
    augmentation: str = value(
        AUTO,
        "Random changes to training images; auto: those that suit the data set",
        enum=[AUTO, *(kind.value for kind in Augmentation)],
    )
    optimizer: Optimization = field(default_factory=Optimization, metadata=section("The optimizer"))
    learning_rate: LearningRate = field(default_factory=LearningRate, metadata=section("Schedule of the learning rate"))
    schedule: Schedule = field(default_factory=Schedule, metadata=section("Schedules of ε and κ"))
    regularization: Regularization = field(
        default_factory=Regularization, metadata=section("Penalties added to the loss")
    )
    attack: AttackOptions = field(
        default_factory=AttackOptions,
        metadata=section("How adversarial points are found"),
    )
    box: SmallBox = field(default_factory=SmallBox, metadata=section("Boxes smaller than the ball"))
    combination: Combination = field(
        default_factory=Combination, metadata=section("How an adversarial and a certified loss are joined")
    )
    cut: CutOptions = field(default_factory=CutOptions, metadata=section("Where and how the network is cut in two"))
    linear: LinearOptions = field(default_factory=LinearOptions, metadata=section("Linear bounds in training"))
    precision: Precision = field(default_factory=Precision, metadata=section("Number formats in training"))
    averaging: Averaging = field(default_factory=Averaging, metadata=section("Averaging of the weights"))
    validation: ValidationOptions = field(
        default_factory=ValidationOptions, metadata=section("Held-out training images")
    )

    # ── making ──────────────────────────────────────────────────────────────────────────────────────────────────
    @classmethod
    def default(cls, method: str, eps: float, dataset: str | None = None) -> Self:
        """Return the shipped recipe of a method for a data set, at radius `eps`.

        Of several recipes it is the one of the nearest radius, by ratio. If none is shipped, values come from the
        method's defaults and else from the IBP recipe for the data set or, for an unknown data set, from the schema.
        Raises UsageError for an unknown method, SpecError for an impossible radius.
        """
        file, changes = shipped_recipe(method, dataset, eps), {"method": method, "eps": eps}
        if file is None:
            return cls.from_json(changes)
        shipped = cls.load(file)
        defaults = {} if shipped.method == method else dict(method_named(method).defaults)
        return shipped.with_overrides(changes | defaults)

    @classmethod
    def load(cls, path: str | Path, method: str | None = None) -> Self:
        """Return the recipe of a JSON file; `method` replaces the file's method, and all other values stay.

        Raises SpecError with everything that is wrong.
        """
        data = read_json(path)
        if method is not None and isinstance(data, dict):
            data = {**data, "method": method}
        return cls.from_json(data, str(path))

    @classmethod
    def from_json(cls, data: Any, where: str = "recipe") -> Self:
        """Return the recipe of JSON data; values left out take the method's defaults, then those of the schema.

        `where` names the recipe in errors. Raises SpecError with everything that is wrong.
        """
        raise_all(SpecError, data_problems(data, where))
        raise_all(SpecError, schema_problems(data, cls.schema(), where))
        whole = _completed(data, method_named(data["method"]).defaults)
        recipe = build(cls, {**whole, "eps": float(Fraction(data["eps"]))})
        raise_all(SpecError, _contradictions(recipe, where))
        return recipe

    def with_overrides(self, changes: Mapping[str, Any]) -> Self:
        """Return the recipe with values changed by dotted name: `{"epochs": 5, "schedule.warmup": 1}`.

        Some changes imply others, unless these are given as well: a new method replaces the defaults of the old one by
        its own, and a new number of epochs scales the warm-ups in proportion. Raises SpecError with everything that is
        wrong, values that the method does not read included, UsageError unless the changes are by name.
        """
        if not isinstance(changes, Mapping) or not all(isinstance(key, str) for key in changes):
            raise UsageError.at("recipe", f"found {changes!r}", 'changes by name, such as {"epochs": 5}')
        data = copy.deepcopy(self.to_json())
        implied = self._of_method(changes.get("method")) | self._of_length(changes.get("epochs"))
        every = {**implied, **changes}
        problems = [problem for key, item in every.items() for problem in _change(data, key, item)]
        raise_all(SpecError, [*problems, *self._unread(changes)])
        return type(self).from_json(data)

    def _unread(self, changes: Mapping[str, Any]) -> Iterator[Problem]:
        """Yield the changes that the method, perhaps a new one, would not notice."""
        method, present = changes.get("method", self.method), _flat(self.to_json())
        if method not in methods():
            return
        for key, item in changes.items():
            if key in present and item != present[key] and not reads(method, key):
                readers = ", ".join(name for name in methods() if reads(name, key))
                yield Problem(f"recipe: {key}", f"{method} does not read it", f"a method that does: {readers}")

    def _of_method(self, name: Any) -> dict[str, Any]:
        """Return the changes that a new method implies."""
        if not isinstance(name, str) or name == self.method or name not in methods():
            return {}
        old, new = method_named(self.method).defaults, method_named(name).defaults
        plain, own = (
            _flat(type(self).from_json({"method": _FALLBACK, "eps": self.eps}).to_json()),
            _flat(self.to_json()),
        )
        return {key: plain[key] for key, item in old.items() if own[key] == item} | dict(new)

    def _of_length(self, epochs: Any) -> dict[str, Any]:
        """Return the changes that a new number of epochs implies."""
        if not isinstance(epochs, int) or epochs < 1 or epochs == self.epochs:
            return {}
        warmups = {"schedule.warmup": self.schedule.warmup, "learning_rate.warmup": self.learning_rate.warmup}
        return {key: length * epochs / self.epochs for key, length in warmups.items()}

    # ── showing ─────────────────────────────────────────────────────────────────────────────────────────────────
    def to_json(self) -> dict[str, Any]:
        """Return the recipe as plain JSON data, complete."""
        return to_data(self)

    @classmethod
    def schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (draft 2020-12) of a recipe, for the methods that are registered now."""
        found = object_schema(cls)
        found["properties"]["method"]["enum"] = list(methods())
        head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        return {**head, **found, "title": "a recipe: an object"}


def shipped_recipe(method: str, dataset: str | None, eps: float) -> Path | None:
    """Return the shipped file that `Recipe.default` starts from, None for an unknown data set.

    That is one for the method, or else one for IBP: METHOD_FAMILY.json, or METHOD_FAMILY_RADIUS.json if its radius is
    nearer. Raises UsageError for an unknown method.
    """
    family = _FAMILIES.get(dataset or "", "")
    names = (method_named(method).name.replace("-", "_"), _FALLBACK)
    made_for = [sorted(recipes_folder().glob(f"{name}_{family}*.json")) if family else [] for name in names]
    files = next(filter(None, made_for), [])
    return min(files, key=lambda file: abs(log(max(eps, _LEAST) / Recipe.load(file).eps)), default=None)


def recipes_folder() -> Path:
    """Return the folder of the shipped recipes: inside an installed package, or beside it in the repository."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "specs" / "recipes"
    return installed if installed.is_dir() else package.parent / "specs" / "recipes"


def _completed(data: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the data in which missing values are filled from `defaults`, by dotted name."""
    whole = copy.deepcopy(dict(data))
    for key, item in defaults.items():
        *sections, last = key.split(".")
        place = whole
        for step in sections:
            place = place.setdefault(step, {})
        place.setdefault(last, item)
    return whole


def _contradictions(recipe: Recipe, where: str) -> Iterator[Problem]:
    if recipe.eps > 1:
        yield Problem(located(where, ("eps",)), f"found {recipe.eps:g}", "at most 1")
    for path, warmup in (
        (("schedule", "warmup"), recipe.schedule.warmup),
        (("learning_rate", "warmup"), recipe.learning_rate.warmup),
    ):
        if warmup >= recipe.epochs:
            yield Problem(located(where, path), f"found {warmup:g}", f"fewer epochs than the run's {recipe.epochs}")
    for path, at in (
        (("learning_rate", "at"), recipe.learning_rate.at),
        (("attack", "decay_at"), recipe.attack.decay_at),
    ):
        if list(at) != sorted(at):
            yield Problem(located(where, path), f"found {shown(list(at))}", "ascending shares")


def _change(data: dict[str, Any], key: str, item: Any) -> Iterator[Problem]:
    """Set a value of the complete `data` by its dotted name, or yield what is wrong with the name."""
    known = list(_flat(data))
    if key not in known:
        yield Problem(f"recipe: {key}", "no such value", remedy=nearest(key, known))
        return
    *sections, last = key.split(".")
    place = data
    for step in sections:
        place = place[step]
    place[last] = item


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested data by dotted name."""
    values: dict[str, Any] = {}
    for key, item in data.items():
        values |= _flat(item, f"{prefix}{key}.") if isinstance(item, Mapping) else {f"{prefix}{key}": item}
    return values
