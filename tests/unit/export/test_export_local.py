"""The repository for Triton's Python backend: complete, all at once, and the checked-in one up to date."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.export import export_local
from histgen_lib.models import SHIPPED_MODEL
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen.serving import PARTS

MODELS = ("histgen", "tile_encoder")
CHECKED_IN = Path(__file__).resolve().parents[3] / "model_repository"


def files_of(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_it_holds_what_its_models_need_and_no_weights_twice(model_dir: Path, tmp_path: Path) -> None:
    assert export_local(model_dir, tmp_path / "repository") == tmp_path / "repository"
    assert files_of(tmp_path / "repository") == {
        "histgen/config.pbtxt",
        "histgen/1/model.py",
        "histgen/1/config.json",
        "histgen/1/graphs.json",
        *(f"histgen/1/{name}" for name in PARTS),
        "tile_encoder/config.pbtxt",
        "tile_encoder/1/model.py",
        "tile_encoder/1/config.json",
        "tile_encoder/1/graphs.json",
        "tile_encoder/1/tile_encoder.onnx",
    }


def test_it_names_the_model_folder_by_its_digest(model_dir: Path, tmp_path: Path) -> None:
    export_local(model_dir, tmp_path)
    digest = open_model_folder(model_dir).digest
    for model in MODELS:
        assert f'"{digest}"' in (tmp_path / model / "config.pbtxt").read_text()


def test_exporting_again_replaces_what_was_there(model_dir: Path, tmp_path: Path) -> None:
    export_local(model_dir, tmp_path)
    (tmp_path / "histgen" / "1" / "left-over").touch()
    (tmp_path / "README").touch()
    export_local(model_dir, tmp_path, reference=True, threads=3)
    assert files_of(tmp_path) == {
        "README",
        *(
            f"{model}/{name}"
            for model in ("histgen", "tile_encoder")
            for name in ("config.pbtxt", "1/model.py")
        ),
    }
    assert '"threads" value { string_value: "3" }' in (tmp_path / "histgen" / "config.pbtxt").read_text()


def test_what_a_killed_export_left_is_removed(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton would take it for a model that it cannot load."""
    export_local(model_dir, tmp_path)
    whole = files_of(tmp_path)
    with monkeypatch.context() as killed:
        killed.setattr("shutil.rmtree", lambda *_, **__: None)  # the process ends before it can tidy up
        export_local(model_dir, tmp_path)
    assert files_of(tmp_path) > whole
    export_local(model_dir, tmp_path)
    assert files_of(tmp_path) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(MODELS)


def test_a_folder_of_someone_else_is_not_replaced(model_dir: Path, tmp_path: Path) -> None:
    (tmp_path / "histgen").mkdir()
    (tmp_path / "histgen" / "thesis.txt").touch()
    with pytest.raises(InvalidInputError) as caught:
        export_local(model_dir, tmp_path)
    assert caught.value.code == "export-output"
    assert files_of(tmp_path) == {"histgen/thesis.txt"}


def test_a_model_without_its_networks_is_refused_before_anything_is_written(
    own_model_dir: Path, tmp_path: Path
) -> None:
    (own_model_dir / "tile_encoder.onnx").unlink()
    with pytest.raises(FatalError) as caught:
        export_local(own_model_dir, tmp_path / "repository")
    assert caught.value.code == "model-incomplete"
    assert not (tmp_path / "repository").exists()


@pytest.mark.parametrize("model", MODELS)
def test_the_checked_in_repository_is_the_shipped_models(model: str, tmp_path: Path) -> None:
    """After a new model: `export_local(SHIPPED_MODEL, "model_repository", reference=True)` writes it anew."""
    export_local(SHIPPED_MODEL, tmp_path, reference=True)
    written = (tmp_path / model / "config.pbtxt").read_text()
    away = os.path.relpath(SHIPPED_MODEL, tmp_path / model)
    near = os.path.relpath(SHIPPED_MODEL, CHECKED_IN / model)
    assert (CHECKED_IN / model / "config.pbtxt").read_text() == written.replace(away, near)
    backend = Path(model) / "1" / "model.py"
    assert (CHECKED_IN / backend).read_text() == (tmp_path / backend).read_text()
