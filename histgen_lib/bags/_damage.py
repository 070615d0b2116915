"""The one sentence for a bag that cannot be understood."""

from __future__ import annotations

from histgen_lib.errors import InvalidInputError


def unreadable(name: str, why: str) -> InvalidInputError:
    """Say that the bag called `name` is damaged or laid out in an unknown way."""
    return InvalidInputError(
        "bag-unreadable",
        f"{name} cannot be read as a bag: {why}.",
        hint="The file is damaged or of another layout. Extract the features again, or copy it again.",
    )
