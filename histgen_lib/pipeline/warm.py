"""Doing once, before the first event, what every process has to do once: loading libraries and networks.

The first slide would else pay for it, with a second or more.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from histgen_lib.bags import Bag, pack_bag, unpack_bag
from histgen_lib.errors import InvalidInputError, TransientError
from histgen_lib.inference import InferenceServer
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.reports.pictures import heatmap_webp, thumbnail_webp, tile_uri
from histgen_lib.reports.renderers.html import page_template


def warm_up(model: ReportModel, server: InferenceServer, name: str) -> None:
    """Load what reading slides, writing bags and drawing pages needs; have the model `name` made ready.

    A server that is away is left for later. Raises the server's FatalErrors.
    """
    from histgen_lib.slides.readers import readers

    readers()  # loads OpenSlide
    _ = model.folder.digest, model.folder.tokenizer
    _ = unpack_bag(pack_bag(_bag(model.folder.histgen.input_dim)), "a bag")
    pixels = np.zeros((8, 8, 4), np.uint8)
    _ = thumbnail_webp(pixels[..., :3]), tile_uri(pixels[..., :3], max_px=8), heatmap_webp(pixels)
    page_template()
    with suppress(TransientError, InvalidInputError):
        server.warm(name)


def _bag(width: int) -> Bag:
    return Bag(
        slide_id="none",
        features=np.zeros((1, width), np.float16),
        xy=np.zeros((1, 2), np.int32),
        span_px=1.0,
        tile_px=1,
        mpp=1.0,
        slide_mpp=1.0,
        slide_size=(1, 1),
        encoder_name="",
        encoder_sha256="",
    )
