"""`python -m services.tiler`."""

from __future__ import annotations

import sys
from functools import partial

from histgen_lib.events import SLIDE_SCANNED
from services.tiler.app import NAME, make_tiler
from services.tiler.settings import TilerSettings
from services.wiring import run_service


def main() -> int:
    """Run the tiler until SIGTERM or SIGINT; return the process's exit code."""
    return run_service(NAME, SLIDE_SCANNED, TilerSettings, lambda settings: partial(make_tiler, settings))


if __name__ == "__main__":
    sys.exit(main())
