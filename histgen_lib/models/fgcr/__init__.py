"""FGCR: fine-grained cross-modal retrieval over slides and reports (Medical Image Analysis 2024).

Names that need torch import it when first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily
from histgen_lib.models.fgcr.anchors import Regions, find_regions
from histgen_lib.models.fgcr.config import FgcrConfig

if TYPE_CHECKING:
    from histgen_lib.models.fgcr.network import Fgcr
    from histgen_lib.models.fgcr.official import load_official

__all__ = ["Fgcr", "FgcrConfig", "Regions", "find_regions", "load_official"]

__getattr__ = lazily(__name__, {"network": "Fgcr", "official": "load_official"})
