"""Offline work that makes a model: the tile encoder, bags in bulk, HistGen, its calibration, and comparisons.

Everything here needs torch (the extra `train`); importing this package alone does not load it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily

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

__getattr__ = lazily(
    __name__,
    {
        "annotation": "Annotation Case read_annotation",
        "comparison": "ComparisonSettings DraftedSlide compare",
        "comparison_table": "Figure",
        "encode": "EncodeSettings encode_slides",
        "finish": "calibrate_model",
        "histgen_run": "TrainResult train",
        "settings": "TrainSettings preset",
        "tile_settings": "TileTrainSettings",
        "tile_train": "train_tile_encoder",
    },
)
