"""The specs in specs/: parameter counts worked out by hand, and the same networks written in torch.nn."""

from math import prod

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from ibpc.frontends.schema import DATASETS
from ibpc.frontends.spec import load_spec
from ibpc.lowering import lower_nominal, parameter_tree
from tests import ROOT

SPECS = ROOT / "specs"

# A layer has (outputs) · (inputs · window) weights and one bias an output; batch normalization a scale and a shift a
# channel.
COUNTS = {
    # 28 → (28 − 4)/2 + 1 = 13 → 13 − 4 + 1 = 10
    "mnist_small": [16 * (1 * 4 * 4) + 16, 32 * (16 * 4 * 4) + 32, 100 * (32 * 10 * 10) + 100, 10 * 100 + 10],
    # 28 → 26 → (26 − 4)/2 + 1 = 12 → 10 → (10 − 4)/2 + 1 = 4
    "mnist_medium": [
        32 * (1 * 3 * 3) + 32,
        32 * (32 * 4 * 4) + 32,
        64 * (32 * 3 * 3) + 64,
        64 * (64 * 4 * 4) + 64,
        512 * (64 * 4 * 4) + 512,
        512 * 512 + 512,
        10 * 512 + 10,
    ],
    # 28 → 28 → 28 → ⌈28/2⌉ = 14 → 14 → 14
    "mnist_large": [
        64 * (1 * 3 * 3) + 64,
        64 * (64 * 3 * 3) + 64,
        128 * (64 * 3 * 3) + 128,
        128 * (128 * 3 * 3) + 128,
        128 * (128 * 3 * 3) + 128,
        512 * (128 * 14 * 14) + 512,
        10 * 512 + 10,
    ],
    # 32 → (32 − 4)/2 + 1 = 15 → 15 − 4 + 1 = 12
    "cifar_small": [16 * (3 * 4 * 4) + 16, 32 * (16 * 4 * 4) + 32, 100 * (32 * 12 * 12) + 100, 10 * 100 + 10],
    # 32 → 30 → (30 − 4)/2 + 1 = 14 → 12 → (12 − 4)/2 + 1 = 5
    "cifar_medium": [
        32 * (3 * 3 * 3) + 32,
        32 * (32 * 4 * 4) + 32,
        64 * (32 * 3 * 3) + 64,
        64 * (64 * 4 * 4) + 64,
        512 * (64 * 5 * 5) + 512,
        512 * 512 + 512,
        10 * 512 + 10,
    ],
    # 32 → 32 → 32 → ⌈32/2⌉ = 16 → 16 → 16
    "cifar_large": [
        64 * (3 * 3 * 3) + 64,
        64 * (64 * 3 * 3) + 64,
        128 * (64 * 3 * 3) + 128,
        128 * (128 * 3 * 3) + 128,
        128 * (128 * 3 * 3) + 128,
        512 * (128 * 16 * 16) + 512,
        10 * 512 + 10,
    ],
    # 28 → (28 + 2 − 4)/2 + 1 = 14 → 14 + 2 − 4 + 1 = 13
    "replication/mnist_small": [
        16 * (1 * 4 * 4) + 16,
        32 * (16 * 4 * 4) + 32,
        100 * (32 * 13 * 13) + 100,
        10 * 100 + 10,
    ],
    # 28 → 28 → (28 + 2 − 4)/2 + 1 = 14 → 14 → (14 + 2 − 4)/2 + 1 = 7
    "replication/mnist_medium": [
        32 * (1 * 3 * 3) + 32,
        32 * (32 * 4 * 4) + 32,
        64 * (32 * 3 * 3) + 64,
        64 * (64 * 4 * 4) + 64,
        512 * (64 * 7 * 7) + 512,
        512 * 512 + 512,
        10 * 512 + 10,
    ],
    # 28 → 28 → 28 → ⌊(28 + 2 − 3)/2⌋ + 1 = 14 → 14 → 14
    "replication/mnist_large": [
        64 * (1 * 3 * 3) + 64,
        64 * (64 * 3 * 3) + 64,
        128 * (64 * 3 * 3) + 128,
        128 * (128 * 3 * 3) + 128,
        128 * (128 * 3 * 3) + 128,
        200 * (128 * 14 * 14) + 200,
        10 * 200 + 10,
    ],
    # 32 → 15 → 12
    "replication/cifar_small": [
        16 * (3 * 4 * 4) + 16,
        32 * (16 * 4 * 4) + 32,
        100 * (32 * 12 * 12) + 100,
        10 * 100 + 10,
    ],
    # 32 → 32 → (32 + 2 − 4)/2 + 1 = 16 → 16 → (16 + 2 − 4)/2 + 1 = 8
    "replication/cifar_medium": [
        32 * (3 * 3 * 3) + 32,
        32 * (32 * 4 * 4) + 32,
        64 * (32 * 3 * 3) + 64,
        64 * (64 * 4 * 4) + 64,
        512 * (64 * 8 * 8) + 512,
        512 * 512 + 512,
        10 * 512 + 10,
    ],
    # 32 → 32 → 32 → ⌊(32 + 2 − 3)/2⌋ + 1 = 16 → 16 → 16
    "replication/cifar_large": [
        64 * (3 * 3 * 3) + 64,
        64 * (64 * 3 * 3) + 64,
        128 * (64 * 3 * 3) + 128,
        128 * (128 * 3 * 3) + 128,
        128 * (128 * 3 * 3) + 128,
        200 * (128 * 16 * 16) + 200,
        10 * 200 + 10,
    ],
    # 32 → 32 → 32 → 16 → 16
    "replication/vgg": [
        64 * (3 * 3 * 3) + 64,
        64 * (64 * 3 * 3) + 64,
        128 * (64 * 3 * 3) + 128,
        128 * (128 * 3 * 3) + 128,
        512 * (128 * 16 * 16) + 512,
        10 * 512 + 10,
    ],
    # 28 → 28 → 28 → 14 → 14 → 14
    "cnn7_mnist": [
        64 * (1 * 3 * 3) + 64 + 2 * 64,
        64 * (64 * 3 * 3) + 64 + 2 * 64,
        128 * (64 * 3 * 3) + 128 + 2 * 128,
        128 * (128 * 3 * 3) + 128 + 2 * 128,
        128 * (128 * 3 * 3) + 128 + 2 * 128,
        512 * (128 * 14 * 14) + 512 + 2 * 512,
        10 * 512 + 10,
    ],
    # 32 → 32 → 32 → 16 → 16 → 16
    "cnn7_cifar": [
        64 * (3 * 3 * 3) + 64 + 2 * 64,
        64 * (64 * 3 * 3) + 64 + 2 * 64,
        128 * (64 * 3 * 3) + 128 + 2 * 128,
        128 * (128 * 3 * 3) + 128 + 2 * 128,
        128 * (128 * 3 * 3) + 128 + 2 * 128,
        512 * (128 * 16 * 16) + 512 + 2 * 512,
        10 * 512 + 10,
    ],
    "mlp_mnist": [256 * (28 * 28) + 256, 256 * 256 + 256, 256 * 256 + 256, 10 * 256 + 10],
    # convolutions without bias, each with its normalization; 32 → 32 → 32 → 16 → 8
    "resnet_cifar": [
        16 * (3 * 3 * 3) + 2 * 16,
        16 * (16 * 3 * 3) + 2 * 16 + 16 * (16 * 3 * 3) + 2 * 16,
        32 * (16 * 3 * 3) + 2 * 32 + 32 * (32 * 3 * 3) + 2 * 32 + 32 * (16 * 1 * 1) + 2 * 32,
        64 * (32 * 3 * 3) + 2 * 64 + 64 * (64 * 3 * 3) + 2 * 64 + 64 * (32 * 1 * 1) + 2 * 64,
        100 * (64 * 8 * 8) + 100 + 2 * 100,
        10 * 100 + 10,
    ],
    # 8 → 8 → ⌊(8 + 2 − 3)/2⌋ + 1 = 4
    "digits_small": [16 * (1 * 3 * 3) + 16, 32 * (16 * 3 * 3) + 32, 64 * (32 * 4 * 4) + 64, 10 * 64 + 10],
}

# Gowal et al. 2018, table 1: hidden units and parameters of the CIFAR networks, in thousands, as rounded there.
PUBLISHED = {"cifar_small": (8.3, 471), "cifar_medium": (47, 1_200), "cifar_large": (230, 17_000)}


# ── the same networks in torch.nn ───────────────────────────────────────────────────────────────────────────────
class Normalize(nn.Module):
    """(x − mean) / std of CIFAR-10."""

    def forward(self, x):
        mean = torch.tensor([0.4914, 0.4822, 0.4465]).reshape(1, 3, 1, 1)
        std = torch.tensor([0.2023, 0.1994, 0.2010]).reshape(1, 3, 1, 1)
        return (x - mean) / std


class PadAfter(nn.Module):
    """One zero on the right and at the bottom: what SAME does to an even size with window 3 and step 2."""

    def forward(self, x):
        return F.pad(x, (0, 1, 0, 1))


def head(channels):
    return Normalize() if channels == 3 else nn.Identity()


def small(channels, padding, features):
    return nn.Sequential(
        head(channels),
        nn.Conv2d(channels, 16, 4, stride=2, padding=padding),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=1, padding=padding),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


def medium(channels, padding, features):
    return nn.Sequential(
        head(channels),
        nn.Conv2d(channels, 32, 3, stride=1, padding=padding),
        nn.ReLU(),
        nn.Conv2d(32, 32, 4, stride=2, padding=padding),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, stride=1, padding=padding),
        nn.ReLU(),
        nn.Conv2d(64, 64, 4, stride=2, padding=padding),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, 512),
        nn.ReLU(),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


def large_same(channels, features):
    return nn.Sequential(
        head(channels),
        nn.Conv2d(channels, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        PadAfter(),
        nn.Conv2d(64, 128, 3, stride=2),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


def large_replicated(channels, features, activation):
    return nn.Sequential(
        head(channels),
        nn.Conv2d(channels, 64, 3, padding=1),
        activation,
        nn.Conv2d(64, 64, 3, padding=1),
        activation,
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        activation,
        nn.Conv2d(128, 128, 3, padding=1),
        activation,
        nn.Conv2d(128, 128, 3, padding=1),
        activation,
        nn.Flatten(),
        nn.Linear(features, 200),
        activation,
        nn.Linear(200, 10),
    )


def vgg():
    return nn.Sequential(
        Normalize(),
        nn.Conv2d(3, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * 16 * 16, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


def cnn7(channels, features):
    return nn.Sequential(
        head(channels),
        nn.Conv2d(channels, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, stride=2, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 128, 3, padding=1),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(features, 512),
        nn.BatchNorm1d(512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


def mlp():
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(784, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


def digits():
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(512, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut = nn.Identity()
        if stride != 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        inner = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(inner + self.shortcut(x))


def resnet():
    return nn.Sequential(
        Normalize(),
        nn.Conv2d(3, 16, 3, padding=1, bias=False),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        Block(16, 16, 1),
        Block(16, 32, 2),
        Block(32, 64, 2),
        nn.Flatten(),
        nn.Linear(4096, 100),
        nn.BatchNorm1d(100),
        nn.ReLU(),
        nn.Linear(100, 10),
    )


MODELS = {
    "mnist_small": lambda: small(1, 0, 3200),
    "mnist_medium": lambda: medium(1, 0, 1024),
    "mnist_large": lambda: large_same(1, 25088),
    "cifar_small": lambda: small(3, 0, 4608),
    "cifar_medium": lambda: medium(3, 0, 1600),
    "cifar_large": lambda: large_same(3, 32768),
    "replication/mnist_small": lambda: small(1, 1, 5408),
    "replication/mnist_medium": lambda: medium(1, 1, 3136),
    "replication/mnist_large": lambda: large_replicated(1, 25088, nn.ReLU()),
    "replication/cifar_small": lambda: small(3, 0, 4608),
    "replication/cifar_medium": lambda: medium(3, 1, 4096),
    "replication/cifar_large": lambda: large_replicated(3, 32768, nn.LeakyReLU(0.01)),
    "replication/vgg": vgg,
    "cnn7_mnist": lambda: cnn7(1, 25088),
    "cnn7_cifar": lambda: cnn7(3, 32768),
    "mlp_mnist": mlp,
    "resnet_cifar": resnet,
    "digits_small": digits,
}

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "digits": (1, 8, 8)}


def path_of(name):
    return SPECS / f"{name}.json"


def test_every_spec_is_here():
    found = {
        str(path.relative_to(SPECS).with_suffix("")) for path in SPECS.rglob("*.json") if "recipes" not in path.parts
    }
    assert found == MODELS.keys() == COUNTS.keys()


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_as_many_as_counted_by_hand(name):
    parameters = parameter_tree(load_spec(path_of(name))).parameters()
    assert sum(parameter.numel() for parameter in parameters) == sum(COUNTS[name])


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_are_those_that_were_published(name):
    graph = load_spec(path_of(name))
    hidden = sum(prod(node.shape[1:]) for node in graph.order() if node.operator == "Relu") / 1000
    parameters = sum(parameter.numel() for parameter in parameter_tree(graph).parameters()) / 1000
    assert hidden == pytest.approx(PUBLISHED[name][0], rel=0.01)
    assert parameters == pytest.approx(PUBLISHED[name][1], rel=0.015)


@pytest.mark.parametrize("name", MODELS)
def test_the_nominal_graph_is_the_torch_model(name):
    graph = load_spec(path_of(name), seed=1)
    generator = torch.Generator().manual_seed(2)
    for node in graph.order():
        if node.operator == "BatchNormalization":
            for role in ("weight", "bias", "running_mean", "running_var"):
                value = graph.state[f"{node.name}.{role}"]
                value.uniform_(0.5, 1.5, generator=generator)
    model = with_weights_of(graph, MODELS[name]())
    x = torch.rand(3, *SHAPES[graph.hints["dataset"]], generator=generator)
    with torch.no_grad():
        expected, found = model(x), lower_nominal(graph, parameter_tree(graph))(x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


def with_weights_of(graph, model):
    """Return the model in evaluation, with the graph's parameters copied in the order of both."""
    sources = [graph.parameters_of(node.name) for node in graph.order() if node.operator not in ("Input", "Constant")]
    targets = [
        module
        for module in model.modules()
        if isinstance(module, nn.Conv2d | nn.Linear | nn.modules.batchnorm._BatchNorm)
    ]
    with torch.no_grad():
        for source, target in zip([source for source in sources if source], targets, strict=True):
            tensors = {key: value for key, value in target.state_dict().items() if key != "num_batches_tracked"}
            assert source.keys() == tensors.keys()
            for role, value in source.items():
                assert value.shape == tensors[role].shape
                tensors[role].copy_(value)
    return model.eval()


@pytest.mark.parametrize("name", MODELS)
def test_each_spec_says_what_it_is_for(name):
    graph = load_spec(path_of(name))
    assert graph.name == name.replace("/", "_")
    assert graph.hints["dataset"] in DATASETS
    assert graph.hints["classes"] == 10
    assert graph.node("input").shape[1:] == SHAPES[graph.hints["dataset"]]
    assert graph.node("input").attributes["range"] == [0, 1]
