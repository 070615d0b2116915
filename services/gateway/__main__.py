"""`python -m services.gateway`."""

from __future__ import annotations

import os
import sys

from histgen_lib.errors import HistgenError
from histgen_lib.resources import disk_full, exit_code_of, was_full
from histgen_lib.runtime.stopping import Stop, stopped_by_signals
from histgen_lib.telemetry import configure_logging, flush_tracing, get_logger
from services.gateway.app import build
from services.gateway.board import NAME
from services.gateway.settings import GatewaySettings
from services.wiring import observe

FLUSH_S = 2.0

_log = get_logger()


def main() -> int:
    """Run the gateway until SIGTERM or SIGINT; return the process's exit code."""
    configure_logging(NAME)
    try:
        settings = GatewaySettings.load()
        observe(settings, NAME)
        with stopped_by_signals(Stop()) as stop:
            return build(settings, stop).run()
    except HistgenError as error:
        code = exit_code_of(error)
        _log.error("The gateway stops: this is for a person to mend.", exc_info=error, exit_code=code)
        return code
    except OSError as error:
        if not was_full(error):
            raise
        full = disk_full()
        _log.error("The gateway stops.", exc_info=full, exit_code=full.exit_code)
        return full.exit_code


if __name__ == "__main__":
    code = main()
    flush_tracing(FLUSH_S)
    sys.stderr.flush()
    os._exit(code)  # a slide that is still being read after the grace period holds up nobody
