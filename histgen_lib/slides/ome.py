"""The scale that OME-XML states in a TIFF's description, with its units."""

from __future__ import annotations

import html
import re

_PIXELS = re.compile(r"<(?:\w+:)?Pixels\b[^>]{0,4096}")
_ATTRIBUTE = re.compile(r"""\b(SizeX|SizeY|PhysicalSize[XY](?:Unit)?)\s*=\s*(["'])(.{0,64}?)\2""")
_UM_IN = {
    "m": 1e6,
    "dm": 1e5,
    "cm": 1e4,
    "mm": 1e3,
    "µm": 1.0,
    "um": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "nm": 1e-3,
    "pm": 1e-6,
    "Å": 1e-4,
    "in": 25_400.0,
}
"""Units of length of the OME schema (2016-06) in which pixels are stated."""

_MOST_CHARS = 4 << 20


def ome_scale(description: str, size: tuple[int, int]) -> tuple[str, str] | None:
    """Return the x and y scale, in µm as text, of the image of `size` px (of the first one, if none has it).

    None for a description that is no OME-XML, or states no size in a unit of length.
    """
    if "<OME" not in description[:4096] and ":OME" not in description[:4096]:
        return None
    images = [
        {name: html.unescape(value) for name, _, value in _ATTRIBUTE.findall(found[0])}
        for found in _PIXELS.finditer(description[:_MOST_CHARS])
    ]
    wanted = (str(size[0]), str(size[1]))
    same = [image for image in images if (image.get("SizeX"), image.get("SizeY")) == wanted]
    for image in same or images[:1]:
        x, y = _um(image, "X"), _um(image, "Y")
        if x is not None or y is not None:
            return repr(x if x is not None else y), repr(y if y is not None else x)
    return None


def _um(image: dict[str, str], axis: str) -> float | None:
    """Return a pixel's side in µm. A µ that was written in another encoding than UTF-8 is still one."""
    unit = image.get(f"PhysicalSize{axis}Unit", "µm").strip().replace("μ", "µ").replace("Â", "")
    factor = _UM_IN.get(unit.replace("\ufffd", "µ"))
    try:
        return None if factor is None else float(image[f"PhysicalSize{axis}"]) * factor
    except (KeyError, ValueError):
        return None
