"""What a slide's files say of its scanner and its scale, and which scale is believed.

A wrong scale gives a wrong report, so none is guessed. What a slide says of its scanner is free text and
often holds a serial number: it is used to look up the scanner's default scale, and goes no further. Drafts
and objects carry the maker only, which is one of a list.
"""

from __future__ import annotations

import errno
import html
import json
import math
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from histgen_lib.errors import InvalidInputError
from histgen_lib.files import decode_text, each_name_once
from histgen_lib.opening import check_ordinary, open_ordinary
from histgen_lib.slides.formats import sidecars_of
from histgen_lib.slides.source import Bounds

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


MppSource = Literal["stated", "sidecar", "file", "scanner-default"]

LEAST_MPP, MOST_MPP = 0.1, 5.0
"""Slides are scanned between 0.1 and 4 µm per pixel; a 72-dpi print tag would mean 352.78, and 0.05 is a
typing error for 0.5."""

MOST_ANISOTROPY = 0.05
"""Largest relative difference between the x and y scale at which a file is believed."""

_MOST_SIDECAR_BYTES = 64 << 10
_NO_SIDECAR = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""The last: a slide whose name leaves no room for the suffix cannot have a sidecar."""
MOST_CONTRADICTION = 0.2
"""Largest relative difference of a stated scale from the file's own that is not flagged."""

_MPP_AT_1X = 10.0
_MOST_BESIDE_MAGNIFICATION = 1.5
"""A 40× scan has about 0.25 µm/px, depending on what the maker calls 40×; twice as much is another scan."""


def decide_mpp(
    path: Path,
    *,
    stated: float | None,
    in_file: tuple[str | None, str | None],
    scanner_names: tuple[str, ...],
    scanner_mpp: Mapping[str, float],
    within: Bounds | None = None,
) -> tuple[float, MppSource]:
    """Return the level-0 scale in µm/px and where it was taken from.

    In order of precedence: `stated` by the caller, a sidecar file, the slide file itself (`in_file`: its x
    and y scale as written) if plausible, a default of the scanner or vendor (names compared without case).
    Raises `InvalidInputError`: `slide-mpp-unknown` when nothing is believable, `slide-not-square` when the
    file's pixels are not square, `slide-mpp-implausible` when the caller or a default states a value outside
    0.1…5, `slide-sidecar-invalid`. `within`: see `read_sidecar`.
    """
    if stated is not None:
        return _checked(stated, "The stated mpp"), "stated"
    beside = read_sidecar(path, within)
    if beside is not None:
        return beside, "sidecar"
    written = believable(in_file)
    if written is not None:
        return written, "file"
    if _not_square(in_file):
        raise _oblong(path, in_file)
    defaults = {name.casefold(): value for name, value in scanner_mpp.items()}
    for name in scanner_names:
        if name.casefold() in defaults:
            return _checked(defaults[name.casefold()], "The default mpp of this scanner"), "scanner-default"
    raise _unknown(path, in_file)


def believable(in_file: tuple[str | None, str | None]) -> float | None:
    """Return the mean of a file's x and y scale if both are plausible and agree, else None."""
    x, y = (_number(text) for text in in_file)
    if x is None or y is None or not (is_plausible(x) and is_plausible(y)):
        return None
    return (x + y) / 2 if abs(x - y) <= MOST_ANISOTROPY * max(x, y) else None


def is_plausible(mpp: float) -> bool:
    """Return whether a slide scanner can have made pixels of this size (µm)."""
    return LEAST_MPP <= round(mpp, 3) <= MOST_MPP


def written_mpp(in_file: tuple[str | None, str | None]) -> float | None:
    """Return the mean of a file's x and y scale, believable or not; None if it states none."""
    x, y = (_number(text) for text in in_file)
    return None if x is None or y is None or x <= 0 or y <= 0 else (x + y) / 2


def scale_flags(mpp: float, in_file: tuple[str | None, str | None]) -> tuple[str, ...]:
    """Return the flags of a slide that is read at scale `mpp`: see `histgen_lib.slides.quality`.

    A scale in the file that no scanner can have written does not count as a contradiction.
    """
    written = [value for value in map(_number, in_file) if value is not None and is_plausible(value)]
    raised = (
        ("scale-contradicted", any(abs(mpp / value - 1) > MOST_CONTRADICTION for value in written)),
        ("pixels-not-square", _not_square(in_file)),
    )
    return tuple(flag for flag, holds in raised if holds)


def doubted(mpp: float, properties: Mapping[str, str]) -> bool:
    """Return whether the file contradicts its own scale, by a second one or by its magnification."""
    second, times = (_number(properties.get(key)) for key in (SECOND_MPP, MAGNIFICATION))
    by_magnification = mpp * times / _MPP_AT_1X if times is not None and times > 0 else 1.0
    return (second is not None and abs(mpp / second - 1) > MOST_CONTRADICTION) or not (
        1 / _MOST_BESIDE_MAGNIFICATION <= by_magnification <= _MOST_BESIDE_MAGNIFICATION
    )


def _not_square(in_file: tuple[str | None, str | None]) -> bool:
    """Return whether both sides of a file's pixels are plausible, but differ."""
    x, y = (_number(text) for text in in_file)
    plausible = x is not None and y is not None and is_plausible(x) and is_plausible(y)
    return plausible and believable(in_file) is None


def read_sidecar(path: Path, within: Bounds | None = None) -> float | None:
    """Read `mpp` from `<slide>.json` beside the slide: `a.svs.json` first, then `a.json`; None without one.

    `within`: where it has to lie, links followed; None: anywhere. Raises
    `InvalidInputError("slide-sidecar-invalid")` if it cannot be read, is not a regular file, lies elsewhere,
    is not JSON, or states an implausible mpp: someone put it there to state a scale, and to ignore it could
    mean a report at another scale.
    """
    for sidecar in dict.fromkeys(sidecars_of(path)):
        if sidecar != path and (data := _bytes_of(sidecar, within)) is not None:
            value = _load(sidecar, data)
            if isinstance(value, dict) and "mpp" in value:
                return _sidecar_mpp(sidecar, value["mpp"])
    return None


def _bytes_of(sidecar: Path, within: Bounds | None) -> bytes | None:
    """Read a sidecar; None if there is none, if it is a folder, or if its folder may not be searched."""
    try:
        if within is not None and sidecar.is_symlink():
            within.require_part(sidecar)  # the same answer, whatever lies there
        if not check_ordinary(sidecar):
            return None
        with open_ordinary(sidecar, within.judge if within is not None else None) as file:
            data = file.read(_MOST_SIDECAR_BYTES + 1)
    except InvalidInputError as error:
        raise _bad_sidecar(sidecar, "it lies outside HISTGEN_ROOTS") from error
    except OSError as error:
        if error.errno in _NO_SIDECAR or not os.access(sidecar.parent, os.X_OK):
            return None
        raise _bad_sidecar(sidecar, error.strerror or type(error).__name__) from error
    if len(data) > _MOST_SIDECAR_BYTES:
        raise _bad_sidecar(sidecar, f"it is longer than {_MOST_SIDECAR_BYTES >> 10} KiB")
    return data


def _load(sidecar: Path, data: bytes) -> Any:
    try:
        return json.loads(decode_text(data), object_pairs_hook=each_name_once)
    except (ValueError, RecursionError) as error:
        raise _bad_sidecar(sidecar, "it is not readable JSON, or states something twice") from error


def _sidecar_mpp(sidecar: Path, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not is_plausible(value):
        raise _bad_sidecar(sidecar, "its mpp is not a believable number")
    return float(value)


def _bad_sidecar(sidecar: Path, why: str) -> InvalidInputError:
    return InvalidInputError(
        "slide-sidecar-invalid",
        f"The sidecar {sidecar.name} cannot be used: {why}.",
        hint=f'Write {{"mpp": 0.25}} with a value of {LEAST_MPP}…{MOST_MPP} µm per pixel, or remove it.',
    )


def _checked(mpp: float, what: str) -> float:
    if not is_plausible(mpp):
        raise InvalidInputError(
            "slide-mpp-implausible",
            f"{what} is {mpp:g} µm per pixel, outside {LEAST_MPP}…{MOST_MPP}.",
            hint="State the size of a level-0 pixel in µm: about 0.25 for a 40× scan, 0.5 for a 20× scan.",
        )
    return float(mpp)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _oblong(path: Path, in_file: tuple[str | None, str | None]) -> InvalidInputError:
    return InvalidInputError(
        "slide-not-square",
        f"{path.name} states that its pixels are {in_file[0]} × {in_file[1]} µm: they are not square.",
        hint="Resample the slide to square pixels, for example with `vips resize`; if the file is wrong, "
        "state the scale with --mpp.",
    )


def _unknown(path: Path, in_file: tuple[str | None, str | None]) -> InvalidInputError:
    x, y = (_number(text) for text in in_file)
    if x is None or y is None:
        why = f"{path.name} does not say how large its pixels are"
    else:
        both = f"{x:.2f}" if f"{x:.2f}" == f"{y:.2f}" else f"{x:.2f} × {y:.2f}"
        why = f"{path.name} states that its pixels are {both} µm, which cannot be true"
    return InvalidInputError(
        "slide-mpp-unknown",
        f"{why}.",
        hint=f"Pass --mpp (0.25 for a 40× scan, 0.5 for 20×), put a sidecar {path.name}.json "
        f'with {{"mpp": 0.25}} beside the slide, or set a per-scanner default.',
    )
