"""Which scanner made a slide, from the properties that OpenSlide reports."""

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
