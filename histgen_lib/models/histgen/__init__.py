"""HistGen: network, loading, decoding. Names that need torch import it when first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.layout import tile_order

if TYPE_CHECKING:
    from histgen_lib.models.histgen.network import HistGen
    from histgen_lib.models.histgen.official import load_official

__all__ = ["HistGen", "HistGenConfig", "load_official", "tile_order"]

_WITH_TORCH = {"HistGen": "network", "load_official": "official"}


def __getattr__(name: str) -> Any:
    if name not in _WITH_TORCH:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WITH_TORCH[name]}"), name)
