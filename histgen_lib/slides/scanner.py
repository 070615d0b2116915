"""Which scanner made a slide, from the properties that OpenSlide reports.

What a slide says of its scanner is free text and often a serial number: it serves to find the scanner's
default scale, and goes no further. Drafts and objects carry the maker, one of a list.
"""

from __future__ import annotations

from collections.abc import Mapping

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
"""Where each maker writes its device; the parts found are joined by a space."""


def scanner_of(properties: Mapping[str, str]) -> str | None:
    """Return the scanner's name as written in the slide, or None where none is written."""
    for keys in SCANNER_PROPERTIES:
        parts = [properties[key].strip() for key in keys if properties.get(key, "").strip()]
        if parts:
            return " ".join(parts)
    return None


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
"""Makers by a word of their name, or of OpenSlide's name of their format."""


def maker_of(vendor: str, properties: Mapping[str, str]) -> str | None:
    """Return who made the scanner, one of this list: by the format (`vendor`), else as the file says."""
    said = " ".join((vendor, scanner_of(properties) or "")).casefold()
    return next((maker for word, maker in _MAKERS.items() if word in said), None)
