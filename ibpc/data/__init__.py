"""Data sets: by name, from `NAME.npz` files, or from folders of images. The only package that knows torchvision.

Images are N×C×H×W, uint8 or float32 in [0, 1]. They are kept in their stored type and converted to floats batch by
batch on the device that trains, where they are also augmented.
"""

from ibpc.data.arrays import read_array, real_array
from ibpc.data.checks import dataset_of
from ibpc.data.choosing import chosen_images, is_first, listed
from ibpc.data.datasets import Dataset, Split, evenly
from ibpc.data.finding import data_root, load_dataset
from ibpc.data.images import Augmentation, augment, crop_and_flip, fit_images, shift, to_unit
from ibpc.data.known import DIGITS_TRAINING
from ibpc.data.pairs import arrays_of

__all__ = [
    "DIGITS_TRAINING",
    "Augmentation",
    "Dataset",
    "Split",
    "arrays_of",
    "augment",
    "chosen_images",
    "crop_and_flip",
    "data_root",
    "dataset_of",
    "evenly",
    "fit_images",
    "is_first",
    "listed",
    "load_dataset",
    "read_array",
    "real_array",
    "shift",
    "to_unit",
]
