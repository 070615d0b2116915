"""The tokens that services under test want from whoever asks what slides they have in hand."""

from __future__ import annotations

from pathlib import Path

TOKEN = "0123456789abcdef" * 4
"""For doors that are opened in a test's own process."""


def bearer(token: str = TOKEN) -> dict[str, str]:
    """Return the header that opens a door."""
    return {"authorization": f"Bearer {token}"}


def bearer_of(token_file: Path | str) -> dict[str, str]:
    """Return the header that opens the door of a service with this token file."""
    return bearer(Path(token_file).read_text())
