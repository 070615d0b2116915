"""Files that are passed as slides but cannot be read as such, with the answer that each must get."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import tifffile
from dicom_series import write_series
from PIL import Image
from stained_picture import stained
from tiff_pyramid import halved

Maker = Callable[[Path], Path]
RGB = stained(512, 512)
UNKNOWN, UNSUPPORTED, INCOMPLETE, DAMAGED = (
    "slide-format-unknown",
    "slide-not-supported",
    "slide-incomplete",
    "slide-damaged",
)


def tiff(pixels: np.ndarray = RGB, *, name: str = "a.tif", **how: object) -> Maker:
    """Make a plain TIFF as tifffile writes it; `tile=None`: in strips."""

    def make(folder: Path) -> Path:
        tifffile.imwrite(folder / name, pixels, **{"photometric": "rgb", "tile": (256, 256), **how})
        return folder / name

    return make


def retagged(tag: int, old: int, new: int, **how: object) -> Maker:
    """Make a TIFF with a false value in one of its tags (a SHORT)."""

    def make(folder: Path) -> Path:
        path = tiff(**how)(folder)
        before, after = (struct.pack("<HHIH", tag, 3, 1, value) for value in (old, new))
        data = path.read_bytes()
        assert before in data
        path.write_bytes(data.replace(before, after))
        return path

    return make


def of_bytes(name: str, data: bytes) -> Maker:
    """Make a file of these bytes."""

    def make(folder: Path) -> Path:
        (folder / name).write_bytes(data)
        return folder / name

    return make


def picture(name: str, kind: str) -> Maker:
    """Make a picture with a slide's name."""

    def make(folder: Path) -> Path:
        Image.fromarray(RGB).save(folder / name, kind)
        return folder / name

    return make


def in_a_circle(folder: Path) -> Path:
    """Make a TIFF whose directory links to itself."""
    path = tiff(compression="zlib", tile=None, metadata=None)(folder)
    data = bytearray(path.read_bytes())
    (place,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, place)
    struct.pack_into("<I", data, place + 2 + 12 * count, place)
    path.write_bytes(data)
    return path


def label_first(folder: Path) -> Path:
    """Make a TIFF whose first page is a label, tiled like the scan."""
    with tifffile.TiffWriter(folder / "a.tif") as file:
        for page in (np.full((128, 160, 3), (255, 0, 255), np.uint8), RGB):
            file.write(page, tile=(64, 64), photometric="rgb", metadata=None)
    return folder / "a.tif"


def archive(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "a.svs", "w") as target:
        target.writestr("slide.svs", b"")
    return folder / "a.svs"


def twelve_bit_jpeg(folder: Path) -> Path:
    """Make a TIFF whose tags promise 8 bits, and whose JPEG tiles have 12."""
    path = tiff(compression="zlib")(folder)
    with tifffile.TiffFile(path) as file:
        place = file.pages.first.dataoffsets[0]
    data = bytearray(path.read_bytes())
    head = b"\xff\xd8\xff\xdb\x00\x43\x00" + bytes(64) + b"\xff\xc1\x00\x11\x0c" + bytes(12)
    data[place : place + len(head)] = head
    jpeg, deflate = (struct.pack("<HHIH", 259, 3, 1, value) for value in (7, 8))
    path.write_bytes(data.replace(deflate, jpeg))
    return path


def cut(maker: Maker, share: float) -> Maker:
    """Make a file that lost its end."""

    def make(folder: Path) -> Path:
        path = maker(folder)
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])
        return path

    return make


def mirax(*, folder_there: bool, listing: str | None = None) -> Maker:
    """Make a MIRAX slide without its other files."""

    def make(folder: Path) -> Path:
        Image.fromarray(RGB).save(folder / "a.mrxs", "JPEG")
        if folder_there:
            (folder / "a").mkdir()
        if listing is not None:
            (folder / "a" / "Slidedat.ini").write_text(listing)
        return folder / "a.mrxs"

    return make


def dicom(change: Callable[[pydicom.Dataset], None] | None = None, *, which: str = "0") -> Maker:
    """Make one file of a DICOM slide (`which`: a level, or "label"), changed, alone in its folder."""

    def make(folder: Path) -> Path:
        label = np.full((200, 200, 3), (255, 0, 255), np.uint8)
        write_series(folder / "series", [RGB, halved(RGB)], label=label)
        data = pydicom.dcmread(folder / "series" / f"1.2.3.4-{which}.dcm")
        if change is not None:
            change(data)
        (folder / "one").mkdir()
        data.save_as(folder / "one" / "a.dcm", enforce_file_format=True)
        return folder / "one" / "a.dcm"

    return make


def setting(**values: object) -> Callable[[pydicom.Dataset], None]:
    """Change attributes of a DICOM file; `syntax` and `kind` in its meta information as well."""

    def change(data: pydicom.Dataset) -> None:
        rest = dict(values)
        if "kind" in rest:
            data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = rest.pop("kind")
        if "syntax" in rest:
            data.file_meta.TransferSyntaxUID = rest.pop("syntax")
        for name, value in rest.items():
            setattr(data, name, value)

    return change


def implicit(data: pydicom.Dataset) -> None:
    """Write it uncompressed with implicit VR, as older archives do."""
    data.PixelData = bytes(256 * 256 * 3 * int(data.NumberOfFrames))
    data["PixelData"].VR = "OW"
    data.PhotometricInterpretation = "RGB"
    data.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"


PART = setting(
    ConcatenationUID="1.2.3.9",
    InConcatenationNumber=1,
    InConcatenationTotalNumber=3,
    ConcatenationFrameOffsetNumber=0,
    SOPInstanceUIDOfConcatenationSource="1.2.3.10",
)
VMS = b"[Virtual Microscope Specimen]\nNoLayers=1\nImageFile=a.jpg\nMapFile=b.jpg\nMacroImage=c.jpg\n"
MIRAX_LISTING = "[HIERARCHICAL]\nINDEXFILE = Index.dat\n[DATAFILE]\nFILE_0 = Data0.dat\n"
PLANES = np.stack([RGB] * 3)
CZI = b"ZISRAWFILE".ljust(84, b"\0")

ODD_FILES: dict[str, tuple[Maker, str, str]] = {
    "text": (of_bytes("a.svs", b"This is no slide.\n"), UNKNOWN, "text"),
    "web page": (of_bytes("a.svs", b"<!DOCTYPE html><html><p>403 Jane Doe</p></html>"), UNKNOWN, "web page"),
    "ZIP": (archive, UNKNOWN, "ZIP"),
    "gzip": (of_bytes("a.svs", b"\x1f\x8b\x08" + bytes(99)), UNKNOWN, "gzip"),
    "PDF": (of_bytes("a.svs", b"%PDF-1.7\n" + bytes(99)), UNKNOWN, "PDF"),
    "JPEG": (picture("a.svs", "JPEG"), UNKNOWN, "JPEG"),
    "PNG": (picture("a.svs", "PNG"), UNKNOWN, "PNG"),
    "BMP": (picture("a.ndpi", "BMP"), UNKNOWN, "BMP"),
    "zeros": (of_bytes("a.svs", bytes(9999)), UNKNOWN, "zeros"),
    "strips": (tiff(tile=None), UNSUPPORTED, "strips"),
    "big-endian": (tiff(byteorder=">"), UNSUPPORTED, "big-endian"),
    "big-endian strips": (tiff(byteorder=">", tile=None), UNSUPPORTED, "strips"),
    "floating point": (tiff(RGB.astype(np.float32)), UNSUPPORTED, "floating"),
    "floating point in strips": (tiff(RGB.astype(np.float32), tile=None), UNSUPPORTED, "floating"),
    "16 bits": (tiff(RGB.astype(np.uint16) * 257), UNSUPPORTED, "16 bits"),
    "grey": (tiff(RGB[..., 0], photometric="minisblack"), UNSUPPORTED, "grey"),
    "volume": (tiff(np.stack([RGB] * 16), tile=(16, 256, 256), volumetric=True), UNSUPPORTED, "16 planes"),
    "z-stack": (tiff(PLANES), UNSUPPORTED, "several focal planes"),
    "OME z-stack": (
        tiff(PLANES, name="a.ome.tif", metadata={"axes": "ZYXS"}),
        UNSUPPORTED,
        "planes",
    ),
    "JPEG 2000": (retagged(259, 8, 34712, compression="zlib"), UNSUPPORTED, "JPEG 2000"),
    "JPEG XR": (retagged(259, 8, 22610, compression="zlib"), UNSUPPORTED, "JPEG XR"),
    "JPEG XL": (retagged(259, 8, 50002, compression="zlib"), UNSUPPORTED, "JPEG XL"),
    "unknown compression": (retagged(259, 8, 60001, compression="zlib"), UNSUPPORTED, "60001"),
    "12-bit JPEG": (twelve_bit_jpeg, UNSUPPORTED, "12-bit"),
    "label first": (label_first, UNSUPPORTED, "first page"),
    "VSI": (tiff(name="a.vsi"), UNSUPPORTED, "VSI"),
    "VSI in strips": (tiff(name="a.vsi", tile=None), UNSUPPORTED, "VSI"),
    "iSyntax": (of_bytes("a.isyntax", b"<DataObject>" + bytes(99)), UNSUPPORTED, "iSyntax"),
    "CZI": (of_bytes("a.czi", CZI + bytes(2000)), UNSUPPORTED, "CZI"),
    "CZI, cut": (of_bytes("a.czi", CZI + (10**6).to_bytes(8, "little") + bytes(2000)), DAMAGED, "truncated"),
    "MIRAX alone": (mirax(folder_there=False), INCOMPLETE, "folder a"),
    "MIRAX, folder empty": (mirax(folder_there=True), INCOMPLETE, "1 of its 1"),
    "MIRAX, data missing": (
        mirax(
            folder_there=True,
            listing=MIRAX_LISTING,
        ),
        INCOMPLETE,
        "2 of its 3",
    ),
    "VMS alone": (of_bytes("a.vms", VMS), INCOMPLETE, "3 of its 3"),
    "VMU alone": (of_bytes("a.vmu", b"[Uncompressed " + VMS[1:]), INCOMPLETE, "3 of its 3"),
    "VMS that lists nothing": (of_bytes("a.vms", b"nothing\n"), UNKNOWN, "list of files"),
    "CT": (dicom(setting(kind="1.2.840.10008.5.1.4.1.1.2")), UNKNOWN, "CT"),
    "DICOM directory": (dicom(setting(kind="1.2.840.10008.1.3.10")), UNKNOWN, "directory"),
    "DICOM, implicit VR": (dicom(implicit), UNSUPPORTED, "implicit VR"),
    "DICOM, JPEG-LS": (
        dicom(setting(syntax="1.2.840.10008.1.2.4.80")),
        UNSUPPORTED,
        "1.2.840.10008.1.2.4.80",
    ),
    "DICOM, focal planes": (dicom(setting(TotalPixelMatrixFocalPlanes=3)), UNSUPPORTED, "focal planes"),
    "DICOM, grey": (
        dicom(setting(SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2")),
        UNSUPPORTED,
        "colours",
    ),
    "DICOM, 16 bits": (dicom(setting(BitsAllocated=16, BitsStored=16, HighBit=15)), UNSUPPORTED, "8 bits"),
    "DICOM, label alone": (dicom(which="label"), INCOMPLETE, "label"),
    "DICOM, part of an image": (dicom(PART), INCOMPLETE, "parts"),
    "DICOM, sparse without places": (
        dicom(setting(DimensionOrganizationType="TILED_SPARSE")),
        DAMAGED,
        "damaged",
    ),
    "TIFF, cut": (
        of_bytes("a.tif", struct.pack("<2sHI", b"II", 42, 5000) + bytes(100)),
        DAMAGED,
        "truncated",
    ),
    "TIFF, cut behind its head": (of_bytes("a.tif", b"II*\0\x08\0\0\0"), DAMAGED, "truncated"),
    "TIFF, cut in its directory": (of_bytes("a.tif", b"II*\0\x08\0\0\0" + bytes(8)), DAMAGED, "truncated"),
    "TIFF, never finished": (of_bytes("a.tif", b"II*\0" + bytes(9999)), DAMAGED, "truncated"),
    "TIFF, in a circle": (in_a_circle, DAMAGED, "damaged"),
    "DICOM, cut": (cut(dicom(), 0.01), DAMAGED, "truncated"),
}
"""Name → how to make it, the code it must get, and a word that the message must contain."""
