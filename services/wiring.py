"""From settings to the parts of a service.

Heavy modules are imported where they are used: a worker's parent process and the gateway run no models.
"""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from histgen_lib.access.places import Roots
from histgen_lib.bus import BusSettings
from histgen_lib.bus.kafka_login import kafka_settings
from histgen_lib.client.home import StackHome, default_home
from histgen_lib.errors import FatalError
from histgen_lib.runtime.web.address import OPENABLE, Address, DoorSettings, IssuerSettings, TlsFiles
from histgen_lib.runtime.web.guard import Limits
from histgen_lib.storage import StorageSettings
from histgen_lib.telemetry import get_logger
from services.settings import ServiceSettings

if TYPE_CHECKING:
    from histgen_lib.access.slide_files import SlideFiles
    from histgen_lib.inference import InferenceServer

_log = get_logger()


def bus_settings(settings: ServiceSettings) -> BusSettings:
    """Return the broker's settings. Raises as `kafka_settings`."""
    return BusSettings(
        url=settings.bus,
        partitions=settings.bus_partitions,
        session_s=settings.bus_session_s,
        kafka=kafka_settings(settings.kafka, settings.kafka_file),
    )


def storage_settings(settings: ServiceSettings, case_index: str = "") -> StorageSettings:
    """Return the object store's settings, or those of the case index, which has a place of its own there.

    Raises FatalError("settings-invalid") for a case index in the store, or a store in the case index.
    """
    store, index = (f"{url.rstrip('/')}/" for url in (settings.store, case_index))
    if case_index and (index.startswith(store) or store.startswith(index)):
        raise FatalError(
            "settings-invalid",
            "The settings cannot be used: HISTGEN_CASE_INDEX and HISTGEN_STORE lie in each other.",
            hint="Give the case index a folder or prefix of its own.",
        )
    return StorageSettings(
        url=case_index or settings.store,
        endpoint=settings.store_endpoint,
        region=settings.store_region,
        timeout_s=settings.store_timeout_s,
    )


def http_address(settings: ServiceSettings) -> Address:
    """Return where a service listens, and whom it lets in. Raises FatalError("settings-invalid")."""
    limits = Limits(
        connections=settings.http_connections,
        peer_connections=settings.http_peer_connections,
        head_s=settings.http_head_s,
        body_s=settings.http_body_s,
        names=settings.http_names,
    )
    return Address(
        settings.host,
        settings.port,
        token_file(settings),
        settings.run_dir,
        limits,
        DoorSettings(_open(settings.http_open), settings.http_rate, settings.http_burst),
        tokens_file=settings.tokens_file,
        issuer=_issuer(settings),
        tls=_tls(settings),
        tls_elsewhere=settings.tls_elsewhere,
    )


def _open(names: tuple[str, ...]) -> frozenset[str]:
    if set(names) <= set(OPENABLE):
        return frozenset(names)
    raise FatalError(
        "settings-invalid",
        f"The settings cannot be used: HISTGEN_HTTP_OPEN must list {' or '.join(OPENABLE)}, or be empty.",
        hint="Every other page always requires a token.",
    )


def _issuer(settings: ServiceSettings) -> IssuerSettings | None:
    if settings.oidc_issuer is None:
        return None
    if not settings.oidc_audience:
        raise FatalError(
            "settings-invalid",
            "The settings cannot be used: HISTGEN_OIDC_AUDIENCE is missing.",
            hint="Name what the issuer writes into tokens meant for histgen: without it, one meant for any "
            "other application would open this one.",
        )
    return IssuerSettings(
        settings.oidc_issuer,
        settings.oidc_audience,
        settings.oidc_scopes_claim,
        dict(settings.oidc_scopes),
        settings.ca_file,
    )


def _tls(settings: ServiceSettings) -> TlsFiles | None:
    if settings.tls_cert and settings.tls_key:
        return TlsFiles(settings.tls_cert, settings.tls_key)
    if settings.tls_cert or settings.tls_key:
        raise FatalError(
            "settings-invalid",
            "The settings cannot be used: one of HISTGEN_TLS_CERT and HISTGEN_TLS_KEY is missing.",
            hint="Set both, or none for plain HTTP.",
        )
    return None


def token_file(settings: ServiceSettings) -> Path:
    """Return the file with the service's token: the setting's, else the one in this account's home folder.

    Raises FatalError("settings-invalid") for an account without a home.
    """
    try:
        return settings.token_file or StackHome(default_home(os.environ)).token_path
    except RuntimeError:
        raise FatalError(
            "settings-invalid",
            "HISTGEN_TOKEN_FILE is missing, and this account has no home folder for a token.",
            hint="Name a file that only this account can read; it is created if it does not exist.",
        ) from None


def inference_server(settings: ServiceSettings, *, threads: int | None) -> InferenceServer:
    """Return what runs the models: Triton, which has to serve this very model, or this process.

    `threads`: cores for one call in this process. A call may take as long as its job: the job's own deadline
    ends a job that takes too long, and counts it.
    """
    from histgen_lib.inference import open_inference

    return open_inference(
        settings.inference,
        settings.model,
        threads,
        deadline_s=settings.deadline_s,
        secret_path=settings.inference_secret,
    )


def slide_files(settings: ServiceSettings) -> SlideFiles:
    """Return the access to slides; the folder for copies is created for the first slide in S3."""
    from histgen_lib.access.scratch import Scratch
    from histgen_lib.access.slide_files import SlideFiles

    def scratch() -> Scratch:
        return Scratch(settings.scratch or _own_temporary_folder(), settings.scratch_bytes)

    return SlideFiles(
        storage_settings(settings), scratch, roots=slide_roots(settings), most_bytes=settings.slide_bytes
    )


def volumes(settings: ServiceSettings) -> dict[str, Path]:
    """Return the folders that a service writes to, by the names that metrics have for them."""
    temporary = Path(tempfile.gettempdir())
    named = {
        "scratch": settings.scratch or temporary,
        "store": _folder(settings.store, "file:"),
        "broker": _folder(settings.bus, "embedded:"),
        "tmp": temporary,
    }
    return {name: path for name, path in named.items() if path}


def _folder(url: str, scheme: str) -> Path | None:
    return Path(url.removeprefix(scheme)) if url.startswith(scheme) else None


def _own_temporary_folder() -> Path:
    """Return this account's own folder for copies in the system's temporary one.

    Raises FatalError("scratch-unwritable") if others can read it or own it.
    """
    folder = Path(tempfile.gettempdir()) / f"histgen-scratch-{os.getuid()}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        state = folder.lstat()
        alone = state.st_uid == os.geteuid() and stat.S_ISDIR(state.st_mode) and not state.st_mode & 0o077
    except OSError:
        alone = False
    if not alone:
        raise FatalError(
            "scratch-unwritable",
            f"The folder for copies of slides, {folder}, is not private to this account.",
            hint="Remove it, or set HISTGEN_SCRATCH to a folder that only this account can read.",
        )
    return folder


def slide_roots(settings: ServiceSettings) -> Roots:
    """Return the places that slides may be taken from. Raises FatalError("settings-invalid")."""
    watched = [str(settings.watch.absolute())] if settings.watch else []
    return Roots.read([*watched, *settings.roots])


def warn_without_roots(settings: ServiceSettings) -> None:
    """Log a warning if no slide can be taken. Raises FatalError("settings-invalid")."""
    if slide_roots(settings) == Roots():
        _log.warning("No slide can be taken: neither HISTGEN_WATCH nor HISTGEN_ROOTS is set.")
