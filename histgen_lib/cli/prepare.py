"""`histgen-prepare-models`: what the image histgen-triton runs before its server, told by the environment.

MODELS                   folder for the model, its engines and the repository (/models)
HISTGEN_TARGET           local, onnxruntime or tensorrt (local)
HISTGEN_MODEL_SOURCE     file:/folder or s3://bucket/prefix; the shipped model if not set
HISTGEN_MODEL_DIGEST     SHA-256 that the model has to have; any if not set
HISTGEN_PRECISION        of engines: float32, float16 or bfloat16 (float16)
HISTGEN_ENGINE_TILES     of the largest slide that engines take (100000)
HISTGEN_STORE_ENDPOINT, HISTGEN_STORE_REGION   of the bucket
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast, get_args

from histgen_lib.cli.output import Failure, emit_error, emit_json, err
from histgen_lib.errors import FatalError, HistgenError

if TYPE_CHECKING:
    from histgen_lib.export.prepared import Preparation


_MOST_TILES = 1_000_000


def main() -> NoReturn:
    """Prepare, print what there is now as JSON, and leave with the exit code of what went wrong, if any."""
    sys.exit(run(os.environ))


def run(environment: Mapping[str, str]) -> int:
    """Prepare what an environment asks for; return the exit code."""
    from histgen_lib.export.prepared import prepare

    try:
        prepared = prepare(preparation(environment), lambda line: err().print(line, soft_wrap=True))
    except Exception as error:  # as on the command line: people get a sentence, never a traceback
        failure = Failure.of(error)
        emit_error(failure)
        return error.exit_code if isinstance(error, HistgenError) else failure.exit_code
    emit_json(
        {
            "repository": str(prepared.repository),
            "model": prepared.model,
            "sha256": prepared.digest,
            "engines": str(prepared.engines) if prepared.engines else None,
            "compiled": prepared.compiled,
        }
    )
    return 0


def preparation(environment: Mapping[str, str]) -> Preparation:
    """Read what to prepare. Raises FatalError("settings-invalid")."""
    from histgen_lib.export.prepared import Preparation
    from histgen_lib.models.serving import Precision
    from histgen_lib.storage import StorageSettings

    precision = environment.get("HISTGEN_PRECISION") or "float16"
    if precision not in get_args(Precision):
        raise FatalError(
            "settings-invalid", f"HISTGEN_PRECISION is none of {', '.join(get_args(Precision))}."
        )
    tiles = environment.get("HISTGEN_ENGINE_TILES") or "100000"
    if not (tiles.isascii() and tiles.isdigit() and 0 < int(tiles) <= _MOST_TILES):
        raise FatalError("settings-invalid", f"HISTGEN_ENGINE_TILES is no number from 1 to {_MOST_TILES}.")
    source = environment.get("HISTGEN_MODEL_SOURCE", "")
    return Preparation(
        models=Path(environment.get("MODELS") or "/models"),
        target=environment.get("HISTGEN_TARGET") or "local",
        source=source,
        digest=environment.get("HISTGEN_MODEL_DIGEST", ""),
        precision=cast(Precision, precision),
        most_tiles=int(tiles),
        storage=StorageSettings(
            source,
            endpoint=environment.get("HISTGEN_STORE_ENDPOINT") or None,
            region=environment.get("HISTGEN_STORE_REGION") or None,
        ),
    )


if __name__ == "__main__":
    main()
