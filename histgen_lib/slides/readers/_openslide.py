"""The only module that talks to OpenSlide: opening, reading pixels, and translating its errors.

OpenSlide's object becomes unusable after its first read error and repeats that error on every later call. So
the slide is reopened after a read error: undamaged parts of it can still be read.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import openslide
from numpy.typing import NDArray

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides.metadata import MAGNIFICATION, SCANNER_PROPERTIES, SECOND_MPP, believable, ome_scale
from histgen_lib.slides.readers.refusals import crashes_openslide, refusal, unsupported
from histgen_lib.slides.settings import Level

_CACHE_BYTES = 128 << 20
"""Decoded file tiles kept, so that neighbouring reads do not decode the same JPEG twice."""

_READ_ERRORS = (openslide.OpenSlideError, OSError, ValueError, ctypes.ArgumentError)
"""`ArgumentError` is what reading from a closed slide raises."""

_DESCRIPTION = "tiff.ImageDescription"
_KEPT_PROPERTIES = (
    openslide.PROPERTY_NAME_VENDOR,
    openslide.PROPERTY_NAME_MPP_X,
    openslide.PROPERTY_NAME_MPP_Y,
    MAGNIFICATION,
    "dicom.SeriesInstanceUID",
    *(key for keys in SCANNER_PROPERTIES for key in keys),
)
"""All others are dropped at once: scanners write file names, users, barcodes and patients' names there."""


class OpenSlideImage:
    """The pixels and the few needed properties of one slide file. Reading is safe from several threads."""

    def __init__(self, path: Path) -> None:
        self._path, self._closed, self._lock = path, False, threading.Lock()
        self._handle = _open(path)
        written = self._handle.properties
        self._refuse_unsupported(path, written)
        self.properties = {key: written[key] for key in _KEPT_PROPERTIES if key in written}
        self._complete_scale(written.get(_DESCRIPTION, ""))
        self.vendor = self.properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown")
        sizes, factors = self._handle.level_dimensions, self._handle.level_downsamples
        self.levels = tuple(
            Level(tuple(size), float(by), number)
            for number, (size, by) in enumerate(zip(sizes, factors, strict=True))
        )

    def _refuse_unsupported(self, path: Path, written: Mapping[str, str]) -> None:
        """Close the slide and raise `slide-not-supported` if OpenSlide would misread it."""
        try:
            reason = unsupported(path, written.get(openslide.PROPERTY_NAME_VENDOR, ""), written)
        except OSError as error:
            reason = read_failed(path.name, error)
        if reason is not None:
            self._handle.close()
            raise reason

    def _complete_scale(self, description: str) -> None:
        """Use OME-XML's scale where the TIFF's own tags state no believable one; else keep both."""
        mpp_x, mpp_y = openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y
        ome = ome_scale(description, tuple(self._handle.dimensions))
        if ome and believable((self.properties.get(mpp_x), self.properties.get(mpp_y))) is None:
            self.properties |= dict(zip((mpp_x, mpp_y), ome, strict=True))
        elif ome and (second := believable(ome)):
            self.properties[SECOND_MPP] = repr(second)

    def read(self, x: int, y: int, level: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read `width` × `height` px of `level` whose corner is (x, y) in level-0 px → uint8[h,w,3] RGB.

        Parts that were not scanned, or lie outside the slide, are white.
        Raises `InvalidInputError("slide-read-failed")`.
        """
        handle = self._handle
        try:
            rgba = np.asarray(handle.read_region((x, y), level, (width, height)))
        except _READ_ERRORS as error:
            if self._reopened(handle):
                return self.read(x, y, level, width, height)
            raise read_failed(self._path.name, error) from error
        return _over_white(rgba)

    def close(self) -> None:
        """Release the file. Reading afterwards raises `InvalidInputError("slide-read-failed")`."""
        self._closed = True
        self._handle.close()

    def _reopened(self, failed: openslide.OpenSlide) -> bool:
        """Replace an object that became unusable. Return True if another read made it so."""
        with self._lock:
            if self._closed or self._handle is not failed:
                return not self._closed
            with suppress(InvalidInputError, OSError):  # the file is gone: the next read fails, too
                self._handle = _open(self._path)
        return False


def read_failed(name: str, error: Exception) -> InvalidInputError:
    """Return the error for pixels of the slide `name` that could not be read."""
    return InvalidInputError(
        "slide-read-failed",
        f"Pixels of {name} cannot be read{_of_the_system(error)}.",
        hint="The file is damaged, or it changed while it was being read. Copy it again and retry.",
    )


def _open(path: Path) -> openslide.OpenSlide:
    try:
        if (reason := crashes_openslide(path)) is not None:
            raise reason
        handle = openslide.OpenSlide(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise refusal(path, str(error)) from error
    handle.set_cache(openslide.OpenSlideCache(_CACHE_BYTES))
    return handle


def _of_the_system(error: Exception) -> str:
    """Return the system's text for its own errors only; what libraries say may quote from the file."""
    return f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""


def _over_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rgb = np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB))
    opaque = np.bitwise_and.reduce(rgba.view(np.uint32), axis=None) >> 24 == 255  # alpha is the highest byte
    if opaque:
        return rgb
    weight = rgba[..., 3:].astype(np.float32) / 255
    return np.rint(rgb * weight + 255 * (1 - weight)).astype(np.uint8)
