"""ONNX files whose weights lie in one file beside them: a protocol buffer holds no more than 2 GB."""

from __future__ import annotations

import os
import tempfile
from collections import Counter
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


@contextmanager
def graph_written(path: Path, inline_bytes: int = INLINE_BYTES) -> Iterator[Path]:
    """Lend a path to write a graph to; then move it to `path`, with large weights in `data_path(path)`.

    What writes the graph may leave weights in further files beside it, as torch does beyond 2 GB: but not in
    the one of that name. One tensor
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
    return any(_location(tensor) for tensor in model.graph.initializer)


def _weights_bytes(model: ModelProto) -> int:
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)


def _moved_out(model: ModelProto, graph: Path) -> Path:
    """Move the weights of a graph to the file beside it; return that file."""
    data = data_path(graph)
    left = Counter(map(_location, model.graph.initializer))
    with data.open("wb") as stream:
        for tensor in model.graph.initializer:
            source = _location(tensor)
            _move(tensor, graph.parent, stream, data.name)
            left[source] -= 1
            if source and not left[source]:
                (graph.parent / source).unlink()  # or the weights would lie on the disk twice
    graph.write_bytes(model.SerializeToString())
    return data


def _location(tensor: TensorProto) -> str:
    """Return the name of the file that holds a tensor; "" if the graph does."""
    from onnx.external_data_helper import ExternalDataInfo, uses_external_data

    return str(ExternalDataInfo(tensor).location) if uses_external_data(tensor) else ""


def _move(tensor: TensorProto, folder: Path, stream: BinaryIO, name: str) -> None:
    from onnx.external_data_helper import load_external_data_for_tensor, set_external_data

    if _location(tensor):
        load_external_data_for_tensor(tensor, str(folder))
    if len(tensor.raw_data) < _SMALL_BYTES:
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        return
    stream.write(b"\0" * (-stream.tell() % _ALIGN))
    offset, length = stream.tell(), len(tensor.raw_data)
    stream.write(tensor.raw_data)
    set_external_data(tensor, name, offset, length)
    tensor.ClearField("raw_data")
