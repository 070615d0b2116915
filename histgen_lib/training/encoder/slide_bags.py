"""One slide's bags by one or several encoders: which are there already, and the others in few decodings."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from histgen_lib.bags import Bag, Maker, maker_of, read_bag, write_bag
from histgen_lib.errors import HistgenError, InvalidInputError
from histgen_lib.files import atomic_path
from histgen_lib.names import place_in
from histgen_lib.pipeline.scan.scanner import make_bag
from histgen_lib.pipeline.scan.torch_encoder import TorchEncoder
from histgen_lib.slides import Slide, TileGrid, TilingSettings, open_slide, plan_grid


@dataclass(frozen=True)
class Place:
    """Where one encoder's bags go, and what they state.

    `parent`: the folder where a command with this encoder alone puts them, if that is another one.
    """

    maker: Maker
    tiling: TilingSettings
    folder: Path
    parent: Path | None = None

    def path(self, slide_id: str) -> Path:
        """Return the file of a slide's bag."""
        return place_in(self.folder, slide_id, ".parquet")

    def has(self, slide: Slide) -> bool:
        """Return whether the bag of an open slide is there, complete, and by this encoder and tiling.

        A bag of an earlier command with this encoder alone is taken over. Raises
        InvalidInputError("training-slides-same-name") if the bag there is of a slide of another size: it
        would be lost.
        """
        path = self.path(slide.slide_id)
        if self.parent is not None and not path.exists():
            earlier = place_in(self.parent, slide.slide_id, ".parquet")
            if self._is_mine(earlier, slide):
                _link(earlier, path)
                return True
        return self._is_mine(path, slide)

    def _is_mine(self, path: Path, slide: Slide) -> bool:
        if not path.exists():
            return False
        try:
            bag = read_bag(path)
        except HistgenError:
            return False
        if tuple(bag.slide_size) != tuple(slide.size):
            raise InvalidInputError(
                "training-slides-same-name",
                f"{path} is the bag of another slide that is also named {bag.slide_id}.",
                hint="Rename one of them, or encode them into different folders.",
            )
        return self._states_this(bag)

    def _states_this(self, bag: Bag) -> bool:
        """Compare encoder and tiles; bags of before settings were recorded state none."""
        maker = maker_of(bag)
        tiles = (bag.tile_px, bag.mpp) == (self.tiling.tile_px, self.tiling.mpp)
        return tiles and maker.sha256 == self.maker.sha256 and maker.settings in ("", self.maker.settings)


@dataclass(frozen=True)
class Work:
    """An encoder that is loaded, and where its bags go. `position`: in the command's list of encoders."""

    position: int
    place: Place
    encoder: TorchEncoder


@dataclass
class Outcome:
    """What became of a slide: the positions of the encoders whose bags were written, or were there."""

    written: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    error: HistgenError | None = None


def encode_slide(path: Path, works: Sequence[Work], mpp: float | None) -> Outcome:
    """Make a slide's missing bags, each group of encoders that want the same tiles in one decoding."""
    outcome = Outcome()
    try:
        with open_slide(path, mpp=mpp) as slide:
            missing = []
            for work in works:
                missing.append(work) if not work.place.has(slide) else outcome.kept.append(work.position)
            for group in same_tiles(missing):
                for work, bag in zip(group, slide_bags(slide, group), strict=True):
                    write_bag(bag, work.place.path(slide.slide_id))
                    outcome.written.append(work.position)
    except HistgenError as error:
        outcome.error = error
    return outcome


def same_tiles(works: Sequence[Work]) -> list[list[Work]]:
    """Group encoders by the tiles that they want."""
    groups: dict[TilingSettings, list[Work]] = {}
    for work in works:
        groups.setdefault(work.place.tiling, []).append(work)
    return list(groups.values())


def slide_bags(slide: Slide, works: Sequence[Work]) -> list[Bag]:
    """Encode all whole tiles of an open slide with encoders that want the same ones, reading them once."""
    grid = plan_grid(slide, works[0].place.tiling)
    batch_tiles = max(work.encoder.batch_tiles for work in works)
    parts: list[list[Tensor]] = [[] for _ in works]
    places = []
    for batch in slide.read_tiles(grid, batch_size=batch_tiles):
        for features, work in zip(parts, works, strict=True):
            features.append(work.encoder.start(batch.pixels))
        places.append(batch.xy)
    whole = grid.only(grid.rows_at(np.concatenate(places)))
    return [
        _bag(slide, whole, torch.cat(features).cpu().numpy(), work.place.maker)
        for features, work in zip(parts, works, strict=True)
    ]


def _bag(slide: Slide, grid: TileGrid, features: NDArray[np.float16], maker: Maker) -> Bag:
    return make_bag(
        slide,
        grid,
        features,
        encoder_name=maker.name,
        encoder_sha256=maker.sha256,
        encoder_settings=maker.settings,
    )


def _link(earlier: Path, path: Path) -> None:
    """Give a bag a second name, without a second copy where the disk can do that."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(earlier, path)
    except OSError:
        with atomic_path(path) as temporary:
            shutil.copyfile(earlier, temporary)
