"""ONNX files whose weights lie in one file beside them: a protocol buffer holds no more than 2 GB."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from histgen_lib.files import umask

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

INLINE_BYTES = 2_000_000_000
"""A graph whose weights are larger keeps them in a file of their own (protobuf's limit is 2³¹ bytes)."""

_SMALL_BYTES = 1024
"""Smaller tensors stay in the graph: shapes and axes, which are read before any data is."""
_ALIGN = 4096
"""Offsets are multiples of a memory page, so that the file can be mapped."""


def data_path(graph: Path) -> Path:
    """Return where the weights of a graph lie if they are not in it."""
    return graph.with_name(f"{graph.name}.data")


def copy_graph(source: Path, target: Path) -> None:
    """Copy a graph, and its weights file if it has one. Its name must stay: the graph refers to it."""
    shutil.copyfile(source, target)
    if data_path(source).is_file():
        shutil.copyfile(data_path(source), data_path(target))


@contextmanager
def graph_written(path: Path, inline_bytes: int = INLINE_BYTES) -> Iterator[Path]:
    """Lend a path to write a graph to; then move it to `path`, with large weights in `data_path(path)`.

    What writes the graph may leave weights in further files beside it, as torch does beyond 2 GB. One tensor
    is in memory at a time. When both files are replaced, the graph is missing for a moment rather than read
    with the weights of another.
    """
    import onnx

    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as place:
        lent = Path(place) / path.name
        yield lent
        model = onnx.load(str(lent), load_external_data=False)
        written = [lent]
        if _external(model) or _weights_bytes(model) > inline_bytes:
            written.insert(0, _moved_out(model, lent))
        for file in written:
            file.chmod(0o666 & ~umask())
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
        path.unlink(missing_ok=True)
        data_path(path).unlink(missing_ok=True)
        for file in written:
            file.replace(path.with_name(file.name))


def _external(model: ModelProto) -> bool:
    from onnx.external_data_helper import uses_external_data

    return any(uses_external_data(tensor) for tensor in model.graph.initializer)


def _weights_bytes(model: ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _moved_out(model: ModelProto, graph: Path) -> Path:
    """Move the weights of a graph to the file beside it; return that file."""
    data = data_path(graph)
    with data.open("wb") as stream:
        for tensor in model.graph.initializer:
            _move(tensor, graph.parent, stream, data.name)
    graph.write_bytes(model.SerializeToString())
    return data


def _move(tensor: TensorProto, folder: Path, stream: BinaryIO, name: str) -> None:
    from onnx.external_data_helper import (
        ExternalDataInfo,
        load_external_data_for_tensor,
        set_external_data,
        uses_external_data,
    )

    if uses_external_data(tensor):
        own = folder / ExternalDataInfo(tensor).location
        load_external_data_for_tensor(tensor, str(folder))
        own.unlink()
    if len(tensor.raw_data) < _SMALL_BYTES:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        return
    stream.write(b"\0" * (-stream.tell() % _ALIGN))
    offset, length = stream.tell(), len(tensor.raw_data)
    stream.write(tensor.raw_data)
    set_external_data(tensor, name, offset, length)
    tensor.ClearField("raw_data")
