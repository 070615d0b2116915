"""Offline work that makes a model: the tile encoder, bags in bulk, HistGen, its calibration, and comparisons.

Everything here needs torch (the extra `train`); importing this package alone does not load it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from histgen_lib.training.annotation import Annotation, Case, read_annotation
    from histgen_lib.training.comparison import ComparisonSettings, DraftedSlide, compare
    from histgen_lib.training.comparison_table import Figure
    from histgen_lib.training.encode import EncodeSettings, encode_slides
    from histgen_lib.training.finish import calibrate_model
    from histgen_lib.training.histgen_run import TrainResult, train
    from histgen_lib.training.settings import TrainSettings, preset
    from histgen_lib.training.tile_settings import TileTrainSettings
    from histgen_lib.training.tile_train import train_tile_encoder

_WHERE = {
    "Annotation": "annotation",
    "Case": "annotation",
    "ComparisonSettings": "comparison",
    "DraftedSlide": "comparison",
    "EncodeSettings": "encode",
    "Figure": "comparison_table",
    "TileTrainSettings": "tile_settings",
    "TrainResult": "histgen_run",
    "TrainSettings": "settings",
    "calibrate_model": "finish",
    "compare": "comparison",
    "encode_slides": "encode",
    "preset": "settings",
    "read_annotation": "annotation",
    "train": "histgen_run",
    "train_tile_encoder": "tile_train",
}

__all__ = [
    "Annotation",
    "Case",
    "ComparisonSettings",
    "DraftedSlide",
    "EncodeSettings",
    "Figure",
    "TileTrainSettings",
    "TrainResult",
    "TrainSettings",
    "calibrate_model",
    "compare",
    "encode_slides",
    "preset",
    "read_annotation",
    "train",
    "train_tile_encoder",
]


def __getattr__(name: str) -> object:
    """Import a member's module when it is first asked for (PEP 562): no torch until something trains."""
    if name not in _WHERE:
        raise AttributeError(name)
    from importlib import import_module  # noqa: PLC0415 - the package itself stays light

    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
