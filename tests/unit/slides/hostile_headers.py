"""Files whose headers make a reader take gigabytes, or minutes."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pydicom
from dicom_series import write_series
from odd_files import RGB, dicom, setting
from PIL import Image
from tiff_pyramid import halved

Maker = Callable[[Path], Path]
Tag = tuple[int, int, int, int]
"""Tag, type, count, and a value or an offset."""

BYTE, ASCII, SHORT, LONG, SLONG, FLOAT, LONG8 = 1, 2, 3, 4, 9, 11, 16
SPARSE = 4096
"""Offset of what a header points to. All before it are zeros, which take no room on disk."""
BEYOND = (4 << 30) + SPARSE
"""An offset that 32 bits cannot hold."""


def tags(side: int = 4096, tile: int = 256, **other: Tag) -> list[Tag]:
    """Return the tags of a tiled page in RGB, in a compression that needs no data."""
    count = max(1, (side // tile) ** 2)
    plain: dict[str, Tag] = {
        "width": (256, LONG, 1, side),
        "height": (257, LONG, 1, side),
        "bits": (258, SHORT, 3, 8 | 8 << 16 | 8 << 32),
        "compression": (259, SHORT, 1, 1),
        "photometric": (262, SHORT, 1, 2),
        "samples": (277, SHORT, 1, 3),
        "planar": (284, SHORT, 1, 1),
        "tile_width": (322, LONG, 1, tile),
        "tile_height": (323, LONG, 1, tile),
        "offsets": (324, LONG8, count, SPARSE),
        "counts": (325, LONG8, count, SPARSE),
    }
    return sorted({**plain, **other}.values())


def big_tiff(*pages: list[Tag], name: str = "a.tif", size: int = 1 << 20) -> Maker:
    """Make a BigTIFF of these pages, `size` bytes long."""

    def make(folder: Path) -> Path:
        place, body = 16, b""
        for number, page in enumerate(pages):
            length = 8 + 20 * len(page) + 8
            after = place + length if number + 1 < len(pages) else 0
            entries = b"".join(struct.pack("<HHQQ", *tag) for tag in page)
            body += struct.pack("<Q", len(page)) + entries + struct.pack("<Q", after)
            place += length
        with (folder / name).open("wb") as file:
            file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16) + body)
            file.truncate(max(size, file.tell()))
        return folder / name

    return make


def mirax(**values: int) -> Maker:
    """Make a MIRAX slide with this listing."""

    def make(folder: Path) -> Path:
        Image.fromarray(RGB).save(folder / "a.mrxs", "JPEG")
        (folder / "a").mkdir()
        lines = "".join(f"{key} = {value}\n" for key, value in values.items())
        listing = f"[GENERAL]\n{lines}[HIERARCHICAL]\nINDEXFILE = Index.dat\n[DATAFILE]\nFILE_0 = Data0.dat\n"
        (folder / "a" / "Slidedat.ini").write_text(listing)
        for part in ("Index.dat", "Data0.dat"):
            (folder / "a" / part).write_bytes(bytes(64))
        return folder / "a.mrxs"

    return make


def jpeg_of(width: int, height: int, restart: int = 0, fill: int = 0) -> bytes:
    """Return a JPEG of one grey pixel whose head says that it has so many, in so small parts.

    `fill`: how many bytes 0xFF stand before the frame's marker, as they may.
    """
    frame = (
        fill * b"\xff"
        + struct.pack(">2sHBHHB", b"\xff\xc0", 17, 8, height, width, 3)
        + bytes((1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0))
    )
    marks = struct.pack(">2sHH", b"\xff\xdd", 4, restart) if restart else b""
    return b"\xff\xd8" + frame + marks + b"\xff\xda\x00\x0c\x03\x01\x00\x02\x11\x03\x11\x00\x3f\x00\xff\xd9"


def vms(picture: bytes, columns: int = 1, rows: int = 1) -> Maker:
    """Make a VMS slide of these pictures."""

    def make(folder: Path) -> Path:
        names = [f"ImageFile({x},{y})=a.jpg\n" for x in range(min(columns, 3)) for y in range(min(rows, 3))]
        listing = (
            f"NoLayers=1\nNoJpegColumns={columns}\nNoJpegRows={rows}\nImageFile=a.jpg\n{''.join(names[1:])}"
        )
        (folder / "a.vms").write_text(
            f"[Virtual Microscope Specimen]\n{listing}MapFile=b.jpg\nMacroImage=b.jpg\n"
        )
        (folder / "a.jpg").write_bytes(picture)
        (folder / "b.jpg").write_bytes(jpeg_of(256, 256))
        return folder / "a.vms"

    return make


def ndpi(picture: bytes, width: int, height: int, words: bytes = b"a=b\0") -> Maker:
    """Make an NDPI of one such picture as a BigTIFF, with `words` as its properties."""
    page = _ndpi_page(picture, width, height, words, SPARSE)
    plain = big_tiff(page, name="a.ndpi")

    def make(folder: Path) -> Path:
        path = plain(folder)
        with path.open("r+b") as file:
            file.seek(SPARSE)
            file.write(picture + words)
        return path

    return make


def classic_ndpi(picture: bytes, width: int, height: int, *, place: int, directory: int) -> Maker:
    """Make an NDPI as scanners write it: the picture at `place`, the directory, in classic TIFF, at its own.

    Its links have 64 bits; the high halves of its values stand behind the link.
    """
    words = b"a=b\0\0"

    def make(folder: Path) -> Path:
        page = [
            (tag, {LONG8: LONG}.get(kind, kind), count, value)
            for tag, kind, count, value in _ndpi_page(picture, width, height, words, place)
        ]
        bits = place + len(picture) + len(words)
        page[2] = (258, SHORT, 3, bits)
        page[5] = (271, ASCII, 10, bits + 6)
        entries = b"".join(struct.pack("<HHII", *tag[:3], tag[3] & 0xFFFFFFFF) for tag in page)
        highs = b"".join(struct.pack("<I", tag[3] >> 32) for tag in page)
        with (folder / "a.ndpi").open("wb") as file:
            file.write(struct.pack("<2sHQ", b"II", 42, directory))
            file.seek(place)
            file.write(picture + words + struct.pack("<3H", 8, 8, 8) + b"Hamamatsu\0")
            file.seek(directory)
            file.write(struct.pack("<H", len(page)) + entries + bytes(8) + highs)
        return folder / "a.ndpi"

    return make


def _ndpi_page(picture: bytes, width: int, height: int, words: bytes, place: int) -> list[Tag]:
    return [
        (256, LONG, 1, width),
        (257, LONG, 1, height),
        (258, SHORT, 3, 8 | 8 << 16 | 8 << 32),
        (259, SHORT, 1, 7),
        (262, SHORT, 1, 6),
        (271, ASCII, 8, int.from_bytes(b"Hamam\0\0\0", "little")),
        (273, LONG8, 1, place),
        (277, SHORT, 1, 3),
        (278, LONG, 1, height),
        (279, LONG8, 1, len(picture)),
        (65420, LONG, 1, 1),
        (65421, FLOAT, 1, 0x41A00000),
        *((tag, SLONG, 1, 0) for tag in (65422, 65423, 65424)),
        (65427, ASCII, len(words), place + len(picture)),
        (65449, ASCII, len(words), place + len(picture)),
    ]


def czi(entries: int, words: int) -> Maker:
    """Make a CZI whose directory and metadata claim these lengths."""

    def make(folder: Path) -> Path:
        head = b"ZISRAWFILE".ljust(84, b"\0") + struct.pack("<QQ", 1024, 2048)
        directory = b"ZISRAWDIRECTORY".ljust(32, b"\0") + struct.pack("<I", entries)
        metadata = b"ZISRAWMETADATA".ljust(32, b"\0") + struct.pack("<I", words)
        data = head.ljust(1024, b"\0") + directory.ljust(1024, b"\0") + metadata.ljust(1024, b"\0")
        (folder / "a.czi").write_bytes(data)
        return folder / "a.czi"

    return make


def nested(depth: int, *, explicit: bool) -> Maker:
    """Make a DICOM slide with nested sequences."""

    def make(folder: Path) -> Path:
        path = dicom()(folder)
        data, inner = path.read_bytes(), b""
        end = b"\xfe\xff\x0d\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
        head = b"\x40\x00\x60\x05SQ\0\0"
        if explicit:
            for _ in range(depth):
                item = b"\xfe\xff\x00\xe0" + struct.pack("<I", len(inner)) + inner
                inner = head + struct.pack("<I", len(item)) + item
        else:
            inner = (head + b"\xff" * 4 + b"\xfe\xff\x00\xe0" + b"\xff" * 4) * depth + (
                end[0] + end[1]
            ) * depth
        place = data.index(b"\x48\x00\x06\x00UL")
        path.write_bytes(data[:place] + inner + data[place:])
        return path

    return make


def beside(change: Callable[[pydicom.Dataset], None]) -> Maker:
    """Make a DICOM slide of two levels and change the second; return the first."""

    def make(folder: Path) -> Path:
        write_series(folder / "s", [RGB, halved(RGB)])
        other = folder / "s" / "1.2.3.4-1.dcm"
        data = pydicom.dcmread(other)
        change(data)
        data.save_as(other, enforce_file_format=True)
        return folder / "s" / "1.2.3.4-0.dcm"

    return make


HOSTILE_HEADERS: dict[str, Maker] = {
    "TIFF of 60 million tiles": big_tiff(
        tags(
            131_072,
            16,
            offsets=(324, LONG8, 67_108_864, SPARSE),
            counts=(325, LONG8, 67_108_864, SPARSE),
        ),
        size=1 << 30,
    ),
    "TIFF that lists more tiles than it has": big_tiff(
        tags(offsets=(324, LONG8, 60_000_000, SPARSE), counts=(325, LONG, 60_000_000, SPARSE)), size=1 << 30
    ),
    "TIFF of many tiles of which it lists few": big_tiff(
        tags(1 << 20, 16, offsets=(324, LONG8, 1, SPARSE), counts=(325, LONG8, 1, SPARSE))
    ),
    "TIFF of a tile of 12 GB": big_tiff(tags(65_536, 65_536)),
    "TIFF of 60,000 samples": big_tiff(tags(samples=(277, SHORT, 1, 60_000))),
    "TIFF of a stored tile of 3 GB": big_tiff(
        tags(256, 256, counts=(325, LONG8, 1, 3 << 30)), size=(3 << 30) + SPARSE
    ),
    "TIFF beyond all measure": big_tiff(tags(1 << 31, 1 << 20, counts=(325, LONG8, 1, 9))),
    "TIFF of 900 MB of words": big_tiff(tags(words=(270, ASCII, 900 << 20, SPARSE)), size=1 << 30),
    "TIFF of 900 MB under a private tag": big_tiff(tags(words=(700, BYTE, 900 << 20, SPARSE)), size=1 << 30),
    "TIFF of many pages of words": big_tiff(
        *(tags(words=(270, ASCII, 15 << 20, SPARSE)) for _ in range(60)), size=1 << 30
    ),
    "TIFF of 20,000 pages": big_tiff(*(tags() for _ in range(20_000))),
    "TIFF of 100,000 tags": big_tiff(
        tags(**{f"tag{number}": (500 + number % 60_000, SHORT, 1, 1) for number in range(100_000)})
    ),
    "NDPI in the smallest of parts": ndpi(jpeg_of(65_500, 65_500, restart=1), 65_500, 65_500),
    "NDPI in one part": ndpi(jpeg_of(65_500, 65_500), 65_500, 65_500),
    "VMS in one part behind fill bytes": vms(jpeg_of(65_500, 65_500, fill=3)),
    "NDPI beyond 4 GiB in one part": classic_ndpi(
        jpeg_of(65_500, 65_500), 65_500, 65_500, place=SPARSE, directory=BEYOND
    ),
    "NDPI with a picture beyond 4 GiB in one part": classic_ndpi(
        jpeg_of(65_500, 65_500), 65_500, 65_500, place=BEYOND, directory=BEYOND + 8192
    ),
    "VMS in the smallest of parts": vms(jpeg_of(65_500, 65_500, restart=1)),
    "VMS in one part": vms(jpeg_of(65_500, 65_500)),
    "VMS of a million pictures": vms(jpeg_of(256, 256), columns=100_000, rows=100_000),
    "MIRAX of too many pictures": mirax(IMAGENUMBER_X=2_000_000_000, IMAGENUMBER_Y=2_000_000_000),
    "MIRAX of too large pictures": mirax(
        IMAGENUMBER_X=2, IMAGENUMBER_Y=2, DIGITIZER_WIDTH=60_000, DIGITIZER_HEIGHT=60_000
    ),
    "CZI of too many parts": czi(2_000_000_000, 10),
    "CZI of too many words": czi(1, 2_000_000_000),
    "DICOM of too many frames": dicom(setting(NumberOfFrames=2_000_000_000)),
    "DICOM of too large frames": dicom(setting(Rows=65_535, Columns=65_535)),
    "DICOM beyond all measure": dicom(setting(TotalPixelMatrixColumns=4_000_000_000)),
    "DICOM of too large frames beside it": beside(setting(Rows=65_535, Columns=65_535)),
    "DICOM of nested sequences": nested(200_000, explicit=False),
    "DICOM of nested sequences with stated lengths": nested(4_000, explicit=True),
}
