"""The truth of tiles, and which tiles a tile encoder is trained on."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.tile_encoder import TileEncoder
from histgen_lib.training.encoder.batches import augment_tile
from histgen_lib.training.encoder.folder import HEADS, load_heads, open_encoder, save_heads
from histgen_lib.training.encoder.heads import TileTeacher, average_precision
from histgen_lib.training.encoder.settings import TileTrainSettings
from histgen_lib.training.encoder.tiles import (
    NO_GRADE,
    SlideTruth,
    cached_tiles,
    choose_tiles,
    read_truth,
    tile_targets,
)

CLASSES = ("background", "fat", "breast_nst", "ink", "smooth_muscle")


def _truth(cells: np.ndarray, mitoses: list[list[float]], **fields: str) -> SlideTruth:
    points = np.asarray(mitoses, dtype=np.float32).reshape(-1, 2)
    return SlideTruth(CLASSES, cells.astype(np.uint8), points, fields)


@pytest.fixture
def truth_folder(tmp_path: Path) -> Path:
    content = {"classes": CLASSES, "mitoses": [[5, 6]], "fields": {"grade": "2"}}
    (tmp_path / "s.json").write_text(json.dumps(content))
    cv2.imwrite(str(tmp_path / "s.png"), np.full((4, 4), 2, dtype=np.uint8))
    return tmp_path


def test_truth_files_are_read(truth_folder: Path) -> None:
    truth = read_truth(truth_folder, "s")
    assert truth.classes == CLASSES
    assert truth.cells.shape == (4, 4)
    assert truth.mitoses.tolist() == [[5, 6]]


@pytest.mark.parametrize("damage", ["no json", "bad json", "no map", "no classes"])
def test_unreadable_truth_is_refused(truth_folder: Path, damage: str) -> None:
    if damage == "no map":
        (truth_folder / "s.png").unlink()
    elif damage == "no json":
        (truth_folder / "s.json").unlink()
    else:
        (truth_folder / "s.json").write_text("{" if damage == "bad json" else "{}")
    with pytest.raises(InvalidInputError) as raised:
        read_truth(truth_folder, "s")
    assert raised.value.code == "training-truth-unreadable"


def test_a_tile_gets_the_cells_and_mitoses_under_it() -> None:
    """Cells are 64 level-0 px; a mitosis on a border belongs to the tile that starts there."""
    cells = np.zeros((4, 4))
    cells[:2, 2:] = 2
    xy = np.array([[0, 0], [128, 0]], dtype=np.int32)
    targets = tile_targets(_truth(cells, [[10, 10], [128, 5], [250, 130]], grade="3"), xy, 128.0)
    assert targets.cells.tolist() == [[[0, 0], [0, 0]], [[2, 2], [2, 2]]]
    assert targets.mitoses.tolist() == [1, 1]
    assert targets.grade.tolist() == [NO_GRADE, 2]


def test_tumour_meets_ink_only_where_they_touch() -> None:
    cells = np.zeros((4, 8))
    cells[:, 1] = 2
    cells[:, 2] = 3
    cells[:, 6] = 2
    xy = np.array([[0, 0], [256, 0]], dtype=np.int32)
    meetings = tile_targets(_truth(cells, []), xy, 256.0).meetings
    assert meetings.tolist() == [[1, 0], [0, 0]]


def test_rare_findings_are_always_among_the_chosen_tiles() -> None:
    cells = np.ones((100, 4, 4), dtype=np.uint8)
    cells[37, 0, 0] = 4
    targets = tile_targets(_truth(np.ones((4, 4)), []), np.zeros((100, 2), np.int32), 256.0)
    mitoses = np.zeros(100, np.float32)
    mitoses[81] = 2
    targets = dataclasses.replace(targets, cells=cells, mitoses=mitoses)
    for seed in range(5):
        rows = choose_tiles(targets, 10, np.random.default_rng(seed))
        assert len(rows) == len(set(rows.tolist())) == 10
        assert {37, 81} <= set(rows.tolist())


def test_a_turned_tile_keeps_its_truth_in_place() -> None:
    """The brightest quarter of the picture stays the quarter with the matching cells."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:16, 16:] = 200
    cells = np.zeros((2, 2), np.uint8)
    cells[0, 1] = 1
    for seed in range(20):
        changed, turned = augment_tile(pixels, cells, np.random.default_rng(seed))
        quarters = changed.reshape(2, 16, 2, 16, 3).mean(axis=(1, 3, 4))
        assert quarters.argmax() == turned.argmax()


def test_average_precision_is_one_for_a_perfect_order_and_the_share_for_equal_scores() -> None:
    present = np.array([True, False, True, False])
    assert average_precision(np.array([4.0, 2, 3, 1]), present) == 1.0
    assert average_precision(np.array([1.0, 3, 2, 4]), present) == pytest.approx((1 / 3 + 2 / 4) / 2, abs=0.1)


def test_standardised_features_leave_the_outputs_unchanged() -> None:
    torch.manual_seed(0)
    teacher = TileTeacher(TileEncoder(8), CLASSES).eval()
    pixels = torch.randint(0, 256, (6, 64, 64, 3), dtype=torch.uint8)
    with torch.no_grad():
        before, _ = teacher(pixels, 2)
        features = teacher.encoder(pixels)
        teacher.standardise(features.mean(dim=0), features.std(dim=0))
        after, _ = teacher(pixels, 2)
        changed = teacher.encoder(pixels)
    assert torch.allclose(before, after, atol=1e-4)
    assert torch.allclose(changed.mean(dim=0), torch.zeros(8), atol=1e-4)
    assert torch.allclose(changed.std(dim=0), torch.ones(8), atol=1e-4)


def test_heads_are_read_back_with_their_names(tmp_path: Path) -> None:
    teacher = TileTeacher(TileEncoder(8), CLASSES)
    assert load_heads(tmp_path) is None
    save_heads(teacher, tmp_path)
    weight, bias, names = load_heads(tmp_path) or pytest.fail("no heads")
    assert torch.equal(weight, teacher.heads.weight)
    assert torch.equal(bias, teacher.heads.bias)
    assert names == teacher.names()
    assert len(names) == len(weight)


def test_damaged_heads_are_refused(tmp_path: Path) -> None:
    (tmp_path / HEADS).write_bytes(b"junk")
    with pytest.raises(FatalError) as raised:
        load_heads(tmp_path)
    assert raised.value.code == "training-heads-unreadable"


@pytest.mark.parametrize("content", [None, "{", "{}"])
def test_a_folder_that_is_not_an_encoder_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(FatalError) as raised:
        open_encoder(tmp_path)
    assert raised.value.code == "training-encoder-unreadable"


def _world(folder: Path, cases: list[str]) -> TileTrainSettings:
    (folder / "slides").mkdir()
    train = [{"id": name, "report": "", "image_path": [f"{name}.tif"]} for name in cases]
    (folder / "annotation.json").write_text(json.dumps({"train": train, "val": [], "test": []}))
    return TileTrainSettings(world=folder, out=folder / "out")


def test_a_world_without_the_split_or_its_slides_is_refused(tmp_path: Path) -> None:
    settings = _world(tmp_path, ["a"])
    for split, code in {"val": "training-split-empty", "train": "training-slides-missing"}.items():
        with pytest.raises(InvalidInputError) as raised:
            cached_tiles(settings, split, 5, quiet=True)
        assert raised.value.code == code
