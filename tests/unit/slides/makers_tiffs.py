"""Small writers of TIFFs that OpenSlide takes for those of two makers: Philips and Ventana."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tiff_pyramid import halved, write_pyramid

_PHILIPS = (
    '<?xml version="1.0"?><DataObject ObjectType="DPUfsImport">{xml}<Attribute Name="PIM_DP_SCANNED_IMAGES">'
    '<Array><DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>'
    '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>{levels}</Array></Attribute>'
    "</DataObject></Array></Attribute></DataObject>"
)
_PHILIPS_LEVEL = (
    '<DataObject ObjectType="PixelDataRepresentation"><Attribute Name="DICOM_PIXEL_SPACING">'
    '"{mm}" "{mm}"</Attribute><Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_NUMBER">{number}</Attribute>'
    "</DataObject>"
)
_VENTANA = (
    '<EncodeInfo Ver="2"><SlideInfo/><SlideStitchInfo><ImageInfo AOIScanned="1" AOIIndex="0" Width="{side}"'
    ' Height="{side}" NumRows="{rows}" NumCols="{columns}" Pos-X="0" Pos-Y="0">{joints}</ImageInfo>'
    '</SlideStitchInfo><AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin></EncodeInfo>'
)
_JOINT = (
    '<TileJointInfo FlagJoined="1" Confidence="100" Direction="{way}" Tile1="{one}" Tile2="{other}"'
    ' OverlapX="{x}" OverlapY="{y}"/>'
)
_ISCAN = '<Metadata><iScan Magnification="40" ScanRes="{mpp}" UnitNumber="1" {attribute}/></Metadata>'


def write_philips(
    path: Path, levels: Sequence[NDArray[np.uint8]], *, mpp: float, tile_px: int, xml: str = ""
) -> Path:
    """Write a Philips TIFF, whose pages are padded to whole tiles. `xml`: inserted into its own XML."""
    level_xml = "".join(
        _PHILIPS_LEVEL.format(mm=mpp / 1000 * 2**number, number=number) for number in range(len(levels))
    )
    texts = [
        {305: "Philips DP v1.0", 270: _PHILIPS.format(levels=level_xml, xml=xml)},
        *({} for _ in levels[1:]),
    ]
    return write_pyramid(
        path, [_filled(level, tile_px) for level in levels], tile_px=tile_px, mpp=None, texts=texts
    )


def write_ventana(
    path: Path,
    image: NDArray[np.uint8],
    *,
    mpp: float,
    tile_px: int,
    overlap_px: int = 0,
    attribute: str = "",
) -> Path:
    """Write a Ventana BIF of one area, whose camera's pictures overlap by `overlap_px`.

    `attribute`: inserted into its XML.
    """
    step = tile_px - overlap_px
    rows, columns = (1 + (side - tile_px) // step for side in image.shape[:2])
    pictures = np.zeros((rows * tile_px, columns * tile_px, 3), np.uint8)
    for row in range(rows):
        for column in range(columns):
            seen = image[row * step :, column * step :][:tile_px, :tile_px]
            pictures[row * tile_px :, column * tile_px :][:tile_px, :tile_px] = seen
    xml = _VENTANA.format(side=tile_px, rows=rows, columns=columns, joints=_joints(rows, columns, overlap_px))
    texts = [
        {270: "Label Image", 700: _ISCAN.format(mpp=mpp, attribute=attribute)},
        {270: "level=0 mag=40 quality=95", 700: xml},
    ]
    return write_pyramid(path, [halved(image, 3), pictures], tile_px=tile_px, mpp=None, texts=texts)


def _joints(rows: int, columns: int, overlap_px: int) -> str:
    """Describe which pictures are neighbours; they are numbered from the bottom, in a zigzag."""

    def number(row: int, column: int) -> int:
        return row * columns + (column if row % 2 == 0 else columns - 1 - column) + 1

    beside = [
        _JOINT.format(way="RIGHT", one=number(r, c), other=number(r, c + 1), x=overlap_px, y=0)
        for r in range(rows)
        for c in range(columns - 1)
    ]
    above = [
        _JOINT.format(way="UP", one=number(r, c), other=number(r + 1, c), x=0, y=overlap_px)
        for r in range(rows - 1)
        for c in range(columns)
    ]
    return "".join([*beside, *above])


def _filled(image: NDArray[np.uint8], tile_px: int) -> NDArray[np.uint8]:
    height, width = (-(-side // tile_px) * tile_px for side in image.shape[:2])
    filled = np.full((height, width, 3), 255, np.uint8)
    filled[: image.shape[0], : image.shape[1]] = image
    return filled
