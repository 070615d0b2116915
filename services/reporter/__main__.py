"""`python -m services.reporter`."""

from __future__ import annotations

import sys
from functools import partial

from histgen_lib.events import BAG_READY
from services.reporter.app import NAME, make_reporter
from services.reporter.settings import ReporterSettings
from services.wiring import run_service


def main() -> int:
    """Run the reporter until SIGTERM or SIGINT; return the process's exit code."""
    return run_service(NAME, BAG_READY, ReporterSettings, lambda settings: partial(make_reporter, settings))


if __name__ == "__main__":
    sys.exit(main())
