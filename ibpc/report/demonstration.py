"""The demonstration: compile a spec, train it, certify it, draw it. On embedded data, in about a minute."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ibpc.artifact import Source
from ibpc.data import Dataset, load_dataset
from ibpc.files import write_json
from ibpc.frontends.spec import load_spec
from ibpc.network import Network
from ibpc.report.figures import draw_overview
from ibpc.report.wording import format_eps
from ibpc.training.recipe import Recipe, recipes_folder
from ibpc.training.reporting import Reporter
from ibpc.training.runner import TrainingRun, train
from ibpc.verify.batch_certifier import BatchCertifier
from ibpc.verify.certificates.certificate import ModelFile, data_certificate
from ibpc.verify.data_certifier import DataCertifier
from ibpc.verify.results import Robustness

EPS: Final = 0.1
DATASET: Final = "digits"
SPEC: Final = "digits_small.json"


@dataclass(frozen=True)
class Demonstration:
    """The results of the demonstration: the run, the certification, and the files."""

    run: TrainingRun
    result: Robustness
    dataset: Dataset
    verdicts: Path
    figure: Path


def demonstrate(out: Path, seed: int, reporter: Reporter) -> Demonstration:
    """Compile the spec, train it with IBP on the embedded digits and certify it; write everything under `out`.

    An existing demonstration is resumed, or shown again if it is finished.
    """
    spec = recipes_folder().parent / SPEC
    network = Network(load_spec(spec, seed), Source.of_file("spec", spec))
    dataset = load_dataset(DATASET)
    recipe = Recipe.default("ibp", eps=EPS, dataset=DATASET)
    run = train(network, recipe, dataset, out, seed=seed, resume=True, reporter=reporter)
    certifier, test = DataCertifier("ibp", BatchCertifier("ibp")), dataset.test
    result = certifier.run(network, test.floats(), test.labels, EPS)
    verdicts, figure = out / "verdicts.json", out / "overview.png"
    write_json(verdicts, data_certificate(ModelFile.of(out), DATASET, dataset.sha256, result, network.notes))
    title = (
        f"{network.name}: trained with IBP, certified on {len(result.examples)} test images at ε = {format_eps(EPS)}"
    )
    draw_overview(run.records, result, title, figure)
    return Demonstration(run, result, dataset, verdicts, figure)
