"""draft.html: one page that needs nothing but itself, made for checking a draft sentence by sentence.

Every picture is a data URI, there is no script, and the page's own policy forbids all network access. What
is shown when is decided by CSS alone (templates/report.css).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray

from histgen_lib.reports.notices import notices, percent, quality_sentence
from histgen_lib.reports.pictures import Pictures, heatmap_uri, jpeg_uri, silhouette_uri
from histgen_lib.reports.record import DraftReport, EvidenceTile, Sentence

_TILE_PX = 256
_THUMBNAIL_PX = 1400
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
    heatmap: str


def to_html(draft: DraftReport, pictures: Pictures) -> str:
    """Draw the whole page. `pictures.weights` has one row for each of the draft's sentences."""
    sentences = [_sentence_view(draft, pictures, i) for i in range(len(draft.sentences))]
    context = {
        "draft": draft,
        "notices": notices(draft),
        "trusted": not draft.out_of_distribution.flag,
        "confidence": percent(draft.confidence),
        "sentences": sentences,
        "doubtful": [s for s in sentences if draft.sentences[s.number - 1].uncertain],
        "quality": [quality_sentence(flag) for flag in draft.quality.flags],
        "slide": _slide_view(draft, pictures),
        "provenance": _provenance_rows(draft),
    }
    return str(_environment().get_template("report.html.j2").render(context)) + "\n"


def _environment() -> Environment:
    loader = PackageLoader("histgen_lib.reports", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["stylesheet"] = Markup(loader.get_source(environment, "report.css")[0])
    return environment


def _sentence_view(draft: DraftReport, pictures: Pictures, index: int) -> SentenceView:
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
            _tile_view(draft, pictures, index, i, tile)
            for i, tile in enumerate(sentence.evidence[: len(_LETTERS)])
        ),
        heatmap=_heatmap(draft, pictures, pictures.weights[index]),
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


def _tile_view(draft: DraftReport, pictures: Pictures, index: int, rank: int, tile: EvidenceTile) -> TileView:
    letter = _LETTERS[rank]
    pixels = pictures.tiles.get((tile.x, tile.y))
    width, height = draft.provenance.slide.size_px or (1, 1)
    place = f"x {tile.x}, y {tile.y}"
    return TileView(
        letter=letter,
        uri="" if pixels is None else jpeg_uri(pixels, max_px=_TILE_PX, quality=78),
        alt=f"Evidence tile {letter} for line {index + 1}, at {place} level-0 pixels, "
        f"{percent(tile.weight)} of this line's evidence",
        share=percent(tile.weight),
        place=place,
        box=(
            round(100 * tile.x / width, 3),
            round(100 * tile.y / height, 3),
            round(100 * tile.span_px / width, 3),
            round(100 * tile.span_px / height, 3),
        ),
    )


def _heatmap(draft: DraftReport, pictures: Pictures, weights: NDArray[np.floating]) -> str:
    size = draft.provenance.slide.size_px
    return "" if size is None else heatmap_uri(pictures.xy, pictures.span_px, weights, size)


def _slide_view(draft: DraftReport, pictures: Pictures) -> dict[str, Any] | None:
    """Collect what the slide panel shows; None when nobody knows where the tiles lie."""
    size = draft.provenance.slide.size_px
    if size is None:
        return None
    if pictures.thumbnail is None:
        image = silhouette_uri(pictures.xy, pictures.span_px, size)
    else:
        image = jpeg_uri(pictures.thumbnail, max_px=_THUMBNAIL_PX)
    mean = pictures.weights.mean(axis=0) if len(pictures.weights) else np.zeros(len(pictures.xy))
    return {
        "image": image,
        "has_pixels": pictures.thumbnail is not None,
        "heatmap": _heatmap(draft, pictures, mean),
        "aspect": f"{size[0]} / {size[1]}",
        "scale": _scale(size, pictures.span_px, draft.provenance.slide.mpp),
    }


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
    size, mpp = made.slide.size_px, made.slide.mpp
    tiling = "size not stated"
    if made.tiling.tile_px and made.tiling.mpp:
        tiling = f"{made.tiling.tile_px} px at {made.tiling.mpp:g} µm/px"
    if made.tiling.overlap_px is not None:
        tiling += f", overlap {made.tiling.overlap_px} px, at least {made.tiling.min_tissue:.0%} tissue"
    return [
        ("Slide", draft.slide_id),
        ("Slide content", made.slide.content_id or "not read: drafted from a bag"),
        ("Slide size", f"{size[0]} × {size[1]} px" if size else "not stated"),
        ("Resolution", f"{mpp:.4g} µm/px ({made.slide.mpp_source})" if mpp else "not stated"),
        ("Scanner", made.slide.scanner or "not stated"),
        ("Tiles", f"{made.slide.tiles}, {tiling}"),
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


def _domain_row(draft: DraftReport) -> str:
    domain = draft.out_of_distribution
    if domain.score is None:
        return "not checked: the model has no statistics of its training world"
    verdict = "outside" if domain.flag else "inside"
    return f"{verdict}: {domain.score:.3f}, accepted up to {domain.threshold:.3f} ({domain.method})"
