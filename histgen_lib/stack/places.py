"""Where the servers that the stack can start are kept in a checkout; deploy/setup.sh puts them there."""

from __future__ import annotations

from pathlib import Path

import histgen_lib

_CHECKOUT = Path(histgen_lib.__file__).resolve().parents[1]

KAFKA_LIBS = _CHECKOUT / ".local" / "kafka" / "libs"
"""Kafka's jars."""

TRITON_HOME = _CHECKOUT / ".triton"
"""The environment that holds tritonserver."""
