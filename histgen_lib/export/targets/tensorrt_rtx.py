"""Triton's Python backend for engines of TensorRT-RTX, for which Triton has no backend of its own; a GPU."""

from __future__ import annotations

from histgen_lib.export.engine_models import engine_hosting
from histgen_lib.export.hosting import NUMBERS, Hosting, Order, Target
from histgen_lib.export.python_models import processor_hosting

_FLAVOUR = "tensorrt-rtx"


def _host(order: Order) -> Hosting:
    return engine_hosting(order, _FLAVOUR) if order.model.engines else processor_hosting(order)


TARGET = Target(_FLAVOUR, precisions=NUMBERS, devices=("cuda",), host=_host)
