"""ONNX files: reading them, gzipped or not, with their external data, within bounds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import external_data_helper

from ibpc.errors import ModelError
from ibpc.files import Packable

_MOST_BYTES: Final = 2**31 - 1
_FILE: Final = Packable(".onnx", "a serialized ModelProto", _MOST_BYTES, ModelError)


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model in a file, gzipped or not, with its external data.

    Raises ModelError where the file is missing, too large, damaged, or reaches outside its folder.
    """
    data = _FILE.read(path)
    if not data:
        raise ModelError.at(path, "it is empty", "a serialized ModelProto")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError.at(path, "it is damaged or not an ONNX model", "a serialized ModelProto") from error
    _load_external_data(model, path)
    return model


def _load_external_data(model: onnx.ModelProto, path: Path) -> None:
    """Read external tensors into the model. Each must lie in a regular file under the model's folder."""
    folder = path.parent.resolve()
    loaded = 0
    for tensor in tensors_of(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        where = f"{path}: tensor {tensor.name}"
        try:
            info = external_data_helper.ExternalDataInfo(tensor)
            source = (folder / info.location).resolve()
        except (ValueError, OSError) as error:
            raise ModelError.at(where, f"its external data is malformed: {error}") from error
        if not source.is_relative_to(folder):
            raise ModelError.at(where, f"its external data {info.location!r} is outside the model's folder")
        if not source.is_file():
            raise ModelError.at(where, f"its external data {info.location!r} is missing", "a file beside the model")
        offset = info.offset or 0
        length = info.length or source.stat().st_size - offset
        loaded += length
        if offset < 0 or length < 0 or offset + length > source.stat().st_size or loaded > _MOST_BYTES:
            raise ModelError.at(where, f"its external data spans {length:,} bytes at {offset:,}", "a part of the file")
        with source.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        tensor.ClearField("external_data")
        tensor.data_location = onnx.TensorProto.DEFAULT


def tensors_of(message: Message) -> Iterator[onnx.TensorProto]:
    """Yield every tensor inside a message: initializers, constants, those of subgraphs and functions."""
    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in [value] if isinstance(value, Message) else value:
            yield from tensors_of(item)
