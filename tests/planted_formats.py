"""Slides of every supported format, with planted text wherever the format has room for text.

Each format has one slide as its vendor writes it, and others damaged where a parser would quote what it
cannot read: lines of an index, XML, tags, DICOM elements, a sidecar. The file names reveal nothing.
"""

from __future__ import annotations

import json
import sqlite3
import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pydicom
import tiny_model
from dicom_series import write_series
from hostile_headers import ndpi
from makers_tiffs import write_philips, write_ventana
from numpy.typing import NDArray
from planted_slide import PLANTED, write_planted_slide
from tiff_pyramid import halved, write_pyramid

Maker = Callable[[Path, NDArray[np.uint8]], Path]
"""Writes a slide into a folder of its own and returns the file to open."""

NAME = f"{PLANTED}^Erika"
_SVS = f"Aperio Image Library v12.0.0\r\n1x1 (256x256) |AppMag = 20|MPP = 0.5|User = {NAME}|{NAME}"
_OME = (
    f'<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><!-- {NAME} -->'
    f'<Experimenter LastName="{NAME}"/><Image Name="{NAME}"><Pixels SizeX="640" SizeY="640"'
    f' PhysicalSizeX="{NAME}" PhysicalSizeY="0.5" PhysicalSizeXUnit="{NAME}"/></Image></OME>'
)
_SCN_IMAGE = (
    f'<image name="{NAME}" uuid="{NAME}"><creationDate>{NAME}</creationDate><device model="{NAME}"/>'
    '<pixels sizeX="{px}" sizeY="{px}"><dimension sizeX="{px}" sizeY="{px}" ifd="{ifd}" r="0"/></pixels>'
    '<view sizeX="{nm}" sizeY="{nm}" offsetX="0" offsetY="0"/><scanSettings><objectiveSettings><objective>20'
    "</objective></objectiveSettings><illuminationSettings><numericalAperture>0.4</numericalAperture>"
    "<illuminationSource>brightfield</illuminationSource></illuminationSettings></scanSettings></image>"
)
_SCN = (
    '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
    f'<collection name="{NAME}" barcode="{NAME}" sizeX="640000" sizeY="640000">'
    + _SCN_IMAGE.format(px=160, ifd=1, nm=640_000)
    + _SCN_IMAGE.format(px=640, ifd=0, nm=320_000)
    + "</collection></scn>"
)
_SLIDEDAT = (
    f"[GENERAL]\nSLIDE_ID = {NAME}\nSLIDE_NAME = {NAME}\nIMAGENUMBER_X = 2\nIMAGENUMBER_Y = 2\n"
    "OBJECTIVE_MAGNIFICATION = 20\n[HIERARCHICAL]\nINDEXFILE = Index.dat\nHIER_COUNT = 1\nNONHIER_COUNT = 0\n"
    f"HIER_0_NAME = {NAME}\nHIER_0_COUNT = 1\n[DATAFILE]\nFILE_COUNT = 1\nFILE_0 = Data0.dat\n"
)
_VMS = (
    "[Virtual Microscope Specimen]\nNoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nImageFile=i.jpg\n"
    f"MapFile=m.jpg\nMacroImage=m.jpg\nAuthCode={NAME}\nReference={NAME}\nPhysicalWidth={NAME}\n"
)
_BROKEN = (f"\n{NAME}\n", f"\n[{NAME}\n", f"\n{NAME}\\q = \\q{NAME}\n", f"\n[{NAME}]\nImageFile={NAME}.jpg\n")
"""Lines that GLib's key files cannot contain, and the name of a file that does not exist."""


def _tiff(name: str, *, description: str = "", texts: dict[int, str] | None = None) -> Maker:
    def make(folder: Path, picture: NDArray[np.uint8]) -> Path:
        levels = [picture, halved(picture, 2)]
        own = {270: description} if description else {}
        texts_of_page = dict.fromkeys((269, 271, 272, 305, 306, 315, 316, 33432), NAME) | (texts or {})
        return write_pyramid(
            folder / name, levels, texts=[{**texts_of_page, **own}, {**texts_of_page, **own}]
        )

    return make


def _changed(maker: Maker, old: bytes, new: bytes) -> Maker:
    """Change bytes of a file, keeping its length."""

    def make(folder: Path, picture: NDArray[np.uint8]) -> Path:
        path = maker(folder, picture)
        data = path.read_bytes()
        assert old in data
        path.write_bytes(data.replace(old, new.ljust(len(old))[: len(old)]))
        return path

    return make


def _cut(maker: Maker) -> Maker:
    def make(folder: Path, picture: NDArray[np.uint8]) -> Path:
        path = maker(folder, picture)
        path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
        return path

    return make


def _planted_svs(folder: Path, picture: NDArray[np.uint8]) -> Path:
    return write_planted_slide(folder / "a.svs", seed=3)


def _philips(xml: str) -> Maker:
    return lambda folder, picture: write_philips(
        folder / "a.tiff", [picture, halved(picture)], mpp=0.5, tile_px=256, xml=xml
    )


def _ventana(attribute: str) -> Maker:
    return lambda folder, picture: write_ventana(
        folder / "a.bif", picture, mpp=0.5, tile_px=128, attribute=attribute
    )


def _ndpi(words: str) -> Maker:
    def make(folder: Path, picture: NDArray[np.uint8]) -> Path:
        jpeg = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
        return ndpi(jpeg, picture.shape[1], picture.shape[0], words.encode())(folder)

    return make


def _index(name: str, text: str, parts: dict[str, bytes]) -> Maker:
    """Make a slide with the index `text`; `name` may lie in a MIRAX folder."""

    def make(folder: Path, picture: NDArray[np.uint8]) -> Path:
        jpeg = cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()
        for part, data in ({name: text.encode()} | parts).items():
            (folder / part).parent.mkdir(exist_ok=True)
            (folder / part).write_bytes(data or jpeg)
        return folder / ("a.mrxs" if name.endswith(".ini") else name)

    return make


def _mirax(text: str) -> Maker:
    parts = {"a.mrxs": b"", "a/Index.dat": b"01.02" + NAME.encode() + bytes(99), "a/Data0.dat": NAME.encode()}
    return _index("a/Slidedat.ini", text, parts)


def _vms(text: str, name: str = "a.vms") -> Maker:
    return _index(name, text, {"i.jpg": b"", "m.jpg": b""})


def _dicom(change: Callable[[pydicom.Dataset], None] | None = None) -> Maker:
    def make(folder: Path, picture: NDArray[np.uint8]) -> Path:
        write_series(folder, [picture, halved(picture)])
        with warnings.catch_warnings(action="ignore"):  # pydicom warns about values no scanner should write
            plant(folder)
        return folder / "1.2.3.4-0.dcm"

    def plant(folder: Path) -> None:
        for path in sorted(folder.glob("*.dcm")):
            data = pydicom.dcmread(path)
            for name in (
                "PatientName",
                "AccessionNumber",
                "StudyDescription",
                "OperatorsName",
                "Manufacturer",
            ):
                setattr(data, name, NAME)
            data.PatientID = data.ManufacturerModelName = data.DeviceSerialNumber = NAME
            data.add_new(0x00400512, "LO", NAME)  # the container's identifier
            if change is not None:
                change(data)
            data.save_as(path, enforce_file_format=False)

    return make


def _of_class(data: pydicom.Dataset) -> None:
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = PLANTED


def _of_syntax(data: pydicom.Dataset) -> None:
    data.file_meta.TransferSyntaxUID = pydicom.uid.JPEGBaseline8Bit


def _in_fields(data: pydicom.Dataset) -> None:
    data.PhotometricInterpretation = data.DimensionOrganizationType = PLANTED.upper()[:16]


def _sakura(folder: Path, picture: NDArray[np.uint8]) -> Path:
    path = folder / "a.svslide"
    with sqlite3.connect(path) as file:
        file.execute(f'CREATE TABLE "{NAME}" (id TEXT, data BLOB)')
        file.execute("CREATE TABLE DataManagerSQLiteConfigXPO (TableName TEXT)")
        file.execute("INSERT INTO DataManagerSQLiteConfigXPO VALUES (?)", (NAME,))
        file.execute(f'INSERT INTO "{NAME}" VALUES (?, ?)', ("++MagicBytes", b"SVGigaPixelFile"))
        file.execute(f'INSERT INTO "{NAME}" VALUES (?, ?)', ("Header", NAME.encode()))
    return path


def _czi(folder: Path, picture: NDArray[np.uint8]) -> Path:
    xml = f"<ImageDocument><{NAME.replace('^', '')} a={NAME}></ImageDocument".encode()
    head = b"ZISRAWFILE".ljust(16, b"\0") + struct.pack("<QQII", 512, 512, 1, 0)
    head = head.ljust(84, b"\0") + struct.pack("<QQ", 1024, 2048)
    directory = b"ZISRAWDIRECTORY".ljust(16, b"\0") + struct.pack("<QQ", 128, 128) + bytes(128)
    metadata = b"ZISRAWMETADATA".ljust(16, b"\0") + struct.pack("<QQ", 900, 900) + struct.pack("<I", len(xml))
    data = head.ljust(1024, b"\0") + directory.ljust(1024, b"\0") + metadata.ljust(288, b"\0") + xml
    (folder / "a.czi").write_bytes(data.ljust(4096, b"\0"))
    return folder / "a.czi"


def _beside(maker: Maker, sidecar: str) -> Maker:
    def make(folder: Path, picture: NDArray[np.uint8]) -> Path:
        path = maker(folder, picture)
        Path(f"{path}.json").write_text(sidecar)
        return path

    return make


_PLAIN = _tiff("a.tif")
PLANTED_FORMATS: dict[str, Maker] = {
    "svs": _planted_svs,
    "svs-damaged": _cut(_planted_svs),
    "svs-words": _tiff("a.svs", description=_SVS),
    "svs-scale": _tiff("a.svs", description=_SVS.replace("MPP = 0.5", f"MPP = {NAME}")),
    "tiff": _PLAIN,
    "tiff-private": _tiff("a.tif", texts={33723: NAME, 34377: NAME, 34675: NAME, 50000: NAME, 42112: NAME}),
    "ome": _tiff("a.ome.tif", description=_OME),
    "ome-damaged": _tiff("a.ome.tif", description=_OME[:-9] + f"<{NAME}"),
    "imagej": _tiff("a.tif", description=f"ImageJ=1.53\nimages=x{NAME}\n{NAME}\nInfo={NAME}"),
    "shaped": _tiff("a.tif", description=f'{{"shape": [{NAME}'),
    "scn": _tiff("a.scn", description=_SCN),
    "scn-damaged": _tiff("a.scn", description=_SCN.replace("</image>", f"<{NAME} a={NAME}>")),
    "trestle": _tiff("a.tif", description=f"Background Color=x{NAME};{NAME};", texts={305: "MedScan"}),
    "ndpi": _ndpi(f"Patient={NAME}\r\n{NAME}\r\nAccession={NAME}\0"),
    "ndpi-cut": _cut(_ndpi(f"Patient={NAME}\0")),
    "philips": _philips(f'<Attribute Name="PIIM_{NAME}">{NAME}</Attribute>'),
    "philips-damaged": _philips(f"<{NAME} a={NAME}>"),
    "ventana": _ventana(f'Patient="{NAME}"'),
    "ventana-damaged": _ventana(f"{NAME}=<{NAME}"),
    "mirax": _mirax(_SLIDEDAT),
    **{f"mirax-{number}": _mirax(line + _SLIDEDAT + line) for number, line in enumerate(_BROKEN)},
    "vms": _vms(_VMS),
    **{f"vms-{number}": _vms(_VMS + line) for number, line in enumerate(_BROKEN)},
    "vms-name": _vms(_VMS.replace("i.jpg", f"{NAME}.jpg")),
    "vmu": _vms(_VMS.replace("Virtual", "Uncompressed Virtual"), "a.vmu"),
    "dicom": _dicom(),
    "dicom-class": _dicom(_of_class),
    "dicom-syntax": _changed(
        _dicom(_of_syntax), b"1.2.840.10008.1.2.4.50", PLANTED.encode().ljust(22, b"\0")
    ),
    "dicom-fields": _dicom(_in_fields),
    "dicom-damaged": _cut(_dicom()),
    "sakura": _sakura,
    "czi": _czi,
    "sidecar": _beside(_PLAIN, json.dumps({"mpp": 0.5, "patient": NAME})),
    "sidecar-value": _beside(_PLAIN, json.dumps({"mpp": NAME})),
    "sidecar-damaged": _beside(_PLAIN, f'{{"mpp": {NAME}'),
    "sidecar-twice": _beside(_PLAIN, f'{{"{NAME}": 1, "{NAME}": 2, "mpp": 0.5}}'),
    "text": _index("a.svs", NAME, {}),
    "web-page": _index("a.svs", f"<!DOCTYPE html><title>{NAME}</title>", {}),
}


def write_planted_formats(folder: Path) -> dict[str, Path]:
    """Write all formats, each into its own folder; return the file to open for each."""
    plain = tiny_model.write_slide(folder.parent / "plain.tif", side_px=640, seed=4)
    picture = cv2.imread(str(plain))[..., ::-1]
    paths = {}
    for name, maker in PLANTED_FORMATS.items():
        (folder / name).mkdir(parents=True)
        paths[name] = maker(folder / name, np.ascontiguousarray(picture))
    return paths
