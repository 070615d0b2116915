"""Which levels of a slide to believe: each is compared with a finer one, in content and in size.

Pyramids in the wild hold levels that are padded to whole tiles (their scale is then not what their size
suggests), shifted, blank, of another slide, or a label. A few places with texture are read from the level and
from the coarsest level believed so far, and compared as pictures. Level 0 is always believed: it is the
slide.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Literal, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides.readers import Reader
from histgen_lib.slides.reading import resize
from histgen_lib.slides.settings import Level

MOST_LEVELS = 32
"""Levels that are compared, finest first; scanners write about ten, files may hold thousands of pages."""

LEAST_SIDE_PX = 32
"""Smaller levels show too little to be compared, and are not used."""

LEAST_REDUCTION = 1.1
"""A "level" that is reduced less than this is another focal plane or a copy."""

_PATCH_PX = 64
_MARGIN_PX = 4
"""A level may be shifted by this many of its px: sizes are rounded, and half pixels are lost."""

_MOST_REFERENCE_PX = 1536
_LEAST_PATCH_PX = 24
_WHOLE_LEVEL_PX = 8_000_000
"""Levels up to this size are read whole to find places with texture."""

_CELLS, _BLOCKS = 32, 4
_FINE_SIGMA_PX, _COARSE_SIGMA_PX = 1.0, 6.0
"""Structures between these sizes are compared; finer ones depend on resampling and compression."""

_LEAST_TEXTURE = 2.5
_LEAST_SHARE_OF_TEXTURE = 0.3
_LEAST_CORRELATION = 0.45
_MOST_COLOUR_DIFFERENCE = 24.0
_LEAST_COLOUR_SPREAD = 8.0
"""Grey values by which textureless places must differ for their agreement to mean anything."""
_LATTICE = 8
_ENOUGH_PLACES = 16

Picture = NDArray[np.uint8]
Texture = NDArray[np.float32]
Place = tuple[float, float]


class Believed(NamedTuple):
    """Numbers of levels, finest first.

    `kept`: to read from, including 0. `wrong`: those that show something other than level 0. Levels too small
    or too empty to judge are in neither.
    """

    kept: tuple[int, ...]
    wrong: tuple[int, ...]


def believed_levels(reader: Reader, levels: Sequence[Level]) -> Believed:
    """Compare each level (finest first) with a finer one. A level that cannot be read is wrong."""
    kept, wrong = [0], list(range(MOST_LEVELS, len(levels)))
    places = _Places(reader, levels)
    for number in range(1, min(len(levels), MOST_LEVELS)):
        if min(levels[number].size) < LEAST_SIDE_PX:
            continue
        found = _same(reader, levels, number, kept[-1], places)
        if found is not None:
            (kept if found else wrong).append(number)
    return Believed(tuple(kept), tuple(sorted(wrong)))


def is_reduction(full: tuple[int, int], small: tuple[int, int]) -> bool:
    """Return whether both sides shrink by the same factor, up to rounding to whole px (2 px, or 2 %)."""
    expected = full[1] * small[0] / full[0]
    same_shape = abs(expected - small[1]) <= max(2.0, 0.02 * max(expected, small[1]))
    return same_shape and full[0] >= LEAST_REDUCTION * small[0]


class _Places:
    """Where to compare, as fractions (x, y) of the slide's sides."""

    def __init__(self, reader: Reader, levels: Sequence[Level]) -> None:
        self._reader, self._levels = reader, levels

    def __iter__(self) -> Iterator[Place]:
        """Yield where small levels show texture, then where level 0 does, then a few places all over.

        Levels are read only as far as places are requested.
        """
        yield from self._hinted
        yield from self._on_level_0
        yield from _lattice(_BLOCKS)

    @cached_property
    def _hinted(self) -> list[Place]:
        """The most textured place in each of 4 × 4 parts of every small level."""
        places: dict[Place, None] = {}
        for number, level in enumerate(self._levels[:MOST_LEVELS]):
            small = level.size[0] * level.size[1] <= _WHOLE_LEVEL_PX
            if number and small and min(level.size) >= LEAST_SIDE_PX:
                places |= dict.fromkeys(self._textured(number))
        return list(places)

    def _textured(self, number: int) -> list[Place]:
        try:
            picture = self._reader.read(0, 0, number, *self._levels[number].size)
        except InvalidInputError:
            return []
        energy = cv2.resize(np.abs(_texture(picture)), (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
        side = _CELLS // _BLOCKS
        places = []
        for top in range(0, _CELLS, side):
            for left in range(0, _CELLS, side):
                block = energy[top : top + side, left : left + side]
                row, column = divmod(int(block.argmax()), side)
                if block[row, column] >= _LEAST_TEXTURE / 2:
                    places.append(((left + column + 0.5) / _CELLS, (top + row + 0.5) / _CELLS))
        return places

    @cached_property
    def _on_level_0(self) -> list[Place]:
        """The textured ones of 8 × 8 places of level 0, where small levels show no texture."""
        hinted = {_block(place) for place in self._hinted}
        return [p for p in _lattice(_LATTICE) if _block(p) not in hinted and self._is_textured(p)]

    def _is_textured(self, place: Place) -> bool:
        x, y = (
            round(share * side) - _PATCH_PX // 2
            for share, side in zip(place, self._levels[0].size, strict=True)
        )
        try:
            patch = self._reader.read(x, y, 0, _PATCH_PX, _PATCH_PX)
        except InvalidInputError:
            return False
        return bool(_texture(patch).std() >= _LEAST_TEXTURE)


def _lattice(side: int) -> list[Place]:
    return [((column + 0.5) / side, (row + 0.5) / side) for row in range(side) for column in range(side)]


def _block(place: Place) -> tuple[int, int]:
    return int(place[0] * _BLOCKS), int(place[1] * _BLOCKS)


def _same(reader: Reader, levels: Sequence[Level], number: int, finer: int, places: _Places) -> bool | None:
    """Return whether a level shows what level `finer` shows; None where that cannot be judged."""
    if not is_reduction(levels[0].size, levels[number].size):
        return False
    alike = unlike = 0
    even: list[NDArray[np.float64]] = []
    for place in places:
        pair = _pair(reader, levels, number, finer, place)
        verdict = pair if pair is None or pair is False else _alike(*pair)
        if verdict is None and pair:
            even.append(pair[0].mean((0, 1)))
        alike, unlike = alike + (verdict is True), unlike + (verdict is False)
        if alike + unlike >= _ENOUGH_PLACES:
            break
    if alike + unlike == 0:
        return True if even and np.std(even, axis=0).max() >= _LEAST_COLOUR_SPREAD else None
    return unlike < max(2, 0.1 * alike) and alike > unlike


def _pair(
    reader: Reader, levels: Sequence[Level], number: int, finer: int, place: Place
) -> tuple[Picture, Picture] | Literal[False] | None:
    """Read a place in level `finer`, reduced, and in the level, with a margin around.

    False if the level cannot be read there; None if the finer one cannot, or if either is damaged there:
    reading avoids damage, and the rest of the level may be believed.
    """
    by, by_finer = levels[number].downsample, levels[finer].downsample
    side = _patch_px(levels[number], by / by_finer)
    left, top = (
        min(max(0, round(share * length - side / 2)), length - side)
        for share, length in zip(place, levels[number].size, strict=True)
    )
    span, wide = max(1, round(side * by / by_finer)), side + 2 * _MARGIN_PX
    reference = (round(left * by), round(top * by), finer, span, span)
    there = (round((left - _MARGIN_PX) * by), round((top - _MARGIN_PX) * by), number, wide, wide)
    try:
        fine = reader.read(*reference)
    except InvalidInputError:
        return None
    try:
        coarse = reader.read(*there)
    except InvalidInputError:
        return False
    whole = reader.is_whole(*reference) and reader.is_whole(*there)
    return (resize(fine, side, side), coarse) if whole else None


def _patch_px(level: Level, reduction: float) -> int:
    most = max(_LEAST_PATCH_PX, min(_PATCH_PX, int(_MOST_REFERENCE_PX / reduction)))
    return min(most, *level.size)


def _alike(expected: Picture, found: Picture) -> bool | None:
    """Return whether `expected` is the middle of `found`, up to the margin; None if both lack texture."""
    inner = found[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
    if np.abs(expected.mean((0, 1)) - inner.mean((0, 1))).max() > _MOST_COLOUR_DIFFERENCE:
        return False
    texture, there = _texture(expected), _texture(found)
    here = there[_MARGIN_PX:-_MARGIN_PX, _MARGIN_PX:-_MARGIN_PX]
    least, most = sorted((float(texture.std()), float(here.std())))
    if most < _LEAST_TEXTURE:
        return None
    if least < _LEAST_SHARE_OF_TEXTURE * most:
        return False
    return float(cv2.matchTemplate(there, texture, cv2.TM_CCOEFF_NORMED).max()) >= _LEAST_CORRELATION


def _texture(picture: Picture) -> Texture:
    """Keep structures of a few px of uint8[h,w,3] RGB, as grey values around 0: float32[h,w]."""
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = cv2.GaussianBlur(grey, (0, 0), _FINE_SIGMA_PX)
    return np.asarray(fine - cv2.GaussianBlur(grey, (0, 0), _COARSE_SIGMA_PX))
