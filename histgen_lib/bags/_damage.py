"""The one sentence for a bag file that cannot be understood."""

from __future__ import annotations

from pathlib import Path

from histgen_lib.errors import InvalidInputError


def unreadable(path: Path, why: str) -> InvalidInputError:
    """Say that the bag file at `path` is damaged or laid out in an unknown way."""
    return InvalidInputError(
        "bag-unreadable",
        f"{path.name} cannot be read as a bag: {why}.",
        hint="The file is damaged or of another layout. Extract the features again, or copy it again.",
    )
