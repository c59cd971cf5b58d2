"""Arrays of the pairs of image and label that a torch data set yields."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ibpc.errors import DataError, ThirdPartyError, third_party

Array = NDArray[Any]


def arrays_of(pairs: Any, split: str) -> tuple[Array, Array]:
    """Return images (N, H, W) or (N, C, H, W) and labels (N,) of a data set with a length and items (image, label).

    `split` names it in errors. Raises DataError for a data set of anything else.
    """
    try:
        with third_party():
            items = [pairs[index] for index in range(len(pairs))]
            images = np.stack([np.asarray(image) for image, _ in items])
            labels = np.asarray([int(label) for _, label in items], np.int64)
    except ThirdPartyError as error:
        raise DataError.at(split, str(error), "pairs of an image tensor of one shape, and an integer label") from error
    return images, labels
