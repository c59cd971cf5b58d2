"""ONNX files: reading them, gzipped or not, with their external data, within bounds."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import external_data_helper

from ibpc.errors import ModelError

_MOST_BYTES: Final = 2**31 - 1
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_GROWTH: Final = 100
# Sparse networks pack well: one of VNN-COMP unpacks to 159 MB, 172 times its size.
_GZIP_ALLOWANCE: Final = 512 * 2**20
_CHUNK: Final = 2**20


def read_model(path: Path) -> onnx.ModelProto:
    """Return the model in a file, gzipped or not, with its external data.

    Raises ModelError where the file is missing, too large, damaged, or reaches outside its folder.
    """
    data = _read_bytes(path)
    if not data:
        raise ModelError.at(path, "it is empty", "a serialized ModelProto")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError.at(path, "it is damaged or not an ONNX model", "a serialized ModelProto") from error
    _load_external_data(model, path)
    return model


def _read_bytes(path: Path) -> bytes:
    if not path.is_file():
        found = "it is no regular file" if path.exists() else "there is no such file"
        raise ModelError.at(path, found, "an .onnx or .onnx.gz file")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MOST_BYTES:
                raise ModelError.at(path, f"{size:,} bytes", f"at most {_MOST_BYTES:,}")
            compressed = file.read(2) == _GZIP_MAGIC
            file.seek(0)
            return _decompress(file, size, path) if compressed else file.read(_MOST_BYTES)
    except OSError as error:
        raise ModelError.at(path, f"it cannot be read: {error.strerror or error}") from error


def _decompress(file: IO[bytes], size: int, path: Path) -> bytes:
    limit = min(_MOST_BYTES, max(_GZIP_ALLOWANCE, _GZIP_GROWTH * size))
    data = bytearray()
    try:
        with gzip.GzipFile(fileobj=file) as stream:
            while chunk := stream.read(_CHUNK):
                data += chunk
                if len(data) > limit:
                    raise ModelError.at(path, f"{size:,} bytes unpack to more than {limit:,}", "a gzipped model")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ModelError.at(path, f"it is damaged: {error}", "a gzipped model") from error
    return bytes(data)


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
