"""What slide files say about themselves: which scanner made them, and the scale that OME-XML states.

What a slide says of its scanner is free text and often holds a serial number: it is used to look up the
scanner's default scale, and goes no further. Drafts and objects carry the maker only, which is one of a list.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

MAGNIFICATION = "aperio.AppMag"
SECOND_MPP = "histgen.second-mpp"
"""The property under which a reader keeps a scale that the file states besides the one that is used."""

SCANNER_PROPERTIES = (
    ("aperio.ScanScope ID",),
    ("hamamatsu.Product", "hamamatsu.NDP.S/N"),
    ("leica.device-model",),
    ("mirax.GENERAL.SCANNER_HARDWARE_ID",),
    ("philips.DICOM_MANUFACTURER", "philips.DICOM_MANUFACTURERS_MODEL_NAME"),
    ("ventana.ScannerModel",),
    ("dicom.Manufacturer", "dicom.ManufacturerModelName"),
    ("tiff.Make", "tiff.Model"),
)
"""Where each maker writes its device (OpenSlide's names); the parts found are joined by a space."""

_MAKERS = {
    "3dhistech": "3DHISTECH",
    "aperio": "Aperio",
    "epredia": "Epredia",
    "evident": "Evident",
    "grundium": "Grundium",
    "hamamatsu": "Hamamatsu",
    "huron": "Huron",
    "kfbio": "KFBIO",
    "leica": "Leica",
    "mirax": "3DHISTECH",
    "motic": "Motic",
    "olympus": "Olympus",
    "philips": "Philips",
    "pramana": "Pramana",
    "roche": "Roche",
    "sakura": "Sakura",
    "trestle": "Trestle",
    "ventana": "Ventana",
    "zeiss": "Zeiss",
}
"""Makers, by a word in their name or in OpenSlide's name of their format."""

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


def scanner_of(properties: Mapping[str, str]) -> str | None:
    """Return the scanner's name as written in the slide, or None where none is written."""
    for keys in SCANNER_PROPERTIES:
        parts = [properties[key].strip() for key in keys if properties.get(key, "").strip()]
        if parts:
            return " ".join(parts)
    return None


def maker_of(vendor: str, properties: Mapping[str, str]) -> str | None:
    """Return who made the scanner, from a list: by the format (`vendor`), else by what the file says."""
    names = " ".join((vendor, scanner_of(properties) or "")).casefold()
    return next((maker for word, maker in _MAKERS.items() if word in names), None)


def ome_scale(description: str, size: tuple[int, int]) -> tuple[str, str] | None:
    """Return the x and y scale, in µm as text, of the image of `size` px (else of the first).

    `description`: a TIFF's. None if it is not OME-XML, or states no size in a unit of length.
    """
    if "<OME" not in description[:4096] and ":OME" not in description[:4096]:
        return None
    images = [
        {name: html.unescape(value) for name, _, value in _ATTRIBUTE.findall(found[0])}
        for found in _PIXELS.finditer(description[:_MOST_CHARS])
    ]
    sides = (str(size[0]), str(size[1]))
    same = [image for image in images if (image.get("SizeX"), image.get("SizeY")) == sides]
    for image in same or images[:1]:
        x, y = _um(image, "X"), _um(image, "Y")
        if x is not None or y is not None:
            return repr(x if x is not None else y), repr(y if y is not None else x)
    return None


def _um(image: dict[str, str], axis: str) -> float | None:
    """Return a pixel's side in µm. A µ that was saved in an encoding other than UTF-8 is recognised."""
    unit = image.get(f"PhysicalSize{axis}Unit", "µm").strip().replace("μ", "µ").replace("Â", "")
    factor = _UM_IN.get(unit.replace("\ufffd", "µ"))
    try:
        return None if factor is None else float(image[f"PhysicalSize{axis}"]) * factor
    except (KeyError, ValueError):
        return None
