"""Data sets: every source gives the same tensors, every defect a clear error, every crop the right pixels."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import os
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

import ibpc
from ibpc.data import (
    DIGITS_TRAINING,
    Augmentation,
    Dataset,
    Split,
    augment,
    crop_and_flip,
    data_root,
    load_dataset,
    read_array,
    to_unit,
)
from ibpc.errors import DataError, UsageError


def arrays(train: int = 12, test: int = 6, shape: tuple[int, ...] = (5, 4, 3)) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {
        "x_train": random.integers(0, 256, (train, *shape), dtype=np.uint8),
        "y_train": np.arange(train) % 3,
        "x_test": random.integers(0, 256, (test, *shape), dtype=np.uint8),
        "y_test": np.arange(test) % 3,
    }


def write(folder: Path, name: str = "own.npz", **changes: np.ndarray) -> Path:
    path = folder / name
    np.savez(path, **(arrays() | changes))
    return path


# ── sources ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_npz_becomes_channels_first_uint8_and_int64(tmp_path):
    stored = arrays()
    dataset = load_dataset(write(tmp_path))
    assert dataset.name == "own"
    assert dataset.classes == 3
    assert dataset.image_shape == (3, 5, 4)
    assert dataset.train.images.dtype == torch.uint8
    assert dataset.train.labels.dtype == torch.int64
    assert dataset.augmentation is Augmentation.NONE
    for sample, row, column, channel in [(0, 0, 0, 0), (11, 4, 3, 2), (5, 2, 1, 1)]:
        assert dataset.train.images[sample, channel, row, column] == stored["x_train"][sample, row, column, channel]
    assert dataset.test.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_grey_npz_gets_one_channel_and_floats_stay_floats(tmp_path):
    pixels = np.linspace(0, 1, 12 * 20).reshape(12, 5, 4)
    grey = arrays(shape=(5, 4)) | {"x_train": pixels, "x_test": pixels[:6]}
    dataset = load_dataset(write(tmp_path, **grey))
    assert dataset.image_shape == (1, 5, 4)
    assert dataset.train.images.dtype == torch.float32
    assert torch.equal(dataset.train.floats()[3, 0], torch.tensor(pixels[3], dtype=torch.float32))


def test_labels_may_be_a_column(tmp_path):
    column = arrays()["y_train"].reshape(-1, 1)
    assert load_dataset(write(tmp_path, y_train=column)).train.labels.shape == (12,)


def test_name_finds_npz_in_the_root_the_argument_first_then_the_variable(tmp_path, monkeypatch):
    first, second = tmp_path / "a", tmp_path / "b"
    first.mkdir(), second.mkdir()
    write(first, "own.npz")
    write(second, "own.npz", y_test=np.array([2] * 6))
    monkeypatch.setenv("IBPC_DATA", str(second))
    assert load_dataset("own").test.labels.tolist() == [2] * 6
    assert load_dataset("own", first).test.labels.tolist() == [0, 1, 2] * 2
    monkeypatch.delenv("IBPC_DATA")
    assert data_root() == Path.home() / ".cache" / "ibpc"


def test_digits_are_embedded_scaled_and_split_once_for_all():
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits")
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (DIGITS_TRAINING, 500, 10)
    assert dataset.image_shape == (1, 8, 8)
    everything = torch.cat([dataset.train.images, dataset.test.images]).reshape(-1, 64) * 16
    original = torch.tensor(load_digits().data, dtype=torch.float32)
    assert torch.equal(*(torch.unique(rows, dim=0) for rows in (everything, original)))
    assert load_dataset("digits").sha256 == dataset.sha256
    assert set(dataset.test.labels.tolist()) == set(range(10))


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.tobytes())
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(header + array.tobytes()))


def test_known_name_comes_from_torchvision_files_and_equals_the_npz(tmp_path):
    known = arrays(shape=(28, 28))
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for prefix, split in (("train", "train"), ("t10k", "test")):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", known[f"x_{split}"])
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", known[f"y_{split}"].astype(np.uint8))
    from_torchvision = load_dataset("mnist", tmp_path)
    np.savez(tmp_path / "mnist.npz", **known)
    from_npz = load_dataset("mnist", tmp_path)
    assert from_torchvision.classes == from_npz.classes == 10
    assert torch.equal(from_torchvision.train.images, from_npz.train.images)
    assert torch.equal(from_torchvision.test.labels, from_npz.test.labels)
    assert from_torchvision.sha256 == from_npz.sha256


def test_cifar_is_augmented_and_has_its_shape(tmp_path):
    np.savez(tmp_path / "cifar10.npz", **arrays(shape=(32, 32, 3)))
    assert load_dataset("cifar10", tmp_path).augmentation is Augmentation.CROP_FLIP
    np.savez(tmp_path / "cifar10.npz", **arrays(shape=(28, 28)))
    with pytest.raises(DataError, match=r"images 1×28×28.*3×32×32"):
        load_dataset("cifar10", tmp_path)


def write_folder(root: Path, mode: str = "RGB", size: tuple[int, int] = (4, 5)) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    pixels = {}
    for split in ("train", "test"):
        for kind in ("cat", "dog"):
            (root / split / kind).mkdir(parents=True)
            array = random.integers(0, 256, (size[1], size[0], 3)[: 3 if mode == "RGB" else 2], dtype=np.uint8)
            Image.fromarray(array).save(root / split / kind / "a.png")
            pixels[f"{split}/{kind}"] = array
    return pixels


@pytest.mark.parametrize(("mode", "channels"), [("RGB", 3), ("L", 1)])
def test_folder_of_images(tmp_path, mode, channels):
    pixels = write_folder(tmp_path / "pets", mode)
    for dataset in (load_dataset(tmp_path / "pets"), load_dataset("pets", tmp_path)):
        assert dataset.image_shape == (channels, 5, 4)
        assert dataset.train.labels.tolist() == [0, 1]
        dog = pixels["test/dog"].reshape(5, 4, channels)
        assert np.array_equal(dataset.test.images[1].permute(1, 2, 0).numpy(), dog)


# ── what is wrong ───────────────────────────────────────────────────────────────────────────────────────────────
def only_line(error: pytest.ExceptionInfo[DataError]) -> str:
    assert len(error.value.problems) == 1, error.value
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize(("kind", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")])
def test_images_of_more_than_8_bits_are_refused(tmp_path, kind, mode):
    """Pillow would truncate their values to 255."""
    for split, label in itertools.product(("train", "test"), ("a", "b")):
        folder = tmp_path / split / label
        folder.mkdir(parents=True)
        Image.fromarray(np.full((4, 4), 1000, kind)).save(folder / "1.tiff")
    with pytest.raises(DataError, match=f"an image of mode {mode}"):
        load_dataset(tmp_path)


def test_arrays_become_a_data_set():
    images, labels = torch.rand(6, 5, 4), torch.tensor([0, 1, 2] * 2)
    data = ibpc.dataset(images, labels, images.numpy(), labels.numpy(), name="mine")
    assert (data.name, data.classes, data.image_shape, len(data.train)) == ("mine", 3, (1, 5, 4), 6)
    assert torch.equal(data.test.images[:, 0], images)
    with pytest.raises(DataError, match="mine: y_train"):
        ibpc.dataset(images, labels[:2], images, labels, name="mine")


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_tensors_with_channels_first_and_torch_data_sets_make_the_same_data_set(dtype):
    images = torch.randint(0, 2, (6, 3, 4, 5)).to(dtype)
    labels = torch.arange(6) % 2
    last = images.movedim(1, -1)
    expected = ibpc.dataset(last, labels, last, labels)
    pairs = TensorDataset(images, labels)
    for made in (ibpc.dataset(images, labels, images, labels, layout="NCHW"), ibpc.torch_dataset(pairs, pairs)):
        assert made.sha256 == expected.sha256
        assert torch.equal(made.train.images, images)
    with pytest.raises(UsageError, match="NHWC or NCHW"):
        ibpc.dataset(last, labels, last, labels, layout="CHW")


@pytest.mark.parametrize("pairs", [[], [1, 2], [(torch.zeros(1, 2, 2), 0), (torch.zeros(1, 3, 2), 1)], 7])
def test_torch_data_sets_of_anything_else_are_refused(pairs):
    with pytest.raises(DataError, match="train"):
        ibpc.torch_dataset(pairs, pairs)


def test_missing_data_say_where_and_how(tmp_path):
    with pytest.raises(DataError) as error:
        load_dataset("mnist", tmp_path)
    for words in (str(tmp_path), "--download", "IBPC_DATA", "x_train", "mnist.npz"):
        assert words in only_line(error)


def test_unknown_name_names_the_nearest(tmp_path):
    with pytest.raises(DataError, match="did you mean 'cifar10'") as error:
        load_dataset("cifar-10", tmp_path)
    assert str(tmp_path) in only_line(error)


def test_missing_path(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        load_dataset(tmp_path / "absent.npz")


BAD = {
    "no test labels": ({"drop": "y_test"}, "no array 'y_test'"),
    "floats to 255": ({"x_train": arrays()["x_train"].astype(np.float32)}, "floats in \\[0, 1\\]"),
    "integers": ({"x_train": arrays()["x_train"].astype(np.int64)}, "pixels of type int64"),
    "a flat image": ({"x_test": np.zeros((6, 60), np.uint8)}, r"N×H×W or N×H×W×C"),
    "channels first": ({"x_test": np.zeros((6, 3, 32, 32), np.uint8)}, "channels last"),
    "no images": ({"x_train": np.zeros((0, 5, 4, 3), np.uint8), "y_train": np.zeros(0, int)}, "no images"),
    "another shape": ({"x_test": np.zeros((6, 4, 4, 3), np.uint8)}, "one shape"),
    "too few labels": ({"y_train": np.arange(11) % 3}, "11 labels; expected 12"),
    "float labels": ({"y_train": np.zeros(12)}, "integers"),
    "one label": ({"y_train": np.array(3)}, "integers"),
    "negative labels": ({"y_train": np.arange(12) % 3 - 1}, "labels from -1 to 1"),
    "gigantic labels": (
        {"y_train": np.full(12, 2**63, np.uint64)},
        "labels from 9223372036854775808.*to 2,147,483,647",
    ),
    "training images without labels": ({"drop": "y_train"}, "no array 'y_train'"),
    "training labels without images": ({"drop": "x_train"}, "no array 'x_train'"),
    "pickled objects": ({"x_train": np.array([object()] * 12)}, "without pickled objects"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_npz_gives_one_clear_line(tmp_path, name):
    changes, words = BAD[name]
    stored = arrays() | changes
    stored.pop(stored.pop("drop", ""), None)
    np.savez(tmp_path / "own.npz", **stored)
    with pytest.raises(DataError, match=words) as error:
        load_dataset(tmp_path / "own.npz")
    assert "own.npz" in only_line(error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite(tmp_path, value):
    pixels = (arrays()["x_train"] / 255).astype(np.float32)
    pixels[[3, 7], 0, 0, 0] = value
    with pytest.raises(DataError, match="NaN or infinite pixels in 2 images"):
        load_dataset(write(tmp_path, x_train=pixels))


def test_all_problems_of_a_file_are_collected(tmp_path):
    path = write(tmp_path, x_train=np.zeros(12), y_test=np.zeros(6))
    with pytest.raises(DataError) as error:
        load_dataset(path)
    assert len(error.value.problems) == 2


def test_pickles_are_never_opened(tmp_path, monkeypatch):
    import pickle

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    path = write(tmp_path, x_train=np.array([object()] * 12))
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "loads", refuse)
    with pytest.raises(DataError):
        load_dataset(path)


def test_damaged_files_never_give_another_error(tmp_path):
    whole = write(tmp_path).read_bytes()
    random = np.random.default_rng(3)
    path = tmp_path / "own.npz"
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[random.integers(len(whole))] ^= 1 << random.integers(8)
        path.write_bytes(damaged)
        try:
            load_dataset(path)
        except DataError:
            continue
    for length in (0, 1, 30, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            load_dataset(path)


SHAPES = ("(1180591620717411303424,)", "(True, 2)", "(-1,)", "(9223372036854775807, 9)")


def header(shape: str) -> bytes:
    """Return an array file of a shape."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def test_a_packing_that_is_damaged_is_one_clear_error(tmp_path):
    path = tmp_path / "own.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays().items():
            with archive.open(f"{name}.npy", "w") as stream:
                np.lib.format.write_array(stream, array)
    data = bytearray(path.read_bytes())
    data[60:90] = bytes(30)
    path.write_bytes(data)
    with pytest.raises(DataError, match="own.npz: unreadable"):
        load_dataset(path)


@pytest.mark.parametrize(
    "member",
    [
        b"",
        b"no array",
        *map(header, SHAPES),
        b"\x93NUMPY\x01\x00\x28\x23" + b"(" * 9000,
        b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{",
    ],
    ids=["empty", "text", *(f"shape {number}" for number in range(len(SHAPES))), "a deep header", "an endless header"],
)
def test_a_member_that_is_no_array_is_one_clear_error(tmp_path, member):
    path = write(tmp_path, x_train=np.zeros(0))
    whole = {name: zipfile.ZipFile(path).read(name) for name in zipfile.ZipFile(path).namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (whole | {"x_train.npy": member}).items():
            archive.writestr(name, data)
    with pytest.raises(DataError, match="own.npz: unreadable"):
        load_dataset(path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = tmp_path / "own.npz"
    np.savez_compressed(path, **(arrays() | {"x_train": np.zeros((200, 100, 100), np.uint8)}))
    monkeypatch.setattr("ibpc.data.arrays._ALWAYS_UNPACKED", 10**6)
    monkeypatch.setattr(np.lib.format, "read_array", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(DataError, match=r"bytes that unpack to 2,00.*uncompressed"):
        load_dataset(path)


def test_a_pipe_is_no_data_set(tmp_path):
    """Reading one would block forever."""
    os.mkfifo(tmp_path / "own.npz")
    with pytest.raises(DataError, match="not a regular file"):
        load_dataset(tmp_path / "own.npz")
    with pytest.raises(DataError, match="not a regular file"):
        read_array(tmp_path / "own.npz")


def test_a_single_array_is_no_data_set(tmp_path):
    np.save(tmp_path / "own.npy", np.zeros(3))
    (tmp_path / "own.npy").rename(tmp_path / "own.npz")
    with pytest.raises(DataError, match="a single array"):
        load_dataset(tmp_path / "own.npz")


def test_folder_with_a_broken_image(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "train" / "dog" / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"dog/a\.png: unreadable"):
        load_dataset(tmp_path)


def test_folder_with_several_broken_and_odd_images_names_them_all(tmp_path):
    write_folder(tmp_path)
    for name in ("b.png", "c.gif"):
        (tmp_path / "train" / "dog" / name).write_bytes(b"nothing")
    with pytest.raises(DataError) as error:
        load_dataset(tmp_path)
    assert [Path(problem.where).name for problem in error.value.problems] == ["b.png", "c.gif"]
    for name, size in (("b.png", 3), ("c.gif", 7)):
        Image.fromarray(np.zeros((size, 4), np.uint8)).save(tmp_path / "train" / "dog" / name)
    with pytest.raises(DataError, match="3×4 pixels") as error:
        load_dataset(tmp_path)
    assert [Path(problem.where).name for problem in error.value.problems] == ["b.png", "c.gif"]


def test_folder_with_a_pipe_and_with_a_giant(tmp_path, monkeypatch):
    write_folder(tmp_path)
    os.mkfifo(tmp_path / "test/cat/extra.png")
    with pytest.raises(DataError, match="extra.png: unreadable: not a regular file"):
        load_dataset(tmp_path)
    (tmp_path / "test/cat/extra.png").unlink()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(DataError, match="unreadable: Image size"):
        load_dataset(tmp_path)


@pytest.mark.parametrize("target", ["..", "/", "../dog"])
def test_folder_that_lies_in_itself(tmp_path, target):
    """Listing such folders would not end, or would find each image many times."""
    write_folder(tmp_path)
    (tmp_path / "train/cat/link").symlink_to(target)
    (tmp_path / "train/dog/link").symlink_to("../cat")
    with pytest.raises(DataError, match="link: a link to .*, which it lies in"):
        load_dataset(tmp_path)


def test_folder_with_images_of_two_sizes(tmp_path):
    write_folder(tmp_path)
    Image.new("RGB", (9, 7)).save(tmp_path / "train" / "dog" / "a.png")
    with pytest.raises(DataError, match="7×9 pixels; expected 5×4"):
        load_dataset(tmp_path)


def test_folder_whose_test_classes_differ(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "test" / "dog").rename(tmp_path / "test" / "cow")
    with pytest.raises(DataError, match="class 'cow'"):
        load_dataset(tmp_path)


def test_folder_without_classes(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="not a folder of images"):
        load_dataset(tmp_path)


# ── identity ────────────────────────────────────────────────────────────────────────────────────────────────────
def test_sha256_is_that_of_the_tensors_and_of_nothing_else(tmp_path):
    stored = arrays()
    digest = hashlib.sha256()
    for split in ("train", "test"):
        images, labels = stored[f"x_{split}"].transpose(0, 3, 1, 2), stored[f"y_{split}"].astype("<i8")
        for kind, array in (("torch.uint8", images), ("torch.int64", labels)):
            digest.update(f"{kind} {array.shape}\n".encode() + array.tobytes())
    assert load_dataset(write(tmp_path)).sha256 == digest.hexdigest()
    small = stored["y_train"].astype(np.uint8)
    assert load_dataset(write(tmp_path, y_train=small)).sha256 == digest.hexdigest()
    stored["x_test"][5, 4, 3, 2] ^= 1
    assert load_dataset(write(tmp_path, x_test=stored["x_test"])).sha256 != digest.hexdigest()


# ── holding out ─────────────────────────────────────────────────────────────────────────────────────────────────
def numbered(count: int) -> Dataset:
    images = torch.arange(count, dtype=torch.float32).reshape(count, 1, 1, 1) / count
    split = Split(images, torch.arange(count) % 2)
    return Dataset("numbered", split, split, 2, "")


@pytest.mark.parametrize(("count", "asked", "held"), [(100, None, 10), (60_000, None, 5000), (100, 7, 7), (100, 0, 0)])
def test_hold_out_parts_the_training_images(count, asked, held):
    dataset = numbered(count)
    training, validation = dataset.hold_out(asked, seed=1)
    assert (len(training), len(validation)) == (count - held, held)
    both = torch.cat([training.images, validation.images]).flatten()
    assert torch.equal(both.sort().values, dataset.train.images.flatten())


def test_certifying_asks_for_test_images_alone(tmp_path):
    """Every source may leave the training images out; only what trains asks for them."""
    stored, pairs = arrays(), []
    np.savez(tmp_path / "own.npz", x_test=stored["x_test"], y_test=stored["y_test"])
    write_folder(tmp_path / "pets")
    whole = load_dataset("pets", tmp_path)
    (tmp_path / "pets" / "train").rename(tmp_path / "away")
    pairs = TensorDataset(torch.from_numpy(stored["x_test"]).movedim(-1, 1), torch.from_numpy(stored["y_test"]))
    made = [load_dataset(tmp_path / "own.npz"), ibpc.dataset(None, None, stored["x_test"], stored["y_test"])]
    made += [ibpc.torch_dataset(None, pairs), load_dataset("pets", tmp_path), load_dataset(tmp_path / "pets")]
    for data in made:
        assert len(data.train) == 0 < len(data.test) and data.image_shape in ((3, 5, 4), (1, 5, 4), (3, 4, 5))
        with pytest.raises(DataError, match=r"no training images.*x_train and y_train"):
            data.hold_out(None, seed=0)
    assert made[0].sha256 == made[1].sha256 == made[2].sha256 and made[0].classes == 3
    assert torch.equal(made[3].test.images, whole.test.images) and made[3].sha256 != whole.sha256
    with pytest.raises(DataError, match="no array 'y_train'"):
        ibpc.dataset(stored["x_train"], None, stored["x_test"], stored["y_test"])
    with pytest.raises(DataError, match="no array 'x_test'"):
        ibpc.dataset(stored["x_train"], stored["y_train"], None, stored["y_test"])


def test_pixels_that_are_normalized_name_the_remedy():
    images, labels = torch.randn(4, 5, 4), torch.tensor([0, 1, 0, 1])
    with pytest.raises(DataError, match=r"(?s)floats in \[0, 1\].*--mean and --std, or ibpc.normalized"):
        ibpc.dataset(None, None, images, labels)


def test_what_the_data_root_lacks_is_looked_for_beside(tmp_path):
    (root := tmp_path / "root").mkdir()
    (beside := tmp_path / "beside").mkdir()
    write(beside)
    assert load_dataset("own", root, beside=beside).sha256 == load_dataset(beside / "own.npz").sha256
    write(root, y_test=np.zeros(6, int))
    assert load_dataset("own", root, beside=beside).sha256 == load_dataset(root / "own.npz").sha256
    with pytest.raises(DataError, match=r"in .*root or .*beside.*--data-root FOLDER"):
        load_dataset("absent", root, beside=beside)


def test_a_folder_of_a_version_keeps_its_whole_name(tmp_path):
    write_folder(tmp_path / "pets.v2")
    assert load_dataset(tmp_path / "pets.v2").name == "pets.v2"


def test_only_training_minds_its_labels(tmp_path):
    dataset = load_dataset(write(tmp_path, y_train=np.zeros(12, int)))
    assert dataset.classes == 3
    with pytest.raises(DataError, match="training labels of one class only"):
        dataset.hold_out(None, seed=0)


def test_hold_out_follows_its_seed():
    dataset = numbered(100)
    first, again, other = (dataset.hold_out(20, seed)[1].images for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("asked", [-1, 100, 101])
def test_hold_out_leaves_something(asked):
    with pytest.raises(DataError, match="to hold out"):
        numbered(100).hold_out(asked, seed=0)


# ── batches ─────────────────────────────────────────────────────────────────────────────────────────────────────
def test_to_unit():
    assert to_unit(torch.tensor([0, 51, 255], dtype=torch.uint8)).tolist() == pytest.approx([0.0, 0.2, 1.0])
    floats = torch.rand(3)
    assert to_unit(floats) is floats


def test_every_crop_is_a_window_of_the_framed_image_and_all_windows_occur():
    """Rebuild each output from the one offset and coin that explain it; they must be uniform and independent."""
    height, width, padding, count = 5, 4, 2, 3000
    base = torch.arange(1, 2 * height * width + 1, dtype=torch.uint8).reshape(1, 2, height, width)
    generator = torch.Generator().manual_seed(0)
    cropped = crop_and_flip(base.expand(count, -1, -1, -1), padding, generator)
    framed = torch.zeros(2, height + 2 * padding, width + 2 * padding, dtype=torch.uint8)
    framed[:, padding:-padding, padding:-padding] = base[0]
    windows = {}
    for row in range(2 * padding + 1):
        for column in range(2 * padding + 1):
            window = framed[:, row : row + height, column : column + width]
            windows[window.numpy().tobytes()] = (row, column, False)
            windows[window.flip(2).numpy().tobytes()] = (row, column, True)
    found = [windows[image.contiguous().numpy().tobytes()] for image in cropped]
    assert set(found) == set(windows.values())
    flips = sum(flipped for *_, flipped in found)
    assert abs(flips - count / 2) < 5 * (count / 4) ** 0.5
    expected = count / 25
    for row in range(5):
        for column in range(5):
            times = sum(place[:2] == (row, column) for place in found)
            assert abs(times - expected) < 5 * expected**0.5


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_a_crop_may_repeat_the_border(dtype):
    images = torch.randint(1, 256, (400, 3, 4, 5)).to(dtype)
    cropped = augment(images, Augmentation.CROP_EDGE_FLIP, torch.Generator().manual_seed(0))
    assert cropped.dtype == dtype
    framed = torch.nn.functional.pad(images.double(), [2] * 4, mode="replicate").to(dtype)
    windows = framed.unfold(2, 4, 1).unfold(3, 5, 1)  # (B, C, row, column, H, W)
    flat = [(view.movedim(1, 3) == cropped[:, None, None]).all(dim=(3, 4, 5)) for view in (windows, windows.flip(5))]
    assert torch.stack(flat, 1).any(dim=(1, 2, 3)).all()
    assert all(match.any(0).all() for match in flat)


def test_crops_follow_the_generator_and_leave_the_images_alone():
    images = torch.randint(0, 256, (8, 3, 6, 6), dtype=torch.uint8)
    before = images.clone()
    first, again = (augment(images, Augmentation.CROP_FLIP, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(images, before)
    assert first.dtype == torch.uint8
    assert first.is_contiguous()
    assert augment(images, Augmentation.NONE, torch.Generator()) is images


def test_shift_moves_each_image_by_itself_and_fills_with_black():
    images = torch.arange(1, 17, dtype=torch.uint8).reshape(1, 1, 4, 4).expand(200, 1, 4, 4)
    moved = augment(images, Augmentation.SHIFT, torch.Generator().manual_seed(0))
    framed = torch.nn.functional.pad(images[0, 0], [1, 1, 1, 1])
    windows = {tuple(framed[r : r + 4, c : c + 4].flatten().tolist()) for r in range(3) for c in range(3)}
    found = {tuple(image.flatten().tolist()) for image in moved}
    assert found == windows


# ── distorted images ────────────────────────────────────────────────────────────────────────────────────────────
def distorted(images, seed=0):
    return augment(images, Augmentation.DISTORT, torch.Generator().manual_seed(seed))


def test_distortions_are_images_in_the_unit_range_that_follow_the_generator():
    images = torch.randint(0, 256, (16, 3, 12, 20), dtype=torch.uint8)
    before = images.clone()
    first, again, other = distorted(images), distorted(images), distorted(images, seed=1)
    assert first.shape == images.shape and first.dtype == torch.float32
    assert first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(images, before)


def test_every_image_is_distorted_by_itself_and_its_channels_together():
    image = torch.rand(1, 1, 16, 16).expand(6, 2, 16, 16)
    found = distorted(image)
    assert torch.equal(found[:, 0], found[:, 1])
    assert all(not torch.equal(found[0], other) for other in found[1:])


def test_distortions_fill_with_black_and_leave_the_middle_of_a_white_image_white():
    found = distorted(torch.ones(200, 1, 28, 28))
    assert found[:, :, 8:20, 8:20].min() > 1 - 1e-6
    assert (found[:, :, 0, 0] < 1).any()


@pytest.mark.parametrize("size", [(28, 28), (20, 36)])
def test_distortions_move_nothing_far_and_favour_no_direction(size):
    """A dot in the middle keeps its place on average, and moves by at most what shift and wave allow."""
    height, width = size
    images = torch.zeros(2000, 1, *size)
    images[:, :, height // 2 - 1 : height // 2 + 1, width // 2 - 1 : width // 2 + 1] = 1
    mass = distorted(images)[:, 0]
    rows = (mass.sum(2) * (torch.arange(height) + 0.5)).sum(1) / mass.sum((1, 2)) - height / 2
    columns = (mass.sum(1) * (torch.arange(width) + 0.5)).sum(1) / mass.sum((1, 2)) - width / 2
    for strayed in (rows, columns):
        assert abs(strayed.mean()) < 5 * strayed.std() / 2000**0.5
        assert strayed.abs().max() < 4
        assert strayed.std() > 0.3


def test_distortions_turn_both_ways_by_ten_degrees_at_most():
    """The angle of a long bar, by its second moments; waves may bend it a little further."""
    images = torch.zeros(400, 1, 28, 28)
    images[:, :, 13:15, 4:24] = 1
    mass = distorted(images)[:, 0]
    row, column = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    total = mass.sum((1, 2))
    at_row, at_column = ((mass * place).sum((1, 2)) / total for place in (row, column))
    rows, columns = row - at_row[:, None, None], column - at_column[:, None, None]
    products = ((mass * a * b).sum((1, 2)) / total for a, b in ((rows, rows), (columns, columns), (rows, columns)))
    down, across, mixed = products
    degrees = torch.rad2deg(0.5 * torch.atan2(2 * mixed, across - down))
    assert degrees.max() > 5 and degrees.min() < -5
    assert degrees.abs().max() < 25
    assert abs(degrees.mean()) < 5 * degrees.std() / 20
