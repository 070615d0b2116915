"""Whether a slide's file is what it is said to be, and stayed so while it was read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides.fingerprint import FileStates, fingerprint_of, size_of, states_of
from histgen_lib.slides.quotas import require_bytes
from histgen_lib.slides.source import content_id_of, stored_in


def present_files(
    path: Path, size_bytes: int | None = None, *, most_bytes: int
) -> tuple[list[Path], FileStates, str]:
    """Find the slide's files and their states, and read them once for their content id.

    `size_bytes`: what they have to have together, if that is known: reading another size would be in vain.
    Raises InvalidInputError: "slide-missing", "slide-unreadable", "slide-changed", and "slide-too-large" for
    more than `most_bytes`, unread.
    """
    parts = stored_in(path)
    try:
        states = states_of(parts)
        require_bytes(path.name, size_of(states), most_bytes)
        if size_bytes not in (None, size_of(states)):
            raise changed(path)
        return parts, states, content_id_of(parts)
    except OSError as error:
        raise _unreadable(path, error) from error


@contextmanager
def recorded_files(path: Path, fingerprint: str | None) -> Iterator[None]:
    """See, by a few small reads, that the slide's files are those of a scan record, and stay so in the block.

    Raises InvalidInputError: "slide-changed", "slide-missing", "slide-unreadable".
    """
    parts = stored_in(path)
    try:
        before = states_of(parts)
        if fingerprint is not None and fingerprint_of(parts) != fingerprint:
            raise changed(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    with unchanged(path, parts, before):
        yield


@contextmanager
def unchanged(path: Path, parts: Sequence[Path], before: FileStates) -> Iterator[None]:
    """Refuse what was read in the block if the files changed: its pixels are a mixture, its errors void.

    Raises as `recorded_files`.
    """
    try:
        yield
    except InvalidInputError:
        _compare(path, parts, before)
        raise
    _compare(path, parts, before)


def changed(path: Path) -> InvalidInputError:
    """Make the error for a slide that is not what was announced."""
    return InvalidInputError(
        "slide-changed",
        f"{path.name} does not hold, or no longer holds, what was announced.",
        hint="If it was scanned again, the newer scan is announced and drafted by itself; "
        "else wait until the copy has finished, then submit it again.",
    )


def _compare(path: Path, parts: Sequence[Path], before: FileStates) -> None:
    try:
        after = states_of(parts)
    except OSError as error:
        raise _unreadable(path, error) from error
    if after != before:
        raise changed(path)


def _unreadable(path: Path, error: OSError) -> InvalidInputError:
    if isinstance(error, FileNotFoundError):
        return InvalidInputError(
            "slide-missing",
            f"{path.name}, or a file that belongs to it, is not there any more.",
            hint="Put it back and replay the dead letter, or submit it from where it lies now.",
        )
    return InvalidInputError(
        "slide-unreadable",
        f"{path.name} cannot be read: {error.strerror or type(error).__name__}.",
        hint="Check that this account may read it and that its disk is sound, then replay the dead letter.",
    )
