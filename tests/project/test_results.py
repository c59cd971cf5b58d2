"""The tables of results are what the receipts say."""

from __future__ import annotations

import importlib.util
import json
import sys

import pytest

from tests import ROOT


@pytest.fixture(scope="module")
def tables():
    """The script, as a module."""
    where = ROOT / "benchmarks" / "tables.py"
    spec = importlib.util.spec_from_file_location("benchmark_tables", where)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def receipt(network="mnist_small", certified=0.95, seed=0, method="ibp", **extra):
    return {
        "certification": {
            "data": "mnist",
            "data_sha256": "d",
            "split": "test",
            "n": 10000,
            "eps": 0.1,
            "nominal_accuracy": 0.985,
            "attack_accuracy": 0.96,
            "certified_accuracy": certified,
            "method": "ibp",
            "arithmetic": "float32",
        },
        "training": {
            "network": network,
            "parameters": 5,
            "seed": seed,
            "recipe": {"method": method, "epochs": 10},
            "seconds": 100.0,
            "hardware": {"gpu": None, "threads": 2},
        },
        **extra,
    }


def put(folder, **receipts):
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in receipts.items():
        (folder / f"{name}.json").write_text(json.dumps(data))


def document(tables, folder, name):
    text = f"before\n<!-- table: {name} -->\nold\n<!-- end of table -->\nafter\n"
    return tables.written(text, folder / "README.md", folder / "results")


@pytest.mark.parametrize("name", ["README.md", "benchmarks/training.md", "docs/training.md"])
def test_the_documents_are_up_to_date(tables, name):
    text = (ROOT / name).read_text("utf-8")
    assert tables.BLOCK.search(text), "no table in it"
    assert tables.written(text, ROOT / name, ROOT / "benchmarks" / "results") == text, "run python benchmarks/tables.py"


def test_a_row_says_what_its_receipt_says_beside_the_replication(tables, tmp_path):
    put(tmp_path / "results", a=receipt())
    text = document(tables, tmp_path, "all")
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert (
        "| [`mnist_small`](results/a.json) | MNIST | 0.1 | ibp | 10 | 100 | 2 threads "
        "| 98.50% | 96.00% | **95.00%** |  | 98.23%, 96.00% |\n" in text
    )


def test_the_best_row_of_a_task_stands_alone_and_all_stand_together(tables, tmp_path):
    put(tmp_path / "results", a=receipt(certified=0.9), b=receipt(certified=0.95, method="sabr"), c=receipt("other"))
    best, whole = (document(tables, tmp_path, name) for name in ("best", "all"))
    assert "results/b.json" in best and "results/c.json" in best and "results/a.json" not in best
    assert whole.index("results/b.json") < whole.index("results/a.json")


def test_the_front_page_stresses_what_proves_most(tables, tmp_path):
    put(tmp_path / "results", a=receipt(certified=0.951), b=receipt("other", certified=0.2, search=searched(0.97)))
    text = document(tables, tmp_path, "best")
    assert "| 98.50% | **95.10%** |  |" in text and "| 98.50% | 20.00% | **97.00%** |" in text


def test_what_a_search_proves_counts_against_the_replication(tables, tmp_path):
    by_search = receipt(certified=0.2, method="sabr", search=searched(0.97))
    put(tmp_path / "results", a=receipt(certified=0.965), b=by_search)
    assert "results/b.json" in document(tables, tmp_path, "best")


def test_the_best_row_beats_the_replication_in_both_accuracies_if_one_does(tables, tmp_path):
    lopsided = receipt(certified=0.99, method="sabr")
    lopsided["certification"]["nominal_accuracy"] = 0.95
    put(tmp_path / "results", a=lopsided, b=receipt(certified=0.965))
    assert "results/b.json" in document(tables, tmp_path, "best")
    put(tmp_path / "results", b=receipt(certified=0.9599))
    assert "results/a.json" in document(tables, tmp_path, "best")


def searched(share, **other):
    return {**receipt()["certification"], "method": "auto", "certified_accuracy": share, **other}


def test_what_a_search_certifies_stands_beside_and_counts(tables, tmp_path):
    put(
        tmp_path / "results",
        a=receipt(certified=0.951),
        b=receipt(certified=0.95, method="sabr", search=searched(0.97)),
    )
    text = document(tables, tmp_path, "all")
    assert "**95.00%** | 97.00% | 98.23%" in text and "**95.10%** |  | 98.23%" in text
    assert text.index("results/b.json") < text.index("results/a.json")


def test_what_crown_certifies_stands_beside_the_methods(tables, tmp_path):
    put(tmp_path / "results" / "methods", a=receipt(search=searched(0.97, method="crown")))
    assert "**95.00%** | 97.00% |" in document(tables, tmp_path, "methods")
    put(tmp_path / "results" / "methods", a=receipt(search=searched(0.97)))
    with pytest.raises(ValueError, match="what CROWN proves"):
        document(tables, tmp_path, "methods")


@pytest.mark.parametrize(
    "other", [{"n": 500}, {"images": [3, 7]}, {"eps": 0.2}, {"arithmetic": "real"}, {"data_sha256": "e"}]
)
def test_a_search_of_something_else_is_refused(tables, tmp_path, other):
    put(tmp_path / "results", a=receipt(search=searched(0.97, **other)))
    with pytest.raises(ValueError, match="something else"):
        document(tables, tmp_path, "all")


def test_seeds_make_one_row_with_their_spread(tables, tmp_path):
    put(tmp_path / "results", a=receipt(certified=0.94, seed=0), b=receipt(certified=0.96, seed=1))
    text = document(tables, tmp_path, "all")
    assert text.count("mnist_small") == 1
    assert "**95.00% ± 1.41**" in text and "[2](results/b.json)" in text


def test_a_certification_of_another_kind_says_so(tables, tmp_path):
    other = receipt()
    other["certification"] |= {"n": 500, "method": "crown"}
    put(tmp_path / "results", a=other)
    text = document(tables, tmp_path, "all")
    assert "MNIST (500 images)" in text and "**95.00%** (crown, float32)" in text


def test_chosen_images_are_called_so_and_make_a_row_of_their_own(tables, tmp_path):
    few = [receipt(seed=seed) for seed in (0, 1, 2)]
    for images, data in zip(([3, 7], [3, 8], None), few, strict=True):
        data["certification"] |= {"n": 2} if images is None else {"n": 2, "images": images}
    put(tmp_path / "results", **dict(zip("abc", few, strict=True)))
    put(tmp_path / "results" / "methods", **dict(zip("abc", few, strict=True)))
    text = document(tables, tmp_path, "all")
    assert text.count("MNIST (2 chosen images)") == 2 and text.count("MNIST (2 images)") == 1
    methods = document(tables, tmp_path, "methods")
    assert methods.count("2 chosen test images:") == 2 and methods.count("2 test images:") == 1


def test_methods_stand_in_one_table_a_task(tables, tmp_path):
    put(
        tmp_path / "results" / "methods",
        a=receipt(method="ibp"),
        b=receipt(method="sabr", certified=0.97),
        c=receipt("other", method="ibp", cpu_seconds=150.0),
    )
    text = document(tables, tmp_path, "methods")
    assert text.index("`sabr`") < text.index("`ibp`")
    assert text.count("| seconds an epoch |") == 2
    assert "| 15.0 | 2 threads |" in text and "| 10.0 | 2 threads |" in text


def test_constrained_networks_stand_beside_their_plain_ones(tables, tmp_path):
    put(tmp_path / "results" / "constraints", a=receipt(network="mnist_small_spectral", certified=0.8, cpu_seconds=50))
    put(tmp_path / "results" / "methods", a=receipt(), b=receipt(network="cifar_small"), c=receipt(method="sabr"))
    lines = document(tables, tmp_path, "constraints").splitlines()[4:-2]
    assert [line.split("|")[1].split("]")[0].strip(" [`") for line in lines] == ["mnist_small", "mnist_small_spectral"]
    assert "**80.00%** | 5.0 |" in lines[1]


def test_what_is_no_receipt_is_named(tables, tmp_path):
    put(tmp_path / "results", broken={"training": {}})
    with pytest.raises(ValueError, match=r"broken\.json: not a receipt"):
        document(tables, tmp_path, "all")


def test_an_unknown_table_is_named(tables, tmp_path):
    with pytest.raises(ValueError, match="table 'worst'"):
        document(tables, tmp_path, "worst")
