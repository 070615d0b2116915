"""`python -m histgen_lib.cli`, as torchrun needs it."""

from __future__ import annotations

from histgen_lib.cli import main

main()
