"""HistGen: network, loading, decoding. Names that need torch import it when first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.layout import tile_order

if TYPE_CHECKING:
    from histgen_lib.models.histgen.network import HistGen
    from histgen_lib.models.histgen.official import load_official

__all__ = ["HistGen", "HistGenConfig", "load_official", "tile_order"]

__getattr__ = lazily(__name__, {"network": "HistGen", "official": "load_official"})
