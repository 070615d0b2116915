"""Triton's TensorRT backend for tile_encoder, its Python backend for histgen's engines; a GPU."""

from __future__ import annotations

from histgen_lib.export.engine_models import engine_hosting, plan_hosting
from histgen_lib.export.hosting import NUMBERS, Hosting, Order, Target
from histgen_lib.export.python_models import processor_hosting

_FLAVOUR = "tensorrt"


def _host(order: Order) -> Hosting:
    if not order.model.engines:
        return processor_hosting(order)
    if order.model.graph:
        return plan_hosting(order, _FLAVOUR)
    return engine_hosting(order, _FLAVOUR)


TARGET = Target(_FLAVOUR, precisions=NUMBERS, devices=("cuda",), host=_host)
