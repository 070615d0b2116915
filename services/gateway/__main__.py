"""`python -m services.gateway`."""

from __future__ import annotations

import os
import sys

from histgen_lib.runtime.service import exit_code
from histgen_lib.runtime.stopping import Stop, stopped_by_signals
from histgen_lib.telemetry import configure_logging, flush_tracing
from services.gateway import NAME
from services.gateway.app import build
from services.gateway.settings import GatewaySettings
from services.wiring import observe

FLUSH_S = 2.0


def main() -> int:
    """Run the gateway until SIGTERM or SIGINT; return the process's exit code."""
    configure_logging(NAME)
    return exit_code(_run)


def _run() -> None:
    settings = GatewaySettings.load()
    observe(settings, NAME)
    with stopped_by_signals(Stop()) as stop:
        build(settings, stop).run()


if __name__ == "__main__":
    code = main()
    flush_tracing(FLUSH_S)
    sys.stderr.flush()
    os._exit(code)  # a slide that is still being read after the grace period must not hold up the exit
