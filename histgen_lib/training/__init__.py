"""Training. What any run needs (cases, data, settings, checkpoints) is here; each model has a folder.

Everything here needs torch (the extra `train`); importing this package alone does not load it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from histgen_lib.lazy import lazily

if TYPE_CHECKING:
    from histgen_lib.training.annotation import Annotation, Case, read_annotation
    from histgen_lib.training.encoder.encode import EncodeSettings, encode_slides
    from histgen_lib.training.encoder.settings import TileTrainOverrides, TileTrainSettings
    from histgen_lib.training.encoder.train import train_tile_encoder
    from histgen_lib.training.report.calibration import calibrate_model
    from histgen_lib.training.report.comparison import ComparisonSettings, DraftedSlide, Figure, compare
    from histgen_lib.training.report.settings import TrainOverrides, TrainSettings, preset
    from histgen_lib.training.report.train import TrainResult, train

__all__ = [
    "Annotation",
    "Case",
    "ComparisonSettings",
    "DraftedSlide",
    "EncodeSettings",
    "Figure",
    "TileTrainOverrides",
    "TileTrainSettings",
    "TrainOverrides",
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
        "report.comparison": "ComparisonSettings DraftedSlide Figure compare",
        "encoder.encode": "EncodeSettings encode_slides",
        "report.calibration": "calibrate_model",
        "report.train": "TrainResult train",
        "report.settings": "TrainOverrides TrainSettings preset",
        "encoder.settings": "TileTrainOverrides TileTrainSettings",
        "encoder.train": "train_tile_encoder",
    },
)
