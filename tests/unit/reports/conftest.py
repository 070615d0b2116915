"""Fixtures: a draft and its pictures, made by hand."""

from __future__ import annotations

import numpy as np
import pytest
from handmade_draft import make_draft, strange

from histgen_lib.reports.pictures import Pictures, thumbnail_webp
from histgen_lib.reports.record import DraftReport


@pytest.fixture
def draft() -> DraftReport:
    return make_draft()


@pytest.fixture
def strange_draft() -> DraftReport:
    return make_draft(**strange())


@pytest.fixture
def pictures() -> Pictures:
    rng = np.random.default_rng(0)
    return Pictures(
        thumbnail=thumbnail_webp(rng.integers(0, 255, (64, 128, 3), dtype=np.uint8)),
        xy=np.array([[0, 0], [512, 0], [0, 512]], dtype=np.int32),
        span_px=512.0,
        weights=np.array([[0.1, 0.15, 0.75]] * 3, dtype=np.float32),
        tiles={(0, 512): rng.integers(0, 255, (256, 256, 3), dtype=np.uint8)},
    )
