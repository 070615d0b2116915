"""From settings to the parts of a service; the one place that knows which adapter a URL means.

Whatever is heavy is imported where it is used: a worker's parent process and the gateway run no models.
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
from histgen_lib.runtime.web.guard import Limits
from histgen_lib.storage import StorageSettings
from histgen_lib.telemetry import get_logger
from services.settings import ServiceSettings

if TYPE_CHECKING:
    from histgen_lib.access.slide_files import SlideFiles
    from histgen_lib.inference import InferenceServer

_log = get_logger()


def bus_settings(settings: ServiceSettings) -> BusSettings:
    """Say which broker, and how to talk to it. Raises as `kafka_settings`."""
    return BusSettings(
        url=settings.bus,
        partitions=settings.bus_partitions,
        session_s=settings.bus_session_s,
        kafka=kafka_settings(settings.kafka, settings.kafka_file),
    )


def storage_settings(settings: ServiceSettings) -> StorageSettings:
    """Say which object store, and how to talk to it."""
    return StorageSettings(
        url=settings.store,
        endpoint=settings.store_endpoint,
        region=settings.store_region,
        timeout_s=settings.store_timeout_s,
    )


def http_limits(settings: ServiceSettings) -> Limits:
    """Say what is granted to those who connect to a service."""
    return Limits(
        connections=settings.http_connections,
        peer_connections=settings.http_peer_connections,
        head_s=settings.http_head_s,
        body_s=settings.http_body_s,
        names=settings.http_names,
    )


def token_file(settings: ServiceSettings) -> Path:
    """Say where the token lies that this service wants: as stated, else in the home folder of this account.

    Raises FatalError("settings-invalid") for an account that has no home.
    """
    try:
        return settings.token_file or StackHome(default_home(os.environ)).token_path
    except RuntimeError:
        raise FatalError(
            "settings-invalid",
            "HISTGEN_TOKEN_FILE is missing, and this account has no home folder for a token.",
            hint="Name a file that only this account can read; it is made if it is not there.",
        ) from None


def inference_server(settings: ServiceSettings, *, threads: int | None) -> InferenceServer:
    """Say what runs the models: Triton, which has to serve this very model, or this process.

    `threads`: cores of one call in this process. A call may take as long as the job: what ends a job that is
    too long, and counts it, is the job's own deadline.
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
    """Say how slides are reached; the folder for copies is made when the first slide lies in S3."""
    from histgen_lib.access.scratch import Scratch
    from histgen_lib.access.slide_files import SlideFiles

    def scratch() -> Scratch:
        return Scratch(settings.scratch or _own_temporary_folder(), settings.scratch_bytes)

    return SlideFiles(
        storage_settings(settings), scratch, roots=slide_roots(settings), most_bytes=settings.slide_bytes
    )


def _own_temporary_folder() -> Path:
    """Return a folder for copies where everybody may make folders, if it is this account that made it.

    Raises FatalError("scratch-unwritable").
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
            f"The folder for copies of slides, {folder}, is not this account's alone.",
            hint="Remove it, or set HISTGEN_SCRATCH to a folder that only this account can read.",
        )
    return folder


def slide_roots(settings: ServiceSettings) -> Roots:
    """Say what slides may be taken from. Raises FatalError("settings-invalid")."""
    watched = [str(settings.watch.absolute())] if settings.watch else []
    return Roots.read([*watched, *settings.roots])


def warn_without_roots(settings: ServiceSettings) -> None:
    """Say it, once, if no slide can be taken. Raises FatalError("settings-invalid")."""
    if slide_roots(settings) == Roots():
        _log.warning("No slide can be taken: neither HISTGEN_WATCH nor HISTGEN_ROOTS is set.")
