"""Why a file cannot be read as a slide: its first bytes and its tags, turned into a code and a remedy.

| code | for |
|---|---|
| `slide-format-unknown` | what is not a slide: a web page, an archive, a photograph, a CT |
| `slide-not-supported` | an intact slide of a kind that no reader here reads |
| `slide-incomplete` | a slide whose other files are not beside it |
| `slide-damaged` | a slide that was truncated or changed: only this one is worth copying again |

Used only after OpenSlide refused a file, and for plain TIFFs, which OpenSlide opens without checking their
pixels. What OpenSlide says serves as a clue; it is not passed on, because it may quote from the file.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from histgen_lib.errors import InvalidInputError
from histgen_lib.slides import formats
from histgen_lib.slides.headers.jpeg import FRAMES, segments
from histgen_lib.slides.headers.tiff import TIFF_STARTS, Tags, directories, is_big_endian, is_truncated_tiff

_HEAD_BYTES = 4096
_MOST_PAGES = 64
_TIFF_HEAD_BYTES = 8

_CONVERT = "Convert it, for example: vips tiffsave IN OUT.tif --tile --pyramid --compression jpeg"
_TO_RGB = (
    "Convert it to 8-bit RGB, for example: vips colourspace IN OUT.tif[tile,pyramid,compression=jpeg] srgb"
)
_BIO_FORMATS = "Convert it, for example: bfconvert -tilex 512 -tiley 512 -compression JPEG IN OUT.ome.tif"
_EXPORT = "Export it from the scanner's software as pyramidal TIFF or as DICOM."
_AS_SCANNED = "Give the slide as the scanner wrote it (SVS, NDPI, MRXS, SCN, TIFF, DICOM, …)."

_ONE_PLANE = "Export one focal plane of it, or a projection of all, as a single pyramid."
_GREY = "Reports are drafted from stained slides in colour; give the colour scan."
_CZI = f"Export it from ZEN as one scene in one focal plane, in 8-bit RGB, uncompressed. Or: {_BIO_FORMATS}"
_WHOLE_SERIES = "Copy all files of the series into the same folder."

_WIDTH, _HEIGHT, _TILE_WIDTH = 256, 257, 322
_SHOWN_WIDTH = "openslide.level[0].width"
_CZI_PLANES = "zeiss.Information.Image.SizeZ"
_UNCOMPRESSED = ".vmu"
_INDEXED = (formats.MIRAX_SUFFIX, *formats.HAMAMATSU_SUFFIXES)
_NOT_OF_TEXT = frozenset(range(32)) - frozenset(b"\t\n\v\f\r\x1b")

_NO_SLIDES: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive", "Unpack it and give the slide inside."),
    (b"\x1f\x8b", "a gzip archive", "Unpack it and give the slide inside."),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "Unpack it and give the slide inside."),
    (b"Rar!", "a RAR archive", "Unpack it and give the slide inside."),
    (b"\x89PNG", "a PNG picture", _AS_SCANNED),
    (b"\xff\xd8\xff", "a JPEG picture", _AS_SCANNED),
    (b"GIF8", "a GIF picture", _AS_SCANNED),
    (b"BM", "a BMP picture", _AS_SCANNED),
    (b"RIFF", "a WebP picture or a film", _AS_SCANNED),
    (b"%PDF", "a PDF document", _AS_SCANNED),
)
"""First bytes of what is given a slide's name by mistake."""

_FOREIGN_SUFFIXES = {
    ".isyntax": "Philips iSyntax",
    ".i2syntax": "Philips iSyntax",
    ".vsi": "Olympus or Evident VSI",
    ".ets": "Olympus or Evident VSI",
    ".kfb": "KFBIO KFB",
    ".sdpc": "SQRAY SDPC",
    ".tmap": "TMAP",
    ".mds": "Motic MDS",
    ".lif": "Leica LIF",
    ".nd2": "Nikon ND2",
    ".jp2": "JPEG 2000",
    ".jxl": "JPEG XL",
}
"""Formats of slides that OpenSlide does not read, by suffix."""

_JPEG = 7
_READ_COMPRESSIONS = frozenset({1, 5, _JPEG, 8, 32773, 32946, 33003, 33005})
_COMPRESSIONS = {
    6: "old-style JPEG",
    34712: "JPEG 2000",
    22610: "JPEG XR",
    34933: "PNG",
    34934: "JPEG XR",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_READ_FRAMES = (0xC0, 0xC1, 0xC2)
"""Kinds of JPEG frame (T.81, table B.1) that are decoded; the others are lossless or arithmetic-coded."""
_FLOAT = 3

_DICOM_HEAD_BYTES, _DICOM_BODY_BYTES = 256 << 10, 64 << 20
_PER_FRAME = b"\x00\x52\x30\x92"
"""The tag under which each tile's place stands (5200,9230: PS3.3, C.7.6.16)."""
_DICOM_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "a CT image",
    "1.2.840.10008.5.1.4.1.1.4": "an MR image",
    "1.2.840.10008.5.1.4.1.1.7": "a secondary capture",
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.104.1": "a PDF document",
    "1.2.840.10008.1.3.10": "a directory of other files",
}
_DICOM_SYNTAXES = {
    "1.2.840.10008.1.2": ("with implicit VR", "dcmconv +te IN OUT"),
    "1.2.840.10008.1.2.2": ("in big-endian order", "dcmconv +te IN OUT"),
    "1.2.840.10008.1.2.1.99": ("deflated as a whole", "dcmconv +te IN OUT"),
}
"""Ways of writing a DICOM file (transfer syntaxes, PS3.5) that OpenSlide does not read, with remedies."""

_READ_SYNTAXES = frozenset(
    f"1.2.840.10008.1.2{end}" for end in (".1", ".4.50", ".4.90", ".4.91")
)  # explicit VR, JPEG, JPEG 2000


def refusal(path: Path, message: str) -> InvalidInputError:
    """Return the error for a file that OpenSlide refused with `message`."""
    try:
        return _judged(path, message.replace(str(path.parent), ""))
    except OSError as error:
        return InvalidInputError(
            "slide-unreadable",
            f"{path.name} cannot be read: {error.strerror or type(error).__name__}.",
            hint="Check that this account may read the file and that its disk or network share is there.",
        )


def _judged(path: Path, message: str) -> InvalidInputError:
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    for kind in (_of_parts, _of_dicom, _of_foreign, _of_tiff, _of_czi, _of_no_slide):
        if (found := kind(path, head, message)) is not None:
            return found
    if _is_unsupported(message):
        return _unknown(path, "not a slide in a known format", _AS_SCANNED)
    return _damaged(path)


def unsupported(path: Path, vendor: str, written: Mapping[str, str]) -> InvalidInputError | None:
    """Return why a slide that OpenSlide opens, with the properties `written`, cannot be used; None if it can.

    Raises OSError.
    """
    if vendor == "zeiss" and written.get(_CZI_PLANES, "1") != "1":
        return _not_supported(path, "a CZI of several focal planes", _CZI)
    if vendor != "generic-tiff":
        return None
    if path.suffix.lower() in _FOREIGN_SUFFIXES:
        return _foreign(path)
    pages = directories(path, _MOST_PAGES)
    tiled = [page for page in pages if _TILE_WIDTH in page]
    if not tiled:
        return None
    largest = max(tiled, key=lambda page: page.get(_WIDTH, 0))
    if largest.get(_WIDTH, 0) > int(written.get(_SHOWN_WIDTH, largest.get(_WIDTH, 0))):
        return _not_supported(
            path,
            "a TIFF whose first page is smaller than a later one (a label, or an overview)",
            f"{_CONVERT} (IN[page={pages.index(largest)}] for the largest page)",
        )
    return _of_pixels(path, largest) or (of_planes(path) if _planes(tiled, largest) > 1 else None)


def _planes(pages: Sequence[Tags], largest: Tags) -> int:
    """Count the pages of the full size that are not marked as reduced copies (NewSubfileType, bit 0)."""
    size = (largest.get(_WIDTH), largest.get(_HEIGHT))
    return sum((page.get(_WIDTH), page.get(_HEIGHT)) == size and not page.get(254, 0) & 1 for page in pages)


def of_planes(path: Path) -> InvalidInputError:
    """Return the error for a slide with several pictures of its full size: which is in focus is unknown."""
    return _not_supported(path, "a stack of several focal planes or channels", _ONE_PLANE)


def crashes_openslide(path: Path) -> InvalidInputError | None:
    """Return why OpenSlide must not open a file because it would crash; None for all other files.

    It crashes on sparse DICOM images without the places of their tiles, and on VMU slides whose pictures are
    of another kind. Raises OSError.
    """
    if path.suffix.lower() == _UNCOMPRESSED:
        pictures = [part for part in formats.named_parts(path) if part.is_file()]
        return None if all(map(_is_ngr, pictures)) else _damaged(path)
    with path.open("rb") as file:
        if not formats.starts_as_dicom(file):
            return None
        head = file.read(_DICOM_HEAD_BYTES)
        if b"TILED_SPARSE" not in head or _PER_FRAME in head + file.read(_DICOM_BODY_BYTES):
            return None
    return _damaged(path)


def _is_ngr(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"GN"


def _of_parts(path: Path, head: bytes, message: str) -> InvalidInputError | None:
    suffix = path.suffix.lower()
    if suffix == formats.MIRAX_SUFFIX and not path.with_suffix("").is_dir():
        return _incomplete(
            path,
            f"the folder {path.stem} is not beside it",
            f"Copy the folder {path.stem}, which holds the pixels, to where {path.name} is.",
        )
    parts = formats.named_parts(path)
    missing = [part for part in parts if not part.is_file()]
    if missing:
        where = f"in the folder {path.stem}" if suffix == formats.MIRAX_SUFFIX else "beside it"
        return _incomplete(
            path,
            f"{len(missing)} of its {len(parts)} other files are not {where}",
            "Copy all files of the slide, the folder included, to the same place.",
        )
    if suffix in formats.HAMAMATSU_SUFFIXES and not parts:
        return _unknown(path, "not the list of files that its suffix promises", _AS_SCANNED)
    return None


def _of_dicom(path: Path, head: bytes, message: str) -> InvalidInputError | None:
    if head[128:132] != formats.DICOM_MAGIC:
        return None
    kind, syntax = _uid(head, b"\x02\x00\x02\x00UI"), _uid(head, b"\x02\x00\x10\x00UI")
    if kind and kind != formats.WSI_STORAGE_UID.decode():
        what = _DICOM_CLASSES.get(kind, f"an object of the class {kind}")
        return _unknown(
            path,
            f"DICOM, but {what}, not a whole-slide image",
            "Give the files of the slide's volume images.",
        )
    if syntax and syntax not in _READ_SYNTAXES:
        how, cure = _DICOM_SYNTAXES.get(syntax, (f"compressed as {syntax}", "gdcmconv --jpeg IN OUT"))
        return _not_supported(
            path, f"a DICOM slide written {how}", f"Convert each of its files, for example: {cure}"
        )
    for clue, answer in _DICOM_CLUES:
        if re.search(clue, message):
            return answer(path)
    return _damaged(path)


def _of_foreign(path: Path, head: bytes, message: str) -> InvalidInputError | None:
    return _foreign(path) if path.suffix.lower() in _FOREIGN_SUFFIXES else None


def _of_tiff(path: Path, head: bytes, message: str) -> InvalidInputError | None:
    if not head.startswith(TIFF_STARTS) or len(head) < _TIFF_HEAD_BYTES:
        return None
    pages = directories(path, _MOST_PAGES)
    largest = max(pages, key=lambda page: page.get(_WIDTH, 0) * page.get(_HEIGHT, 0), default={})
    if is_truncated_tiff(path) or not largest.get(_WIDTH):
        return _damaged(path)
    return _of_pixels(path, largest) or _first_that_holds(
        path,
        (_TILE_WIDTH not in largest, "a TIFF in strips, not in tiles", _CONVERT),
        (is_big_endian(path), "a TIFF in big-endian order", _CONVERT),
        (_is_unsupported(message), "a TIFF of a kind that OpenSlide does not read", _CONVERT),
    )


def _of_pixels(path: Path, page: Tags) -> InvalidInputError | None:
    """Judge the pixels of a TIFF page by its tags, and by the head of its first JPEG tile."""
    bits, compression, depth = page.get(258, 1), page.get(259, 1), page.get(32997, 1)
    is_grey = page.get(277, 1) < 3 and page.get(262) in (0, 1)
    is_odd_jpeg = compression == _JPEG and not _is_read_jpeg(path, page.get(324) or page.get(273) or 0)
    way = f"{_COMPRESSIONS.get(compression, 'a rare way')} (code {compression})"
    return _first_that_holds(
        path,
        (compression not in _READ_COMPRESSIONS, f"a TIFF compressed by {way}", _BIO_FORMATS),
        (depth > 1, f"a TIFF of {depth} planes", _ONE_PLANE),
        (page.get(339, 1) == _FLOAT, f"a TIFF of floating-point numbers ({bits} bits)", _TO_RGB),
        (bits != 8, f"a TIFF of {bits} bits a sample, not 8", _TO_RGB),
        (is_grey, "a TIFF of grey values, without colours", _GREY),
        (is_odd_jpeg, "a TIFF of 12-bit, lossless or arithmetic-coded JPEG", _BIO_FORMATS),
    )


def _first_that_holds(path: Path, *kinds: tuple[bool, str, str]) -> InvalidInputError | None:
    return next((_not_supported(path, what, cure) for holds, what, cure in kinds if holds), None)


def _is_unsupported(message: str) -> bool:
    return "nsupported" in message or "not supported" in message


def _is_read_jpeg(path: Path, place: int) -> bool:
    """Return whether the JPEG stream at `place` is of a supported kind; True for what is not a JPEG."""
    with path.open("rb") as file:
        file.seek(min(place, path.stat().st_size))
        found = segments(file.read(_HEAD_BYTES))
    frames = ((marker, body) for marker, body in found if marker in FRAMES and body)
    return next((body[0] == 8 and marker in _READ_FRAMES for marker, body in frames), True)


def _of_czi(path: Path, head: bytes, message: str) -> InvalidInputError | None:
    if not head.startswith(b"ZISRAWFILE"):
        return None
    directory = int.from_bytes(head[84:92], "little")
    if directory >= path.stat().st_size:
        return _damaged(path)
    return _not_supported(path, "a CZI of a kind that OpenSlide does not read", _CZI)


def _of_no_slide(path: Path, head: bytes, message: str) -> InvalidInputError | None:
    for start, what, cure in _NO_SLIDES:
        if head.startswith(start):
            return _unknown(path, f"{what}, not a slide", cure)
    if not head.strip(b"\0"):
        return _unknown(
            path,
            "not a slide: it begins with zeros only",
            "If the copy did not finish, copy it again.",
        )
    if re.search(rb"<(!doctype )?html\b", head[:1024].lower()):
        return _unknown(
            path, "a web page, not a slide", "Open it to see what went wrong, then download again."
        )
    if path.suffix.lower() not in _INDEXED and not set(head) & _NOT_OF_TEXT:
        return _unknown(path, "a text file, not a slide", _AS_SCANNED)
    return None


def _foreign(path: Path) -> InvalidInputError:
    named = _FOREIGN_SUFFIXES[path.suffix.lower()]
    return _not_supported(path, f"a slide in the format {named}", f"{_EXPORT} {_BIO_FORMATS}")


def _of_kind(what: str, cure: str) -> Callable[[Path], InvalidInputError]:
    return lambda path: _not_supported(path, what, cure)


def _lacks(what: str, cure: str) -> Callable[[Path], InvalidInputError]:
    return lambda path: _incomplete(path, what, cure)


_DICOM_CLUES: tuple[tuple[str, Callable[[Path], InvalidInputError]], ...] = (
    (
        "concatenation",
        _lacks("parts of the same image are missing", _WHOLE_SERIES),
    ),
    (
        "No pyramid levels",
        _lacks(
            "there is a label, an overview or a thumbnail, but no image of the tissue",
            _WHOLE_SERIES,
        ),
    ),
    ("TotalPixelMatrixFocalPlanes", _of_kind("a DICOM slide of several focal planes", _ONE_PLANE)),
    ("SamplesPerPixel", _of_kind("a DICOM slide without colours", _GREY)),
    (
        "BitsAllocated|BitsStored|HighBit|PixelRepresentation",
        _of_kind("a DICOM slide of more than 8 bits a sample", _EXPORT),
    ),
    (
        r"Attribute \w+ value|nsupported",
        _of_kind("a DICOM slide of a kind that OpenSlide does not read", _EXPORT),
    ),
)
"""What OpenSlide says about DICOM slides that are not damaged."""


def _uid(head: bytes, element: bytes) -> str | None:
    """Return a UID from a DICOM file's meta information, which has explicit VR whatever the rest has.

    Other text in its place is not passed on.
    """
    start = head.find(element, 132)
    if start < 0:
        return None
    length = int.from_bytes(head[start + 6 : start + 8], "little")
    written = head[start + 8 : start + 8 + length].rstrip(b"\0 ")
    return written.decode("ascii") if re.fullmatch(rb"[0-9.]{1,64}", written) else "unknown"


def _unknown(path: Path, what: str, cure: str) -> InvalidInputError:
    return InvalidInputError("slide-format-unknown", f"{path.name} is {what}.", hint=cure)


def _not_supported(path: Path, what: str, cure: str) -> InvalidInputError:
    return InvalidInputError(
        "slide-not-supported", f"{path.name} is {what}, which is not supported.", hint=cure
    )


def _incomplete(path: Path, why: str, cure: str) -> InvalidInputError:
    return InvalidInputError("slide-incomplete", f"{path.name} is not the whole slide: {why}.", hint=cure)


def _damaged(path: Path) -> InvalidInputError:
    return InvalidInputError(
        "slide-damaged",
        f"{path.name} looks like a slide, but is truncated or damaged.",
        hint=f"Copy it again from the scanner. If that does not help, {_EXPORT[0].lower()}{_EXPORT[1:]}",
    )
