"""What a model folder's ONNX files were made of: graphs.json, written with them and checked before they run.

A graph computes something for any bytes of the right shape: one of another export, or of other weights, would
draft reports that nobody trained. Torch-free.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

from histgen_lib.errors import FatalError
from histgen_lib.files import canonical_json, json_digest, sha256_file, write_atomic

GRAPHS = "graphs.json"

_HINT = "Run `histgen model export`, or fetch the model again."


class Recorded(Protocol):
    """The part of a model folder that is recorded; see `histgen_lib.models.folder.ModelFolder`."""

    @property
    def path(self) -> Path:
        """The folder."""
        ...

    def graphs(self) -> list[Path]:
        """Return the graphs that are present, with the files of their weights."""
        ...

    def weights(self) -> list[Path]:
        """Return the files of weights that are present."""
        ...

    def built_from(self) -> dict[str, Any]:
        """Return what config.json says about each network that the graphs compute."""
        ...


def record_graphs(folder: Recorded) -> Path:
    """Write graphs.json for the graphs that a folder has now; returns it."""
    content = {
        "graphs": {path.name: digest_of(path) for path in folder.graphs()},
        "weights": {path.name: digest_of(path) for path in folder.weights()},
        "config": _digests(folder),
    }
    write_atomic(folder.path / GRAPHS, canonical_json(content))
    return folder.path / GRAPHS


def renew_graphs(folder: Recorded, files: Collection[str], network: str) -> Path:
    """Write anew what graphs.json says of some files and of one network, and nothing else; returns it.

    Raises FatalError("model-onnx") if it cannot be read.
    """
    path = folder.path / GRAPHS
    record = _read(folder.path) if path.is_file() else {"graphs": {}, "weights": {}, "config": {}}
    for kind, paths in {"graphs": folder.graphs(), "weights": folder.weights()}.items():
        others = {name: digest for name, digest in record[kind].items() if name not in files}
        record[kind] = others | {path.name: digest_of(path) for path in paths if path.name in files}
    record["config"][network] = _digests(folder)[network]
    write_atomic(path, canonical_json(record))
    return path


def check_graphs(folder: Recorded) -> None:
    """Refuse graphs that are not those of the folder's weights and config.json.

    Weights that are not there, as in an exported repository, are not missed. Raises FatalError:
    "model-incomplete" without graphs.json, "model-onnx" if anything differs.
    """
    for what in _differences(folder, _read(folder.path)):
        raise FatalError("model-onnx", f"In the model {folder.path.name}, {what}.", hint=_HINT)


def recorded_digests(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file that graphs.json names: graphs, and the weights they were made of.

    Raises FatalError: "model-incomplete" without graphs.json, "model-onnx" if it cannot be read.
    """
    record = _read(folder)
    return {**record["graphs"], **record["weights"]}


def digest_of(path: Path) -> str:
    """Return a file's SHA-256; of a file that has not changed since, without reading it again."""
    state = path.stat()
    return _digest(path, state.st_ino, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(path: Path, *_: int) -> str:
    return sha256_file(path)


def _read(folder: Path) -> dict[str, Any]:
    try:
        content = json.loads((folder / GRAPHS).read_bytes())
        return {
            "graphs": dict(content["graphs"]),
            "weights": dict(content["weights"]),
            "config": dict(content["config"]),
        }
    except FileNotFoundError as error:
        raise FatalError(
            "model-incomplete", f"The model folder {folder.name} has no {GRAPHS}.", hint=_HINT
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise FatalError(
            "model-onnx", f"{GRAPHS} of the model {folder.name} cannot be read.", hint=_HINT
        ) from error


def _differences(folder: Recorded, record: dict[str, Any]) -> Iterator[str]:
    for path in folder.graphs():
        if digest_of(path) != record["graphs"].get(path.name):
            yield f"{path.name} is damaged, or was exported with another"
    for path in folder.weights():
        if digest_of(path) != record["weights"].get(path.name):
            yield f"the ONNX files were not made of {path.name}"
    for network, digest in _digests(folder).items():
        if digest != record["config"].get(network):
            yield f"the ONNX files were not made of the network that config.json describes ({network})"


def _digests(folder: Recorded) -> dict[str, str]:
    return {network: json_digest(described) for network, described in folder.built_from().items()}
