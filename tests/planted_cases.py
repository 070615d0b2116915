"""Cases with a square of tissue that tells what they have, and an index and a store that hold them.

The trained network of `tiny_retrieval` tells their kinds apart.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tiny_retrieval import KINDS, SPAN_PX, planted_bag, report_of, tiny_retrieval_model

from histgen_lib.bags import Bag, pack_bag
from histgen_lib.catalogue import keys
from histgen_lib.files import sha256_hex
from histgen_lib.inference import OnnxServer
from histgen_lib.models.folder import ModelFolder, open_model_folder
from histgen_lib.retrieval import CaseEntry
from histgen_lib.retrieval.encoding import Box, encode_bag, encode_text
from histgen_lib.retrieval.subjects import Network, network_of
from histgen_lib.storage import ObjectStore

SIDE = 9
"""Tiles in a row of a slide."""


@dataclass(frozen=True)
class Planted:
    """A slide of one kind. `lesion`: the square, in level-0 px."""

    slide_id: str
    kind: int
    bag: Bag
    lesion: Box


class PlantedCases:
    """Makes slides and entries with one model."""

    def __init__(self, model: Path | None = None) -> None:
        self.model = model or tiny_retrieval_model(trained=True)

    @cached_property
    def folder(self) -> ModelFolder:
        return open_model_folder(self.model)

    @cached_property
    def network(self) -> Network:
        found = network_of(self.folder, OnnxServer(self.model, threads=1))
        assert found is not None
        return found

    def slide(self, slide_id: str, kind: int, seed: int) -> Planted:
        """Make a slide."""
        features, xy, lesion = planted_bag(kind, seed, dim=self.folder.histgen.input_dim, side=SIDE)
        bag = Bag(
            slide_id=slide_id,
            features=features.astype(np.float16),
            xy=xy,
            span_px=float(SPAN_PX),
            tile_px=64,
            mpp=2.0,
            slide_mpp=0.5,
            slide_size=(SIDE * SPAN_PX, SIDE * SPAN_PX),
            encoder_name=str(self.folder.encoder["name"]),
            encoder_sha256=str(self.folder.encoder["sha256"]),
            encoder_settings=self.folder.encoder_settings,
        )
        return Planted(slide_id, kind, bag, lesion)

    def entry(self, slide: Planted, **more: Any) -> CaseEntry:
        """Make the entry of a slide with the report of its kind."""
        text = report_of(slide.kind)
        values: dict[str, Any] = {
            "owner": slide.slide_id,
            "report_digest": sha256_hex(slide.slide_id.encode()),
            "organ": "Specimen",
            "diagnosis": KINDS[slide.kind],
            "model": self.network.digest,
        }
        return CaseEntry(
            slide_id=slide.slide_id,
            vectors=encode_bag(self.network.server, slide.bag),
            words=encode_text(self.network.server, self.network.words, text),
            text=text,
            **(values | more),
        )

    def entries(self, each: int = 3, **more: Any) -> list[CaseEntry]:
        """Make entries of all kinds, `each` of every kind; their ids are kind and number, as "k2-1"."""
        slides = [
            self.slide(f"k{kind}-{number}", kind, number)
            for kind in range(len(KINDS))
            for number in range(each)
        ]
        return [self.entry(slide, **more) for slide in slides]


def keep_bag(store: ObjectStore, bag: Bag) -> None:
    """Put a slide's bag into the store, as the tiler does."""
    store.put(keys.bag_key(bag.slide_id, bag.digest), pack_bag(bag))
    store.put(keys.scan_key(bag.slide_id, bag.digest), b"{}")


def share(there: Box, lesion: Box) -> float:
    """Return how much of a box lies in the lesion."""
    x, y = (
        max(0, min(there[a] + there[a + 2], lesion[a] + lesion[a + 2]) - max(there[a], lesion[a]))
        for a in (0, 1)
    )
    return x * y / (there[2] * there[3])
