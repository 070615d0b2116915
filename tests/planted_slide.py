"""A slide with what must never leak: names of a patient and an operator, a label and a macro image.

All planted text contains PLANTED; label and macro have a colour that tissue never has.
"""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import tifffile
import tiny_model
from PIL import Image

PLANTED = "Xq7Mustermann"
"""In the slide's description, its tags and any other place for text."""

COLOUR = (255, 0, 255)
"""Of the label and the macro image."""

_TELLING = ("User", "Patient", "ScanScope ID", "Filename", "Title")
_DESCRIPTION = (
    "Aperio Image Library v12.0.0\r\n{side}x{side} [0,0 {side}x{side}] (256x256) |AppMag = 20|MPP = 0.5"
) + "".join(f"|{name} = {PLANTED}" for name in _TELLING)


def write_planted_slide(path: Path, *, seed: int = 0) -> Path:
    """Write an SVS-like file with label and macro images and the planted text in every text tag."""
    plain = tiny_model.write_slide(path.with_name(f".{path.stem}.tif"), seed=seed)
    picture = tifffile.imread(plain)
    plain.unlink()
    side = len(picture)
    flat = np.full((300, 400, 3), COLOUR, np.uint8)
    texts = [(315, "s", 0, PLANTED, True), (316, "s", 0, PLANTED, True), (269, "s", 0, PLANTED, True)]
    common = {"photometric": "rgb", "metadata": None, "software": False, "extratags": texts}
    with tifffile.TiffWriter(path) as writer:
        main = _DESCRIPTION.format(side=side)
        writer.write(picture, tile=(256, 256), compression="zlib", description=main, **common)
        writer.write(
            np.ascontiguousarray(picture[::4, ::4]), compression="zlib", description="Aperio", **common
        )
        for name, kind in (("label", 1), ("macro", 9)):
            about = f"Aperio Image Library v12.0.0\r\n{name} 400x300"
            writer.write(
                flat, compression="zlib", rowsperstrip=16, subfiletype=kind, description=about, **common
            )
    return path


def leaks(data: bytes) -> list[str]:
    """Return what has leaked into `data`: the planted text in some encoding, or its colour in a picture."""
    found = [name for name, needle in _needles().items() if needle in data]
    return found + [f"picture of {size}" for size in _planted_pictures(data)]


def _needles() -> dict[str, bytes]:
    forms = {
        "text": PLANTED.encode(),
        "utf-16": PLANTED.encode("utf-16-le"),
        "lower": PLANTED.lower().encode(),
    }
    for shift in range(3):  # base64 has three phases
        coded = base64.b64encode(b"\0" * shift + PLANTED.encode())
        forms[f"base64+{shift}"] = coded[4 if shift else 0 : -4]
    return forms


def _planted_pictures(data: bytes) -> list[tuple[int, int]]:
    embedded = [
        base64.b64decode(part) for part in re.findall(rb"data:image/[a-z]+;base64,([A-Za-z0-9+/=]+)", data)
    ]
    pictures = [_picture(part) for part in (data, *embedded)]
    return [picture.size for picture in pictures if picture is not None and _has_colour(picture)]


def _picture(data: bytes) -> Image.Image | None:
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except OSError:
        return None


def _has_colour(picture: Image.Image) -> bool:
    off = np.abs(np.asarray(picture, np.int16) - COLOUR).max(axis=2)
    return bool((off < 40).mean() > 0.001)
