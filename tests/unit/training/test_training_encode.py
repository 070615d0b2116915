"""Which slides are encoded, and what prevents a run from starting."""

from __future__ import annotations

from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from pathlib import Path

import pytest
import tiny_model
from tiny_encoders import loaded

from histgen_lib.bags import read_bag
from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.training import EncodeSettings, encode_slides
from histgen_lib.training.encoder import encode
from histgen_lib.training.encoder.slide_bags import Outcome, encode_slide
from histgen_lib.training.encoder.source import EncoderChoice


def _touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_slides_are_found_in_folders_each_once_and_dicom_by_folder(tmp_path: Path) -> None:
    folder = _touch(tmp_path, "b.svs", "a/c.TIFF", "a/notes.txt", "d/1.dcm", "d/2.dcm", "._b.svs")
    found = encode.find_slides([folder, folder / "b.svs"])
    assert [path.relative_to(folder).as_posix() for path in found] == ["a/c.TIFF", "b.svs", "d"]


def test_an_explicitly_named_file_is_used_whatever_its_suffix(tmp_path: Path) -> None:
    assert encode.find_slides([tmp_path / "scan.xyz"]) == [tmp_path / "scan.xyz"]


def test_an_empty_folder_is_reported(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError) as raised:
        encode_slides(EncodeSettings([tmp_path], [EncoderChoice(folder=tmp_path)], tmp_path / "bags"))
    assert raised.value.code == "training-slides-missing"


def test_two_slides_with_the_same_name_never_share_a_bag(tmp_path: Path) -> None:
    folder = _touch(tmp_path, "monday/s.svs", "tuesday/s.svs")
    with pytest.raises(InvalidInputError, match=r"monday.*tuesday") as raised:
        encode_slides(EncodeSettings([folder], [EncoderChoice(folder=folder)], folder / "bags"))
    assert raised.value.code == "training-slides-same-name"


def test_the_bag_of_another_slide_with_the_same_name_is_not_reused_or_overwritten(
    tmp_path: Path, model_dir: Path
) -> None:
    """It was encoded on another day, into the same folder."""
    works = loaded([EncoderChoice(folder=model_dir)], tmp_path / "bags")
    outcomes = []
    for day, side_px in (("monday", 768), ("monday", 768), ("tuesday", 1024)):
        (tmp_path / day).mkdir(exist_ok=True)
        slide = tiny_model.write_slide(tmp_path / day / "s.tif", side_px=side_px)
        outcomes.append(encode_slide(slide, works, None))
    assert [(one.written, one.kept) for one in outcomes] == [([0], []), ([], [0]), ([], [])]
    assert isinstance(outcomes[2].error, InvalidInputError)
    assert outcomes[2].error.code == "training-slides-same-name"
    assert read_bag(tmp_path / "bags" / "s.parquet").slide_size == (768, 768)


def test_a_killed_worker_is_reported(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel kills the process that takes too much memory; the bags of the others are kept."""

    def killed(*_: object) -> None:
        raise BrokenProcessPool

    monkeypatch.setattr(ProcessPoolExecutor, "map", killed)
    slide = _touch(tmp_path, "s.svs") / "s.svs"
    with pytest.raises(FatalError) as raised:
        encode_slides(EncodeSettings([slide], [EncoderChoice(folder=model_dir)], tmp_path), quiet=True)
    assert raised.value.code == "training-worker-died"


def test_an_installation_that_encodes_nothing_stops_at_the_first_slide(
    tmp_path: Path, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the GPU is full: every other slide would end the same way."""
    full = Outcome(error=FatalError("device-memory", "Full."))
    monkeypatch.setattr(ProcessPoolExecutor, "map", lambda _self, _work, slides: [full for _ in slides])
    slides = [_touch(tmp_path, name) / name for name in ("a.svs", "b.svs")]
    with pytest.raises(FatalError) as raised:
        encode_slides(EncodeSettings(slides, [EncoderChoice(folder=model_dir)], tmp_path), quiet=True)
    assert raised.value.code == "device-memory"


def test_a_side_of_0_px_is_refused_rather_than_taken_for_the_encoders_own(
    tmp_path: Path, model_dir: Path
) -> None:
    slide = _touch(tmp_path, "s.svs") / "s.svs"
    choice = EncoderChoice(folder=model_dir, tile_px=0)
    with pytest.raises(InvalidInputError) as raised:
        encode_slides(EncodeSettings([slide], [choice], tmp_path / "bags"), quiet=True)
    assert raised.value.code == "tiling-settings-invalid"
