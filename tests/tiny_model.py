"""A tiny model folder with random weights and a small slide, to run every path fast."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import tifffile
import torch

from histgen_lib.export import to_onnx
from histgen_lib.models.domain import DomainModel
from histgen_lib.models.histgen.checkpoint import new_model_folder, save_model, update_config
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.network import HistGen
from histgen_lib.models.tile_encoder.registry import TileNetwork
from histgen_lib.models.tile_encoder.small import TileEncoder
from histgen_lib.text.tokenizers import BpeTokenizer

REPORTS = (
    "Breast, core needle biopsy:\n  Fibroadenoma\n  - Inflammation: none\n  - Granulomas: not identified",
    "Breast, excision:\n  Invasive carcinoma of no special type\n  - Grade: 2\n  - Necrosis: present",
    "Colon, endoscopic biopsy:\n  Adenocarcinoma\n  - Grade: 1\n  - Mitotic score: 1",
)


@cache
def tiny_model() -> Path:
    """Return the tiny model that all tests of a run share."""
    return make_tiny_model(Path(tempfile.mkdtemp(prefix="histgen-tiny-")) / "tiny")


def make_tiny_model(folder: Path, tile_encoder: TileNetwork | None = None) -> Path:
    """Write a complete model folder; its tiles are 64 px at 2 µm/px, so that a test slide has few tiles.

    With another tile encoder it has no ONNX files yet.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = BpeTokenizer.train(list(REPORTS), vocab_size=300)
    encoder = tile_encoder or TileEncoder(16)
    config = HistGenConfig(
        input_dim=encoder.dim, d_model=16, d_ff=16, d_vf=16, num_heads=2, num_layers=1, region_size=5,
        cmm_size=8, cmm_dim=16, topk=4, prototype_num=4, vocab_size=tokenizer.vocab_size, max_tokens=24,
    )  # fmt: skip
    new_model_folder(
        folder,
        name="tiny",
        synthetic=True,
        config=config,
        tokenizer=tokenizer,
        tiling={"tile_px": 64, "mpp": 2.0, "overlap_px": 0, "min_tissue": 0.15},
        tile_encoder=encoder,
    )
    save_model(folder, HistGen(config))
    if tile_encoder is None:
        to_onnx(folder)
    world = np.random.default_rng(0).normal(size=(200, encoder.dim)).astype(np.float32)
    DomainModel.fit([world]).save(folder / "domain.safetensors")
    set_thresholds(folder)
    return folder


def set_thresholds(folder: Path, *, domain: float = 1e6, report: float = 0.0) -> None:
    """Set when the model calls a slide foreign (above `domain`) and when it abstains (below `report`)."""
    update_config(
        folder,
        domain={"method": "tissue-slide-residual", "threshold": domain},
        abstention={"threshold": report, "statistic": "diagnosis", "sentence_threshold": 0.7},
        calibration={"method": "temperature", "statistic": "mean", "temperature": 1.0},
    )


def write_slide(path: Path, *, side_px: int = 1536, mpp: float | None = 0.5, seed: int = 0) -> Path:
    """Write a tiled TIFF with one stained disc in the middle of glass; `seed` changes its texture."""
    rng = np.random.default_rng(seed)
    picture = np.full((side_px, side_px, 3), 243, np.float32) + rng.normal(0, 2, (side_px, side_px, 1))
    disc = np.zeros((side_px, side_px), np.uint8)
    cv2.circle(disc, (side_px // 2, side_px // 2), side_px * 2 // 5, 1, -1)
    nuclei = cv2.resize(
        (rng.random((side_px // 12, side_px // 12)) < 0.2).astype(np.uint8),
        (side_px, side_px),
        interpolation=cv2.INTER_NEAREST,
    )
    stain = np.where(nuclei[..., None] > 0, (0.45, 0.3, 0.6), (0.88, 0.62, 0.78))
    picture = np.where(disc[..., None] > 0, picture * stain, picture).clip(0, 255).astype(np.uint8)
    size = (10_000 / mpp, 10_000 / mpp) if mpp else (72, 72)
    tifffile.imwrite(
        path,
        picture,
        tile=(256, 256),
        compression="zlib",
        photometric="rgb",
        resolution=size,
        resolutionunit="CENTIMETER" if mpp else "INCH",
        metadata=None,
        software=False,
    )
    return path
