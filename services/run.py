"""Runs a service of the table: what `python -m services.<name>` does."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import NoReturn

from histgen_lib import __version__
from histgen_lib.runtime.certificates import show_kafka_certificates
from histgen_lib.runtime.service import WebService, exit_code
from histgen_lib.runtime.stopping import Stop, stopped_by_signals
from histgen_lib.runtime.volumes import show_volumes
from histgen_lib.secret import OWNER_ONLY
from histgen_lib.telemetry import configure_logging, configure_tracing, flush_tracing
from histgen_lib.worker import WorkerSpec, run_worker
from histgen_lib.worker.memory import default_limit_bytes
from services.settings import ServiceSettings, settings_class
from services.table import Service, service_named
from services.wiring import bus_settings, http_address, storage_settings, volumes, warn_without_roots

FLUSH_S = 2.0
"""How long spans may take to go out when a web service has stopped."""


def main(name: str) -> NoReturn:
    """Run a service as the whole of this process."""
    code = run(name)
    if service_named(name).kind == "worker":
        sys.exit(code)
    flush_tracing(FLUSH_S)
    sys.stderr.flush()
    os._exit(code)  # a request that still reads a slide after the grace period must not delay the exit


def run(name: str) -> int:
    """Run a service until SIGTERM or SIGINT; return the process's exit code."""
    configure_logging(name)
    return exit_code(lambda: _run(service_named(name)))


def _run(row: Service) -> int:
    settings = settings_class(row).load()
    _observe(settings, row.name)
    return _run_worker(row, settings) if row.kind == "worker" else _run_web(row, settings)


def _observe(settings: ServiceSettings, name: str) -> None:
    """Log, trace and measure as the settings say; keep files for this account only.

    Raises FatalError("tracing-missing"), and as `bus_settings`.
    """
    os.umask(OWNER_ONLY)
    configure_logging(name, settings.log_level)
    configure_tracing(name, __version__, settings.traces)
    show_volumes(volumes(settings))
    show_kafka_certificates(dict(bus_settings(settings).kafka))


def _run_web(row: Service, settings: ServiceSettings) -> int:
    with stopped_by_signals(Stop()) as stop:
        service: WebService = row.make(settings, stop)
        service.run()
    return 0


def _run_worker(row: Service, settings: ServiceSettings) -> int:
    warn_without_roots(settings)
    return run_worker(
        worker_spec(row, settings), bus=bus_settings(settings), storage=storage_settings(settings)
    )


def worker_spec(row: Service, settings: ServiceSettings) -> WorkerSpec:
    """Say which events a worker takes and how much patience it has; all workers of a name share the work."""
    codes = row.known_codes()
    return WorkerSpec(
        name=row.name,
        groups=row.groups,
        make_handler=partial(row.make, settings),
        address=http_address(settings),
        deadline_s=settings.deadline_s,
        opening_s=settings.opening_s,
        memory_bytes=settings.memory_bytes or default_limit_bytes(),
        max_attempts=settings.max_attempts,
        grace_s=settings.grace_s,
        frozen_s=settings.frozen_s,
        letters=codes.letters,
        retries=codes.retries,
        stages=codes.stages,
        drafts=row.drafts,
        config=settings.in_force(),
    )
