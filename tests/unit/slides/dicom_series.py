"""A small writer of DICOM whole-slide series (JPEG baseline, TILED_FULL) for tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage
from tiff_pyramid import jpeg_tiles


def write_series(
    folder: Path,
    levels: Sequence[NDArray[np.uint8]],
    *,
    mpp: float = 0.5,
    series: str = "1.2.3.4",
    label: NDArray[np.uint8] | None = None,
    tile_px: int = 256,
) -> Path:
    """Write one file a level (and a LABEL file) into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, image in enumerate(levels):
        scale = levels[0].shape[1] / image.shape[1]
        kind = [
            "ORIGINAL" if index == 0 else "DERIVED",
            "PRIMARY",
            "VOLUME",
            "NONE" if index == 0 else "RESAMPLED",
        ]
        _instance(image, f"{series}.{index + 1}", series, kind, mpp=mpp * scale, tile_px=tile_px).save_as(
            folder / f"{series}-{index}.dcm", enforce_file_format=True
        )
    if label is not None:
        kind = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
        data = _instance(label, f"{series}.99", series, kind, mpp=40.0, tile_px=max(label.shape))
        data.save_as(folder / f"{series}-label.dcm", enforce_file_format=True)
    return folder


def _instance(
    image: NDArray[np.uint8], uid: str, series: str, kind: list[str], *, mpp: float, tile_px: int
) -> Dataset:
    frames = list(jpeg_tiles(image, tile_px, 92))
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    data.file_meta.MediaStorageSOPInstanceUID = uid
    data.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    data.SOPClassUID = VLWholeSlideMicroscopyImageStorage
    data.SOPInstanceUID = uid
    data.SeriesInstanceUID = series
    data.StudyInstanceUID = f"{series}.0"
    data.FrameOfReferenceUID = f"{series}.7"
    data.Modality = "SM"
    data.Manufacturer = "Testscan"
    data.ManufacturerModelName = "T1"
    data.PatientName = "Doe^Jane"
    data.ImageType = kind
    data.SamplesPerPixel = 3
    data.PhotometricInterpretation = "YBR_FULL_422"
    data.PlanarConfiguration = 0
    data.NumberOfFrames = len(frames)
    data.Rows = data.Columns = tile_px
    data.BitsAllocated = data.BitsStored = 8
    data.HighBit = 7
    data.PixelRepresentation = 0
    data.LossyImageCompression = "01"
    data.TotalPixelMatrixColumns, data.TotalPixelMatrixRows = image.shape[1], image.shape[0]
    data.DimensionOrganizationType = "TILED_FULL"
    data.TotalPixelMatrixFocalPlanes = 1
    data.NumberOfOpticalPaths = 1
    path = Dataset()
    path.OpticalPathIdentifier = "1"
    data.OpticalPathSequence = [path]
    data.SharedFunctionalGroupsSequence = [_measures(mpp)]
    data.PixelData = encapsulate(frames)
    data["PixelData"].VR = "OB"
    return data


def _measures(mpp: float) -> Dataset:
    spacing = Dataset()
    spacing.PixelSpacing = [mpp / 1000, mpp / 1000]
    spacing.SliceThickness = 0.001
    shared = Dataset()
    shared.PixelMeasuresSequence = [spacing]
    return shared
