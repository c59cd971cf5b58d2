"""Recipes: the shipped ones, errors that the schema reports, and overrides."""

from __future__ import annotations

import json
from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ibpc.errors import OperatorError, SpecError, UsageError
from ibpc.training.methods import base, methods, reads
from ibpc.training.methods.base import OWN_SECTIONS
from ibpc.training.recipe import Recipe, recipes_folder

SHIPPED = sorted(recipes_folder().glob("*.json"))


def problems(data: Any) -> list[str]:
    with pytest.raises(SpecError) as error:
        Recipe.from_json(data)
    return [str(problem) for problem in error.value.problems]


def keys(data: Any, prefix: str = "") -> set[str]:
    if not isinstance(data, dict):
        return {prefix}
    return {name for key, value in data.items() for name in keys(value, f"{prefix}.{key}")}


# ── shipped ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_recipes_are_shipped():
    assert {path.name for path in SHIPPED} >= {"ibp_mnist.json", "ibp_cifar.json", "ibp_digits.json"}


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_recipes_are_valid_and_write_every_value_out(path: Path):
    data = json.loads(path.read_text())
    recipe = Recipe.load(path)
    assert keys(data) == keys(recipe.to_json())
    assert path.stem.startswith(recipe.method.replace("-", "_"))


@pytest.mark.parametrize(
    ("dataset", "epochs", "kappa", "multiplier"),
    [("mnist", 30, 0.3, 1.3), ("fashion-mnist", 30, 0.3, 1.3), ("cifar10", 70, 0.5, 1.1), ("svhn", 70, 0.5, 1.1)],
)
def test_default_follows_the_data_set(dataset, epochs, kappa, multiplier):
    recipe = Recipe.default("ibp", eps=2 / 255, dataset=dataset)
    assert recipe.eps == 2 / 255
    assert recipe.epochs == epochs
    assert recipe.schedule.kappa_end == kappa
    assert recipe.schedule.eps_multiplier == multiplier
    assert (recipe.optimizer.name, recipe.optimizer.learning_rate, recipe.clip_norm) == ("adam", 1e-3, 8)
    assert (recipe.learning_rate.factor, recipe.learning_rate.at) == (0.2, (0.75, 0.9))


def test_default_of_another_method_keeps_the_data_sets_values():
    recipe = Recipe.default("standard", eps=0.1, dataset="cifar10")
    assert (recipe.method, recipe.epochs) == ("standard", 70)


def test_a_methods_own_values_stand_where_nothing_else_is_said():
    fallback = Recipe.default("mtl-ibp", eps=0.05, dataset="digits")
    assert (fallback.epochs, fallback.schedule.kappa_end, fallback.regularization.tightness) == (60, 0.0, 0.5)
    read = Recipe.from_json({"method": "sabr", "eps": 0.1, "attack": {"step": 0.3}, "schedule": {"ramp": 0.2}})
    assert (read.attack.step, read.attack.decay, read.schedule.kappa_end, read.schedule.ramp) == (0.3, 0.1, 0.0, 0.2)
    assert Recipe.default("sabr", eps=2 / 255, dataset="cifar10").box.share == 0.1


@pytest.mark.parametrize(
    ("method", "dataset", "eps", "share"),
    [("sabr", "cifar10", 2 / 255, 0.1), ("sabr", "cifar10", 5 / 255, 0.9), ("sabr", "cifar100", 16 / 255, 0.9)]
    + [
        ("sabr", "mnist", 0.1, 0.4),
        ("sabr", "mnist", 0.15, 0.4),
        ("sabr", "mnist", 0.4, 0.9),
        ("sabr", "mnist", 0.0, 0.4),
    ],
)
def test_of_several_recipes_the_one_of_the_nearest_radius_is_taken(method, dataset, eps, share):
    recipe = Recipe.default(method, eps=eps, dataset=dataset)
    assert (recipe.box.share, recipe.eps) == (share, eps)


def test_every_method_is_documented():
    page = (recipes_folder().parents[1] / "docs" / "training.md").read_text()
    assert all(f"| `{name}` |" in page for name in methods())


def test_default_of_an_unknown_data_set_takes_the_values_of_the_schema():
    assert Recipe.default("ibp", eps=0.1, dataset="own") == Recipe.from_json({"method": "ibp", "eps": 0.1})


def test_default_of_an_unknown_method_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'standard'"):
        Recipe.default("standart", eps=0.1)


# ── the schema ──────────────────────────────────────────────────────────────────────────────────────────────────
def objects(schema: dict[str, Any]) -> list[dict[str, Any]]:
    nested = [item for item in schema["properties"].values() if item.get("type") == "object"]
    return [schema, *(found for item in nested for found in objects(item))]


def test_schema_is_valid_closed_described_and_its_defaults_are_its_own():
    schema = Recipe.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    assert len(objects(schema)) == 1 + sum(entry.default_factory is not MISSING for entry in fields(Recipe))
    for item in objects(schema):
        assert item["additionalProperties"] is False
        for name, value in item["properties"].items():
            assert value["description"], name
            if "default" in value:
                jsonschema.Draft202012Validator(value).validate(value["default"])


def test_json_round_trip():
    recipe = Recipe.default("ibp", eps=0.3, dataset="cifar10")
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize(("written", "eps"), [("2/255", 2 / 255), (0.1, 0.1), (0, 0.0), ("1/1", 1.0)])
def test_eps_is_a_number_or_a_fraction(written, eps):
    assert Recipe.from_json({"method": "ibp", "eps": written}).eps == eps


@pytest.mark.parametrize("written", ["abc", "2/0", "-2/255", -1, 8, "3/2", True, None, "0.1", "2/255\n", float("nan")])
def test_eps_that_is_none(written):
    (line,) = problems({"method": "ibp", "eps": written})
    assert line.startswith("recipe: $.eps: found")


REFUSED = {
    "a misspelt value": ({"epoch": 3}, "$.epoch: unknown option; did you mean 'epochs'?"),
    "a misspelt nested value": ({"schedule": {"rampp": 3}}, "$.schedule.rampp: unknown option; did you mean 'ramp'?"),
    "a misspelt method": ({"method": "ipb"}, "did you mean 'ibp'?"),
    "a misspelt optimizer": ({"optimizer": {"name": "adan"}}, "did you mean 'adam'?"),
    "no epochs": ({"epochs": 0}, "$.epochs: found 0; expected an integer ≥ 1"),
    "half an epoch": ({"epochs": 2.5}, "$.epochs: found 2.5"),
    "a share above 1": ({"schedule": {"ramp": 1.5}}, "$.schedule.ramp: found 1.5"),
    "a warm-up of the whole run": ({"epochs": 2, "schedule": {"warmup": 2}}, "$.schedule.warmup: found 2"),
    "a rate that climbs the whole run": (
        {"epochs": 2, "learning_rate": {"warmup": 2}},
        "$.learning_rate.warmup: found 2",
    ),
    "steps out of order": ({"learning_rate": {"at": [0.9, 0.5]}}, "$.learning_rate.at: found [0.9, 0.5]"),
    "attack steps that shrink out of order": (
        {"attack": {"decay_at": [0.9, 0.5]}},
        "$.attack.decay_at: found [0.9, 0.5]",
    ),
    "text for a number": ({"batch_size": "big"}, '$.batch_size: found "big"'),
    "a list": ([], "found []"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_schema_refuses(name):
    changes, words = REFUSED[name]
    data = {"method": "ibp", "eps": 0.1, **changes} if isinstance(changes, dict) else changes
    (line,) = problems(data)
    assert words in line


def test_all_problems_are_collected():
    found = problems({"epochs": 0, "optimiser": {}, "schedule": {"ramp": -1, "shape": "quadratic"}})
    assert len(found) == 6
    assert any('"method" is missing' in line for line in found)
    assert any('"eps" is missing' in line for line in found)


def test_a_file_is_named_in_its_errors(tmp_path):
    path = tmp_path / "own.json"
    path.write_text('{"method": "ibp", "eps": 0.1, "epochs": 0}')
    with pytest.raises(SpecError, match=r"own\.json: \$\.epochs"):
        Recipe.load(path)
    path.write_text('{"method": "ibp", "eps": 0.1, "eps": 0.2}')
    with pytest.raises(SpecError, match="more than once"):
        Recipe.load(path)


# ── overrides ───────────────────────────────────────────────────────────────────────────────────────────────────
def test_overrides_change_what_they_name_and_nothing_else():
    recipe = Recipe.default("ibp", eps=0.1, dataset="mnist")
    changed = recipe.with_overrides({"epochs": 5, "schedule.warmup": 1, "clip_norm": None})
    assert (changed.epochs, changed.schedule.warmup, changed.clip_norm) == (5, 1, None)
    back = changed.with_overrides({"epochs": 30, "schedule.warmup": 0, "clip_norm": 8})
    assert back == recipe
    assert recipe.epochs == 30


def test_another_method_brings_its_own_values_and_takes_those_of_the_one_before():
    ibp = Recipe.default("ibp", eps=0.1, dataset="mnist")
    fast = ibp.with_overrides({"method": "fast-ibp"})
    assert (fast.regularization.tightness, fast.schedule.kappa_start, fast.schedule.shape) == (0.5, 0.0, "smooth")
    assert fast.schedule.eps_multiplier == ibp.schedule.eps_multiplier
    assert fast.with_overrides({"method": "ibp"}).regularization == Recipe.default("ibp", eps=0.1).regularization
    chosen = ibp.with_overrides({"method": "fast-ibp", "regularization.tightness": 0.25, "schedule.kappa_end": 0.3})
    assert (chosen.regularization.tightness, chosen.schedule.kappa_end) == (0.25, 0.3)
    assert fast.with_overrides({"regularization.tightness": 0.1}).with_overrides({"method": "ibp"}).regularization == (
        replace(fast.regularization, tightness=0.1, balance=0.0)
    )


def test_a_run_of_other_length_has_its_warm_ups_in_proportion():
    """Otherwise 16 warm-up epochs of a recipe for 160 would leave a run of 20 epochs no time for the ramp."""
    recipe = Recipe.default("crown-ibp", eps=2 / 255, dataset="cifar10")
    assert (recipe.epochs, recipe.schedule.warmup) == (160, 16)
    assert recipe.with_overrides({"epochs": 20}).schedule.warmup == 2
    assert recipe.with_overrides({"epochs": 20, "schedule.warmup": 5}).schedule.warmup == 5
    climbing = recipe.with_overrides({"learning_rate.warmup": 8})
    assert climbing.with_overrides({"epochs": 40}).learning_rate.warmup == 2


def test_every_value_can_be_overridden():
    recipe = Recipe.default("ibp", eps=0.1, dataset="mnist")
    for name in keys(recipe.to_json()):
        value: Any = recipe
        for part in name.removeprefix(".").split("."):
            value = getattr(value, part)
        plain = list(value) if isinstance(value, tuple) else value
        assert recipe.with_overrides({name.removeprefix("."): plain}) == recipe


def test_wrong_overrides_are_collected_with_the_nearest_name():
    recipe = Recipe.default("ibp", eps=0.1)
    with pytest.raises(SpecError) as error:
        recipe.with_overrides({"schedule.wormup": 1, "epochs.x": 2, "schedule": {}})
    assert len(error.value.problems) == 3
    assert "did you mean 'schedule.warmup'?" in str(error.value)
    with pytest.raises(SpecError, match=r"\$\.epochs: found -1"):
        recipe.with_overrides({"epochs": -1})


@pytest.mark.parametrize(
    ("method", "key"),
    [("ibp", "combination.alpha"), ("ibp", "attack.steps"), ("mtl-ibp", "box.share"), ("sabr", "cut.layers")],
)
def test_values_that_the_method_does_not_read_are_refused(method, key):
    recipe = Recipe.default(method, eps=0.1)
    section, name = key.split(".")
    present = recipe.to_json()[section][name]
    other = 2 if key == "cut.layers" else present / 2 if isinstance(present, float) else present + 1
    assert recipe.with_overrides({key: present}) == recipe
    with pytest.raises(SpecError, match=rf"recipe: {key}: {method} does not read it; expected a method"):
        recipe.with_overrides({key: other})


@pytest.mark.parametrize("name", methods())
def test_the_sections_of_a_method_are_known(name):
    assert methods()[name].sections <= OWN_SECTIONS <= Recipe.default("ibp", eps=0.1).to_json().keys()
    assert all(reads(name, key) for key in methods()[name].defaults)


def test_a_method_may_be_registered_after_recipes_were_used(monkeypatch):
    monkeypatch.setattr(base, "_REGISTRY", dict(base._REGISTRY))
    assert "late" not in Recipe.schema()["properties"]["method"]["enum"]
    base.register(replace(methods()["ibp"], name="late"))
    assert Recipe.default("late", eps=0.1).method == "late"
    with pytest.raises(OperatorError, match="the name is taken"):
        base.register(replace(methods()["ibp"], name="late"))


def test_a_method_that_reads_unknown_sections_is_refused():
    with pytest.raises(OperatorError, match="it reads atack, combinaton; expected sections .* attack, box"):
        base.register(replace(methods()["ibp"], name="other", sections=frozenset({"atack", "combinaton", "box"})))
    assert "other" not in base.methods()


def test_a_method_takes_what_a_file_states(tmp_path):
    """Its defaults fill in only values missing from the file, which need not name a method."""
    path = tmp_path / "r.json"
    path.write_text(
        '{"eps": 0.1, "schedule": {"shape": "cosine", "kappa_end": 0.2}, "regularization": {"balance": 0.1}}'
    )
    found = Recipe.load(path, "mtl-ibp")
    assert (found.method, found.schedule.shape, found.schedule.kappa_end, found.regularization.balance) == (
        "mtl-ibp",
        "cosine",
        0.2,
        0.1,
    )
    with pytest.raises(SpecError, match="method"):
        Recipe.load(path)
