"""What a server proves itself with: its certificate, read again when it is replaced."""

from __future__ import annotations

import ssl

from histgen_lib.errors import FatalError
from histgen_lib.runtime.certificates import expiry_of
from histgen_lib.runtime.web.address import TlsFiles
from histgen_lib.runtime.web.reread import Reread
from histgen_lib.telemetry import metrics


class Certificate:
    """What a server proves itself with. For one thread. Raises FatalError("tls-certificate")."""

    def __init__(self, files: TlsFiles) -> None:
        self._context = Reread(lambda: _context(files), files.certificate, files.key)

    def context(self) -> ssl.SSLContext:
        """Return the context for the next connection."""
        return self._context.get()


def _context(files: TlsFiles) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        context.load_cert_chain(files.certificate, files.key, password=_no_password)
    except (OSError, ValueError) as error:
        raise FatalError(
            "tls-certificate",
            f"The certificate {files.certificate} with the key {files.key} cannot be used: {_reason(error)}.",
            hint="HISTGEN_TLS_CERT and HISTGEN_TLS_KEY name PEM files that belong together and that this "
            "account can read; the key has no password.",
        ) from error
    metrics.CERTIFICATE_EXPIRY.labels("http").set(expiry_of(files.certificate))
    return context


def _no_password() -> str:
    raise ValueError("the key has a password")


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it is not a certificate").lower().replace("_", " ")
    return getattr(error, "strerror", None) or str(error)
