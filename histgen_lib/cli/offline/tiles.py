"""`histgen tiles`: previews which tiles of a slide would be read; no model runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histgen_lib.cli.options import Mpp, Out, Slides, expand
from histgen_lib.cli.output import Failure, JsonFlag, emit_json, number_of, out, say_error, say_heading
from histgen_lib.errors import HistgenError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from histgen_lib.pipeline.outputs import OutputPlaces
    from histgen_lib.slides import QualityReport, Slide, TileGrid, TilingSettings

PREVIEW_PX = 1600


def tiles(
    slides: Slides,
    *,
    out_dir: Out,
    mpp: Mpp = None,
    tile_px: Annotated[int, typer.Option("--tile-px", help="Side of a tile in pixels.")] = 256,
    tile_mpp: Annotated[float, typer.Option("--tile-mpp", help="µm per pixel of a tile.")] = 0.5,
    overlap_px: Annotated[
        int, typer.Option("--overlap-px", help="Overlap of neighbouring tiles in pixels.")
    ] = 0,
    min_tissue: Annotated[
        float, typer.Option("--min-tissue", help="Smallest share of tissue in a tile, 0 to 1.")
    ] = 0.15,
    as_json: JsonFlag = False,
) -> None:
    """Preview what would be read: tissue mask, tile grid and quality flags.

    Writes DIR/<slide>.tiles.png: the slide with the background dimmed and every tile outlined.

    For example:

      histgen tiles slide.svs --out preview

      histgen tiles scans/ --out preview --min-tissue 0.3 --json
    """
    from histgen_lib.pipeline.outputs import OutputPlaces
    from histgen_lib.slides import TilingSettings

    settings = TilingSettings(tile_px, tile_mpp, overlap_px, min_tissue)
    places = OutputPlaces(out_dir, ".tiles.png")
    paths = expand(slides)
    found, failures = [], []
    for path in paths:
        try:
            found.append(_preview(path, places, mpp, settings))
        except HistgenError as error:
            if len(paths) == 1:
                raise
            failures.append((path, Failure.of(error)))
            say_heading(path)
            say_error(failures[-1][1])
        else:
            if not as_json:
                _say(found[-1])
    if as_json:
        emit_json({"slides": found, "errors": [{"path": str(p), **f.to_dict()} for p, f in failures]})
    raise typer.Exit(1 if failures else 0)


def _preview(path: Path, places: OutputPlaces, mpp: float | None, settings: TilingSettings) -> dict[str, Any]:
    from histgen_lib.reports.pictures import sharp_overview
    from histgen_lib.slides import assess_quality, open_slide, plan_grid

    with open_slide(path, mpp=mpp) as slide:
        target = places.claim(slide.slide_id, path)
        grid = plan_grid(slide, settings)
        quality = assess_quality(slide, grid)
        _write_png(target, draw_preview(sharp_overview(slide), slide, grid))
        return _facts(path, slide, grid, quality, target)


def draw_preview(thumbnail: NDArray[np.uint8], slide: Slide, grid: TileGrid) -> NDArray[np.uint8]:
    """Scale the thumbnail to PREVIEW_PX, dim the glass and outline each tile: uint8[h, w, 3] RGB."""
    import cv2
    import numpy as np

    scale = PREVIEW_PX / max(slide.size)
    width, height = (max(1, round(side * scale)) for side in slide.size)
    picture = cv2.resize(thumbnail, (width, height), interpolation=cv2.INTER_AREA)
    mask_px = cv2.resize(grid.mask.astype(np.uint8), (width, height), interpolation=cv2.INTER_NEAREST)
    picture = np.where(mask_px[..., None] > 0, picture, 0.55 * picture + 90).astype(np.uint8)
    for x, y in grid.xy:
        corners = [(round(v * scale), round((v + grid.span_px) * scale)) for v in (int(x), int(y))]
        (x0, x1), (y0, y1) = corners
        cv2.rectangle(picture, (x0, y0), (x1 - 1, y1 - 1), (0, 120, 60), 2)
    return np.asarray(picture, dtype=np.uint8)


def _write_png(path: Path, rgb: NDArray[np.uint8]) -> None:
    from PIL import Image

    from histgen_lib.files import atomic_path

    with atomic_path(path) as temporary:
        Image.fromarray(rgb).save(temporary, "PNG")


def _facts(path: Path, slide: Slide, grid: TileGrid, quality: QualityReport, picture: Path) -> dict[str, Any]:
    return {
        "path": str(path),
        "slide_id": slide.slide_id,
        "size_px": list(slide.size),
        "levels": len(slide.levels),
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "file_mpp": slide.file_mpp,
        "scanner": slide.maker,
        "vendor": slide.vendor,
        "tiles": len(grid),
        "span_px": round(float(grid.span_px), 3),
        "quality": quality.to_dict(),
        "preview": str(picture),
    }


def _say(facts: dict[str, Any]) -> None:
    from histgen_lib.reports.notices import quality_sentence

    console = out()
    width, height = facts["size_px"]
    other = f"; the file says {facts['file_mpp']:.4g}" if facts["file_mpp"] else ""
    console.print(facts["slide_id"], style="bold")
    console.print(
        f"  {width} × {height} px, {facts['levels']} level(s), {facts['mpp']:.4g} µm/px "
        f"({facts['mpp_source']}{other}), {facts['scanner'] or facts['vendor']}",
        soft_wrap=True,
    )
    console.print(f"  {number_of(facts['tiles'], 'tile')} of {facts['span_px']:g} level-0 px", soft_wrap=True)
    for flag in facts["quality"]["flags"]:
        console.print(f"  {quality_sentence(flag)}", style="yellow", soft_wrap=True)
    console.print(f"  {facts['preview']}", style="dim", soft_wrap=True)
