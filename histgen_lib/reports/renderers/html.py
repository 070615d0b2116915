"""draft.html: one self-contained page, made for checking a draft sentence by sentence.

Every picture is a data URI, there is no script, and the page's own policy forbids all network access. CSS
alone (templates/report.css) decides what is shown when. The report of a case shows all of its slides. Each
picture of a tile is in the page once, however many lines rest on it. In print the order is different: the
text, then the slide, then the tiles line by line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from markupsafe import Markup
from numpy.typing import NDArray

from histgen_lib.reports.notices import (
    OTHER_CASES,
    SIMILARITY,
    checks_words,
    confidence_words,
    evidence_unmeasured,
    evidence_words,
    notices,
    percent,
    quality_words,
    resolution,
    similar_words,
    support_words,
    unread_words,
    unsupported,
)
from histgen_lib.reports.pictures import HeatCells, Pictures, data_uri, overall, png_uri, tile_uri
from histgen_lib.reports.record import DraftReport, EvidenceTile, Sentence, SlideProvenance
from histgen_lib.reports.renderers.similar_html import case_views

_TILE_PX = 256
_SCALE_BARS_UM = (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)
_LETTERS = "ABCDEFGH"
_RANKS = ("Strongest", *(f"{rank} strongest" for rank in ("Second", "Third", "Fourth", "Fifth", "Sixth")))


@dataclass(frozen=True)
class TileView:
    """One evidence tile as the page shows it; the box is in percent of the slide's width and height.

    `picture`: the id of its pixels in the page, empty if there are none. `alt`: what it is evidence for, how
    strong, and where it lies.
    """

    letter: str
    picture: str
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
    level: str  # high, moderate, low; none where the confidence is not calibrated
    tiles: tuple[TileView, ...]
    note: str  # how far to trust the tiles; empty for a line that has none
    unsupported: str  # why no region of the slide supports it; empty if one does, or it was not checked
    home: int  # the slide whose map shows its strongest tile


@dataclass(frozen=True)
class ScaleView:
    """Real sizes: a scale bar of at most a quarter of the slide's width, the slide, a tile."""

    bar_percent: float
    bar_label: str
    size_mm: str
    field_um: str


@dataclass(frozen=True)
class SlideView:
    """One slide as the page shows it: `heatmaps` of the lines (by key) that show evidence, and of all."""

    number: int
    name: str  # empty where there is only one
    image: str
    has_pixels: bool
    heatmap: str
    heatmaps: dict[str, str]
    aspect: str
    scale: ScaleView | None


@dataclass(frozen=True)
class _Shown:
    """One slide's pictures and provenance; `ids` of its tiles' pixels by place."""

    name: str
    slide: SlideProvenance
    pictures: Pictures
    ids: dict[tuple[int, int], str]


def render(draft: DraftReport, pictures: Sequence[Pictures]) -> bytes:
    """Render draft.html."""
    return to_html(draft, *pictures).encode()


def to_html(draft: DraftReport, *pictures: Pictures) -> str:
    """Return the page. `pictures`: of the slide, or of each slide of the case in the draft's order."""
    shown = _shown(draft, pictures)
    sentences = [_sentence_view(draft, shown, i) for i in range(len(draft.sentences))]
    context = {
        "draft": draft,
        "notices": notices(draft),
        "trusted": not draft.out_of_distribution.flag,
        "confidence": confidence_words(draft.confidence),
        "sentences": sentences,
        "doubtful": [s for s in sentences if draft.sentences[s.number - 1].uncertain],
        "tiles": _tile_uris(shown),
        "quality": quality_words(draft),
        "unread": unread_words(draft),
        "checks": checks_words(draft),
        "unmeasured": evidence_unmeasured(draft),
        "slides": _slide_views(draft, shown),
        "unsupported": len(unsupported(draft)),
        "similar": _similar_view(draft, pictures),
        "provenance": _provenance_rows(draft),
    }
    return page_template().render(context) + "\n"


@cache
def page_template() -> Template:
    """Compile the page's template, once in a process."""
    loader = PackageLoader("histgen_lib.reports", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["css_string"] = css_string
    environment.globals["stylesheet"] = Markup(loader.get_source(environment, "report.css")[0])
    return environment.get_template("report.html.j2")


def css_string(text: str) -> Markup:
    """Return a CSS string that holds `text`, safe inside a page's style element."""
    plain = "".join(c if c.isascii() and (c.isalnum() or c in " .,:-_") else f"\\{ord(c):x} " for c in text)
    return Markup(f'"{plain}"')


def _similar_view(draft: DraftReport, pictures: Sequence[Pictures]) -> dict[str, object]:
    return {
        "cases": case_views(draft, pictures),
        "without": similar_words(draft.similar),
        "similarity": SIMILARITY,
        "other_cases": OTHER_CASES,
    }


def _shown(draft: DraftReport, pictures: Sequence[Pictures]) -> list[_Shown]:
    slides = [(s.slide_id, s.slide) for s in draft.slides] or [("", draft.provenance.slide)]
    return [
        _Shown(name, slide, of_slide, {p: f"tile-{number}-{p[0]}-{p[1]}" for p in of_slide.tiles})
        for number, ((name, slide), of_slide) in enumerate(zip(slides, pictures, strict=True), 1)
    ]


def _tile_uris(shown: Sequence[_Shown]) -> list[tuple[str, str]]:
    """Return each tile's pixels once: (id, data URI)."""
    return [(one.ids[place], _tile_uri(px)) for one in shown for place, px in one.pictures.tiles.items()]


def _tile_uri(pixels: NDArray[np.uint8]) -> str:
    return tile_uri(pixels, max_px=_TILE_PX)


def _sentence_view(draft: DraftReport, shown: Sequence[_Shown], index: int) -> SentenceView:
    sentence = draft.sentences[index]
    before = draft.text[: sentence.start].rpartition("\n")[2]
    body = sentence.text.lstrip()
    indent = len(before) + len(sentence.text) - len(body)
    plain = body.removeprefix("- ")
    tiles = [_tile_view(shown, plain, i, t) for i, t in enumerate(sentence.shown_evidence[: len(_RANKS)])]
    return SentenceView(
        key=f"s{index + 1}",
        number=index + 1,
        plain=plain,
        words=_words(draft.text, sentence),
        indent=0 if indent == 0 else 2 if body.startswith("- ") else 1,
        headline=body == draft.fields.get("diagnosis"),
        confidence=confidence_words(sentence.confidence),
        width_percent=round(100 * (sentence.confidence or 0), 1),
        level=_level(sentence.confidence, uncertain=sentence.uncertain),
        tiles=tuple(tiles),
        note=evidence_words(sentence) if sentence.evidence and not evidence_unmeasured(draft) else "",
        unsupported=support_words(sentence) if sentence in unsupported(draft) else "",
        home=tiles[0].slide if tiles else 1,
    )


def _level(confidence: float | None, *, uncertain: bool) -> str:
    if confidence is None:
        return "none"
    if uncertain:
        return "low"
    return "high" if confidence >= 0.9 else "moderate"


def _words(text: str, sentence: Sentence) -> tuple[tuple[str, bool], ...]:
    """Split the sentence where the page must mark tokens that the decoder was unsure of."""
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


def _tile_view(shown: Sequence[_Shown], line: str, rank: int, tile: EvidenceTile) -> TileView:
    which = next((i for i, one in enumerate(shown) if one.name == tile.slide_id), 0)
    width, height = shown[which].slide.size_px or (1, 1)
    place = _place(tile, shown[which].slide.mpp)
    return TileView(
        letter=_LETTERS[rank],
        picture=shown[which].ids.get((tile.x, tile.y), ""),
        alt=f"{_RANKS[rank]} evidence tile for “{line}”: {percent(tile.weight)} of its evidence, at {place}",
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


def _place(tile: EvidenceTile, mpp: float | None) -> str:
    """Return where a tile lies: level-0 pixels, and millimetres from the slide's top left if known."""
    place = f"x {tile.x}, y {tile.y} px"
    if mpp is not None:
        place += f" ({tile.x * mpp / 1000:.2f} mm, {tile.y * mpp / 1000:.2f} mm)"
    return place + (f", slide {tile.slide_id}" if tile.slide_id else "")


def _slide_views(draft: DraftReport, shown: Sequence[_Shown]) -> list[SlideView]:
    """Return what the slide panel shows; nothing if it is not known where the tiles lie."""
    if any(one.slide.size_px is None for one in shown):
        return []
    lines = [_lines(draft, one.pictures.weights) for one in shown]
    peaks = {key: max(float(of_slide[key].max(initial=0)) for of_slide in lines) for key in lines[0]}
    return [
        _slide_view(*each, number, peaks) for number, each in enumerate(zip(shown, lines, strict=True), 1)
    ]


def _lines(draft: DraftReport, weights: NDArray[np.float32]) -> dict[str, NDArray[np.floating]]:
    """Return the evidence [N] of each line that shows any by the line's key, and of all together under ""."""
    shown = [row for row, sentence in enumerate(draft.sentences) if sentence.shown_evidence]
    return {"": overall(draft, weights)} | {f"s{row + 1}": weights[row] for row in shown}


def _slide_view(
    shown: _Shown, lines: dict[str, NDArray[np.floating]], number: int, peaks: dict[str, float]
) -> SlideView:
    pictures, size = shown.pictures, shown.slide.size_px or (1, 1)
    cells = HeatCells(pictures.xy, pictures.span_px, size)
    maps = {key: png_uri(cells.heatmap(weights, peaks[key])) for key, weights in lines.items()}
    return SlideView(
        number=number,
        name=shown.name,
        image=png_uri(cells.silhouette())
        if pictures.thumbnail is None
        else data_uri("image/webp", pictures.thumbnail),
        has_pixels=pictures.thumbnail is not None,
        heatmap=maps.pop(""),
        heatmaps=maps,
        aspect=f"{size[0]} / {size[1]}",
        scale=_scale(size, pictures.span_px, shown.slide.mpp),
    )


def _scale(size: tuple[int, int], span_px: float, mpp: float | None) -> ScaleView | None:
    if mpp is None:
        return None
    width_um = size[0] * mpp
    bar_um = max([um for um in _SCALE_BARS_UM if um <= width_um / 4], default=_SCALE_BARS_UM[0])
    return ScaleView(
        bar_percent=round(100 * bar_um / width_um, 2),
        bar_label=f"{bar_um} µm" if bar_um < 1000 else f"{bar_um // 1000} mm",
        size_mm=" × ".join(f"{side * mpp / 1000:.1f}" for side in size) + " mm",
        field_um=f"{span_px * mpp:.0f} µm",
    )


def _provenance_rows(draft: DraftReport) -> list[tuple[str, str]]:
    provenance = draft.provenance
    return [
        *_slide_rows(draft),
        ("Tiles", f"{provenance.slide.tiles}, {_tiling(draft)}"),
        ("Model", f"{provenance.model.name} {provenance.model.sha256}"),
        ("Trained on", "synthetic slides only" if provenance.model.synthetic else "see the model card"),
        ("Tile encoder", f"{provenance.encoder.name} {provenance.encoder.sha256}"),
        ("Decoding", ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in sorted(provenance.decoding.items()))),
        ("Domain check", _domain_row(draft)),
        ("Bag digest", provenance.bag_digest),
        ("Inputs digest", provenance.inputs_digest),
        ("Software", provenance.software),
        ("Draft schema", draft.schema_version),
    ]


def _slide_rows(draft: DraftReport) -> list[tuple[str, str]]:
    if draft.case_id is None:
        return _rows_of_slide(draft.slide_id, draft.provenance.slide)
    rows = [row for part in draft.slides for row in _rows_of_slide(part.slide_id, part.slide)]
    return [("Case", draft.case_id), *rows]


def _rows_of_slide(slide_id: str, slide: SlideProvenance) -> list[tuple[str, str]]:
    size = slide.size_px
    return [
        ("Slide", slide_id),
        ("Slide content", slide.content_id or "not read: drafted from a bag"),
        ("Slide size", f"{size[0]} × {size[1]} px" if size else "not stated"),
        ("Resolution", resolution(slide)),
        ("Scanner", slide.scanner or "not stated"),
    ]


def _tiling(draft: DraftReport) -> str:
    tiling = draft.provenance.tiling
    row = "size not stated"
    if tiling.tile_px and tiling.mpp:
        row = f"{tiling.tile_px} px at {tiling.mpp:g} µm/px"
    if tiling.overlap_px is not None:
        row += f", overlap {tiling.overlap_px} px, at least {tiling.min_tissue:.0%} tissue"
    return row


def _domain_row(draft: DraftReport) -> str:
    domain = draft.out_of_distribution
    if domain.score is None:
        return "not checked: the model has no statistics of its training data"
    verdict = "out of distribution" if domain.flag else "in distribution"
    return f"{verdict}: score {domain.score:.3f}, limit {domain.threshold:.3f} ({domain.method})"
