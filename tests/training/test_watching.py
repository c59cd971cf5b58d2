"""The output of a run in progress: lines of a table, TensorBoard, and the boxes inside the network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ibpc.report.progress import head_of, line_of
from ibpc.report.tensorboard import tensorboard_reporter
from ibpc.training.graphs import Accuracy
from ibpc.training.layers import LayerProbe
from ibpc.training.records import EpochRecord
from ibpc.training.reporting import Several
from ibpc.training.runner import train
from tests.training import tiny
from tests.training.test_runner import Listens

RECORD = EpochRecord(
    epoch=7,
    step=35,
    eps=0.1,
    kappa=0.5,
    learning_rate=1e-3,
    losses={"loss": 0.75, "nominal_loss": 0.5, "robust_loss": 1.0},
    nominal_accuracy=0.9,
    certified_accuracy=0.5,
    validation=Accuracy(10, 0.1, 0.8, 0.4),
    seconds=1.0,
    images_per_second=12345.6,
)


def test_columns_of_losses_stay_apart():
    record = replace(RECORD, losses={"loss": 123456789.0, "nominal_loss": 0.5, "adversarial_loss": 0.25})
    head, line = head_of(list(record.losses)).splitlines()[1], line_of(record, list(record.losses))
    assert "nominal adversarial" in head
    assert line.split()[3:6] == ["1.23e+08", "0.5000", "0.2500"]
    assert len(line) == len(head)


def test_the_table_of_epochs():
    table = f"{head_of([*RECORD.losses, 'warm_up_loss'])}\n{line_of(RECORD, [*RECORD.losses, 'warm_up_loss'])}"
    assert table == (
        "                                                                   training            held out\n"
        "epoch       ε     κ      loss  nominal   robust  warm up   nominal certified   nominal certified  images/s\n"
        "    7  0.1000  0.50    0.7500   0.5000   1.0000             90.00%    50.00%    80.00%    40.00%    12,346"
    )


def test_layers_worked_by_hand():
    """One dead, one active, two unstable of four neurons, in boxes of width 2 · 0.1 · |w|."""
    net = tiny.network(
        ({"type": "Flatten"}, {"type": "Linear", "out_features": 4}, {"type": "ReLU"}, tiny.PERCEPTRON[3])
    )
    weight, bias = (dict(net.parameters.named_parameters())[f"linear1.{role}"] for role in ("weight", "bias"))
    with torch.no_grad():
        weight.zero_()
        weight[:, 0] = torch.tensor([1.0, -1.0, 2.0, 4.0])
        bias.copy_(torch.tensor([-5.0, 5.0, -1.0, -2.0]))
    (layer,) = LayerProbe(net, torch.full((3, 1, 4, 4), 0.5), 0.1)()
    assert (layer.dead, layer.active, layer.unstable) == (0.25, 0.25, 0.5)
    assert layer.width == pytest.approx(0.2 * (1 + 1 + 2 + 4) / 4)


def test_a_network_without_rectifiers_has_no_layers_to_show():
    assert LayerProbe(tiny.network(tiny.PERCEPTRON[:1] + tiny.PERCEPTRON[3:]), torch.zeros(1, 1, 4, 4), 0.1)() == ()


def test_tensorboard_has_the_figures_of_every_epoch(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    net, data, recipe, listener = tiny.network(), tiny.blobs(), tiny.recipe(epochs=2), Listens()
    with tensorboard_reporter(tmp_path, net, data, recipe) as board:
        run = train(net, recipe, data, tmp_path, reporter=Several(board, listener))
    assert list(run.records) == listener.epochs
    events = accumulator.EventAccumulator(str(tmp_path / "training/tensorboard")).Reload()
    shown = {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    for tag, of in {
        "schedule/eps": lambda record: record.eps,
        "schedule/kappa": lambda record: record.kappa,
        "loss/robust_loss": lambda record: record.losses["robust_loss"],
        "training/certified": lambda record: record.certified_accuracy,
        "held_out/certified": lambda record: record.validation.certified,
        "speed/images_per_second": lambda record: record.images_per_second,
    }.items():
        expected = [(record.step, of(record)) for record in run.records]
        assert shown[tag] == [(step, pytest.approx(value)) for step, value in expected]
    held = data.hold_out(recipe.validation.images, recipe.validation.seed)[1].images
    (last,) = LayerProbe(net, held, recipe.eps)()
    for group, value in (("bound_width", last.width), ("dead", last.dead), ("active", last.active)):
        assert shown[f"{group}/linear1"][-1] == (10, pytest.approx(value))
    assert sum(shown[f"{group}/linear1"][-1][1] for group in ("dead", "active", "unstable")) == pytest.approx(1)
