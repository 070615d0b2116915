"""draft.html: one page that needs nothing but itself, made for checking a draft sentence by sentence.

Every picture is a data URI, there is no script, and the page's own policy forbids all network access. What
is shown when is decided by CSS alone (templates/report.css). The report of a case shows all of its slides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from numpy.typing import NDArray

from histgen_lib.reports.notices import notices, percent, quality_sentence
from histgen_lib.reports.pictures import HeatCells, Pictures, data_uri, png_uri, tile_uri
from histgen_lib.reports.record import DraftReport, EvidenceTile, Sentence, SlideProvenance

_TILE_PX = 256
_SCALE_BARS_UM = (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)
_LETTERS = "ABCDEFGH"


@dataclass(frozen=True)
class TileView:
    """One evidence tile as the page shows it; the box is in percent of the slide's width and height."""

    letter: str
    uri: str
    alt: str
    share: str
    place: str
    slide: int
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class SentenceView:
    """One line of the draft as the page shows it."""

    key: str
    number: int
    plain: str  # without the list mark
    words: tuple[tuple[str, bool], ...]  # text, doubtful?
    indent: int
    headline: bool
    confidence: str
    width_percent: float
    level: str
    tiles: tuple[TileView, ...]


@dataclass(frozen=True)
class SlideView:
    """One slide as the page shows it: `heatmaps` by line, the last one of the whole draft."""

    number: int
    name: str  # empty where there is only one
    image: str
    has_pixels: bool
    heatmaps: tuple[str, ...]
    aspect: str
    scale: dict[str, Any] | None


@dataclass(frozen=True)
class _Shown:
    """One slide's pictures with what the draft says of it; `uris` of its tiles by place."""

    name: str
    slide: SlideProvenance
    pictures: Pictures
    uris: dict[tuple[int, int], str]


def to_html(draft: DraftReport, *pictures: Pictures) -> str:
    """Draw the whole page. `pictures`: of the slide, or of each slide of the case in the draft's order."""
    shown = _shown(draft, pictures)
    sentences = [_sentence_view(draft, shown, i) for i in range(len(draft.sentences))]
    context = {
        "draft": draft,
        "notices": notices(draft),
        "trusted": not draft.out_of_distribution.flag,
        "confidence": percent(draft.confidence),
        "sentences": sentences,
        "doubtful": [s for s in sentences if draft.sentences[s.number - 1].uncertain],
        "quality": _quality(draft),
        "slides": _slide_views(draft, shown),
        "provenance": _provenance_rows(draft),
    }
    return page_template().render(context) + "\n"


@cache
def page_template() -> Template:
    """Compile the page's template; once in a process."""
    loader = PackageLoader("histgen_lib.reports", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["stylesheet"] = Markup(loader.get_source(environment, "report.css")[0])
    return environment.get_template("report.html.j2")


def _shown(draft: DraftReport, pictures: Sequence[Pictures]) -> list[_Shown]:
    told = [(s.slide_id, s.slide) for s in draft.slides] or [("", draft.provenance.slide)]
    return [
        _Shown(name, slide, of_slide, {place: _tile_uri(px) for place, px in of_slide.tiles.items()})
        for (name, slide), of_slide in zip(told, pictures, strict=True)
    ]


def _tile_uri(pixels: NDArray[np.uint8]) -> str:
    return tile_uri(pixels, max_px=_TILE_PX)


def _sentence_view(draft: DraftReport, shown: Sequence[_Shown], index: int) -> SentenceView:
    sentence = draft.sentences[index]
    before = draft.text[: sentence.start].rpartition("\n")[2]
    body = sentence.text.lstrip()
    indent = len(before) + len(sentence.text) - len(body)
    return SentenceView(
        key=f"s{index + 1}",
        number=index + 1,
        plain=body.removeprefix("- "),
        words=_words(draft.text, sentence),
        indent=0 if indent == 0 else 2 if body.startswith("- ") else 1,
        headline=body == draft.fields.get("diagnosis"),
        confidence=percent(sentence.confidence),
        width_percent=round(100 * sentence.confidence, 1),
        level=_level(sentence),
        tiles=tuple(
            _tile_view(shown, index, i, tile) for i, tile in enumerate(sentence.evidence[: len(_LETTERS)])
        ),
    )


def _level(sentence: Sentence) -> str:
    if sentence.uncertain:
        return "low"
    return "high" if sentence.confidence >= 0.9 else "moderate"


def _words(text: str, sentence: Sentence) -> tuple[tuple[str, bool], ...]:
    """Cut the sentence where the page must mark tokens that the decoder doubted."""
    doubted = np.zeros(len(text), dtype=bool)
    for token in sentence.tokens:
        doubted[token.start : token.end] = token.probability < 0.7
    pieces: list[tuple[str, bool]] = []
    for position in range(sentence.start, sentence.end):
        character, doubt = text[position], bool(doubted[position])
        if pieces and pieces[-1][1] == doubt:
            pieces[-1] = (pieces[-1][0] + character, doubt)
        else:
            pieces.append((character, doubt))
    return tuple(pieces)


def _tile_view(shown: Sequence[_Shown], index: int, rank: int, tile: EvidenceTile) -> TileView:
    letter = _LETTERS[rank]
    which = next((i for i, one in enumerate(shown) if one.name == tile.slide_id), 0)
    width, height = shown[which].slide.size_px or (1, 1)
    place = f"x {tile.x}, y {tile.y}" + (f", slide {tile.slide_id}" if tile.slide_id else "")
    return TileView(
        letter=letter,
        uri=shown[which].uris.get((tile.x, tile.y), ""),
        alt=f"Evidence tile {letter} for line {index + 1}, at {place} (level-0 pixels), "
        f"{percent(tile.weight)} of this line's evidence",
        share=percent(tile.weight),
        place=place,
        slide=which + 1,
        box=(
            round(100 * tile.x / width, 3),
            round(100 * tile.y / height, 3),
            round(100 * tile.span_px / width, 3),
            round(100 * tile.span_px / height, 3),
        ),
    )


def _slide_views(draft: DraftReport, shown: Sequence[_Shown]) -> list[SlideView]:
    """Collect what the slide panel shows; nothing when nobody knows where the tiles lie."""
    if any(one.slide.size_px is None for one in shown):
        return []
    peaks = _peaks([one.pictures.weights for one in shown])
    return [_slide_view(draft, one, number, peaks) for number, one in enumerate(shown, 1)]


def _peaks(weights: Sequence[NDArray[np.float32]]) -> list[float]:
    """Find the strongest tile of each line on any slide, then that of the whole draft."""
    lines = [_with_mean(part) for part in weights]
    return [max(float(part[i].max(initial=0)) for part in lines) for i in range(len(lines[0]))]


def _with_mean(weights: NDArray[np.float32]) -> NDArray[np.floating]:
    """Put the mean over all lines below the lines' weights [S, N]."""
    mean = weights.mean(axis=0) if len(weights) else np.zeros(weights.shape[1])
    return np.concatenate([weights, mean[None]])


def _slide_view(draft: DraftReport, shown: _Shown, number: int, peaks: Sequence[float]) -> SlideView:
    pictures, size = shown.pictures, shown.slide.size_px or (1, 1)
    cells = HeatCells(pictures.xy, pictures.span_px, size)
    lines = zip(_with_mean(pictures.weights), peaks, strict=True)
    return SlideView(
        number=number,
        name=shown.name,
        image=png_uri(cells.silhouette())
        if pictures.thumbnail is None
        else data_uri("image/webp", pictures.thumbnail),
        has_pixels=pictures.thumbnail is not None,
        heatmaps=tuple(png_uri(cells.heatmap(weights, peak)) for weights, peak in lines),
        aspect=f"{size[0]} / {size[1]}",
        scale=_scale(size, pictures.span_px, shown.slide.mpp),
    )


def _quality(draft: DraftReport) -> list[str]:
    if not draft.slides:
        return [quality_sentence(flag) for flag in draft.quality.flags]
    return [f"{s.slide_id}: {quality_sentence(flag)}" for s in draft.slides for flag in s.quality.flags]


def _scale(size: tuple[int, int], span_px: float, mpp: float | None) -> dict[str, Any] | None:
    """Sizes in the world: a scale bar of at most a quarter of the width, the slide, a tile."""
    if mpp is None:
        return None
    width_um = size[0] * mpp
    bar_um = max([um for um in _SCALE_BARS_UM if um <= width_um / 4], default=_SCALE_BARS_UM[0])
    return {
        "bar_percent": round(100 * bar_um / width_um, 2),
        "bar_label": f"{bar_um} µm" if bar_um < 1000 else f"{bar_um // 1000} mm",
        "size_mm": " × ".join(f"{side * mpp / 1000:.1f}" for side in size) + " mm",
        "field_um": f"{span_px * mpp:.0f} µm",
    }


def _provenance_rows(draft: DraftReport) -> list[tuple[str, str]]:
    made = draft.provenance
    return [
        *_slide_rows(draft),
        ("Tiles", f"{made.slide.tiles}, {_tiling(draft)}"),
        ("Model", f"{made.model.name} {made.model.sha256}"),
        ("Trained on", "synthetic slides only" if made.model.synthetic else "see the model's card"),
        ("Tile encoder", f"{made.encoder.name} {made.encoder.sha256}"),
        ("Decoding", ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in sorted(made.decoding.items()))),
        ("Domain check", _domain_row(draft)),
        ("Bag", made.bag_digest),
        ("Inputs", made.inputs_digest),
        ("Software", made.software),
        ("Draft schema", draft.schema_version),
    ]


def _slide_rows(draft: DraftReport) -> list[tuple[str, str]]:
    if draft.case_id is None:
        return _rows_of_slide(draft.slide_id, draft.provenance.slide)
    rows = [row for part in draft.slides for row in _rows_of_slide(part.slide_id, part.slide)]
    return [("Case", draft.case_id), *rows]


def _rows_of_slide(slide_id: str, slide: SlideProvenance) -> list[tuple[str, str]]:
    size, mpp = slide.size_px, slide.mpp
    return [
        ("Slide", slide_id),
        ("Slide content", slide.content_id or "not read: drafted from a bag"),
        ("Slide size", f"{size[0]} × {size[1]} px" if size else "not stated"),
        ("Resolution", f"{mpp:.4g} µm/px ({slide.mpp_source})" if mpp else "not stated"),
        ("Scanner", slide.scanner or "not stated"),
    ]


def _tiling(draft: DraftReport) -> str:
    made = draft.provenance.tiling
    tiling = "size not stated"
    if made.tile_px and made.mpp:
        tiling = f"{made.tile_px} px at {made.mpp:g} µm/px"
    if made.overlap_px is not None:
        tiling += f", overlap {made.overlap_px} px, at least {made.min_tissue:.0%} tissue"
    return tiling


def _domain_row(draft: DraftReport) -> str:
    domain = draft.out_of_distribution
    if domain.score is None:
        return "not checked: the model has no statistics of its training world"
    verdict = "outside" if domain.flag else "inside"
    return f"{verdict}: {domain.score:.3f}, accepted up to {domain.threshold:.3f} ({domain.method})"
