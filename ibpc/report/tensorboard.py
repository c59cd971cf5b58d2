"""Writing a run for TensorBoard: the figures of every epoch, the schedules, and the boxes inside the network."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ibpc.artifact import TRAINING
from ibpc.data import Dataset, fit_images, to_unit
from ibpc.errors import UsageError
from ibpc.network import Network
from ibpc.training.layers import LayerFigures, LayerProbe
from ibpc.training.recipe import Recipe
from ibpc.training.records import EpochRecord
from ibpc.training.reporting import Reporter
from ibpc.training.schedules import Moment, Timeline

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FOLDER: Final = "tensorboard"
_PROBED_IMAGES: Final = 200


class TensorBoardReporter:
    """Writes scalars once per epoch, at its last step.

    `open_writer` is called once the run has its folder, with the step from which on older events are dropped; `look`
    returns the figures of the layers.
    """

    def __init__(
        self, open_writer: Callable[[int], SummaryWriter], look: Callable[[], tuple[LayerFigures, ...]]
    ) -> None:
        self._open_writer = open_writer
        self._look = look

    def started(self, timeline: Timeline, epoch: int) -> None:
        """Open an event file; a resumed run opens another one in the same folder."""
        self._writer = self._open_writer(epoch * timeline.per_epoch + 1)

    def stepped(self, moment: Moment) -> None:
        """Do nothing: reading a figure of a step would wait for the device."""

    def finished_epoch(self, record: EpochRecord) -> None:
        """Write the figures of an epoch, and of the layers at its end."""
        for name, value in {**figures_of(record), **figures_within(self._look())}.items():
            self._writer.add_scalar(name, value, record.step)
        self._writer.flush()


def figures_of(record: EpochRecord) -> dict[str, float]:
    """Return the scalars of an epoch by the names that TensorBoard groups them by."""
    figures = {
        "schedule/eps": record.eps,
        "schedule/kappa": record.kappa,
        "schedule/learning_rate": record.learning_rate,
        "speed/images_per_second": record.images_per_second,
        "training/nominal": record.nominal_accuracy,
        **{f"loss/{name}": value for name, value in record.losses.items()},
    }
    if record.certified_accuracy is not None:
        figures["training/certified"] = record.certified_accuracy
    if record.validation:
        figures |= {"held_out/nominal": record.validation.nominal, "held_out/certified": record.validation.certified}
    return figures


def figures_within(layers: tuple[LayerFigures, ...]) -> dict[str, float]:
    """Return the scalars of the layers."""
    return {
        f"{group}/{layer.name}": value
        for layer in layers
        for group, value in (
            ("bound_width", layer.width),
            ("dead", layer.dead),
            ("active", layer.active),
            ("unstable", layer.unstable),
        )
    }


@contextmanager
def tensorboard_reporter(run: Path, network: Network, dataset: Dataset, recipe: Recipe) -> Iterator[Reporter]:
    """Yield a reporter that writes event files to `run`/training/tensorboard. Raises UsageError without TensorBoard.

    The layers are probed at the recipe's ε around the first held-out images, or training images if none are held out.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        found = f"TensorBoard is not there ({error})"
        raise UsageError.at("--tensorboard", found, remedy="pip install tensorboard") from error
    training, held = dataset.hold_out(recipe.validation.images, recipe.validation.seed)
    images = to_unit((held if len(held) else training).images[:_PROBED_IMAGES])
    probe = LayerProbe(network, fit_images(images, network.input_shape), recipe.eps)
    with ExitStack() as opened:
        folder = str(run / TRAINING / FOLDER)
        yield TensorBoardReporter(lambda step: opened.enter_context(SummaryWriter(folder, purge_step=step)), probe)
