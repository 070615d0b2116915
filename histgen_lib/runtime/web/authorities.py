"""Whose signatures on a server's certificate are believed."""

from __future__ import annotations

import ssl
from pathlib import Path

from histgen_lib.errors import FatalError


def trusting(ca_file: Path | None) -> ssl.SSLContext:
    """Return what checks a server's certificate: with the authorities in a PEM file, or with the system's.

    Raises FatalError("authorities-unusable").
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        why = "it holds no certificate" if isinstance(error, ssl.SSLError) else error.strerror
        raise FatalError(
            "authorities-unusable",
            f"The authorities in {ca_file} cannot be used: {why or type(error).__name__}.",
            hint="HISTGEN_CA_FILE names a PEM file with the certificates of those who signed the server's.",
        ) from error
