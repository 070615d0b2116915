"""The vocabulary of an imported model is the one counted in the authors' training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_encoders import write_encoder

from histgen_lib.cli.offline import importing
from histgen_lib.cli.offline.importing import OfficialSource, import_weights
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import sha256_file
from histgen_lib.models.histgen import HistGen, HistGenConfig
from histgen_lib.text.tokenizers import WordTokenizer
from histgen_lib.training.encoder.folder import WEIGHTS, open_encoder
from histgen_lib.training.encoder.source import EncoderChoice

TRAIN = [
    {"id": "a", "report": "gland gland duct duct rare", "image_path": []},
    {"id": "b", "report": "gland"},
]
OTHERS = [{"id": "c", "report": "rare stroma stroma stroma duct"}]


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> OfficialSource:
    """Weights of four words, the network of a few numbers, and no export."""
    annotation = tmp_path / "annotation.json"
    annotation.write_text(json.dumps({"train": TRAIN, "val": OTHERS, "test": [{**OTHERS[0], "id": "d"}]}))
    config = HistGenConfig(
        mode="published", input_dim=4, d_model=4, d_ff=4, d_vf=4, num_heads=1, num_layers=1, region_size=3,
        cmm_size=2, cmm_dim=4, topk=1, prototype_num=1, vocab_size=4, max_tokens=5,
    )  # fmt: skip
    monkeypatch.setattr(importing, "load_weights", lambda _source: (HistGen(config), {}))
    monkeypatch.setattr(importing, "to_onnx", lambda _folder: [])
    return OfficialSource(tmp_path / "w.pth", annotation, 2, {}, encoder="UNI")


def test_words_are_counted_in_the_training_split_only(source: OfficialSource, tmp_path: Path) -> None:
    model = import_weights(source, tmp_path / "model", "official").folder
    assert isinstance(model.tokenizer, WordTokenizer)
    assert model.tokenizer.to_json()["words"] == [".", "<unk>", "duct", "gland"]
    assert (model.histgen.vocab_size, model.name, model.synthetic) == (4, "official", False)


def test_a_vocabulary_other_than_the_weights_is_refused(source: OfficialSource, tmp_path: Path) -> None:
    source.annotation.write_text(json.dumps({"train": [*TRAIN, *OTHERS], "val": [], "test": []}))
    with pytest.raises(InvalidInputError, match="have 4 words, the annotation 6") as caught:
        import_weights(source, tmp_path / "model", "official")
    assert caught.value.code == "import-vocabulary-mismatch"
    assert "train split" in caught.value.hint
    assert not (tmp_path / "model").exists()


def test_tiles_are_those_that_are_stated_or_the_usual_ones(source: OfficialSource, tmp_path: Path) -> None:
    usual = import_weights(source, tmp_path / "usual", "a").folder.tiling
    stated = import_weights(
        replace(source, tile_px=512, tile_mpp=0.25), tmp_path / "stated", "b"
    ).folder.tiling
    assert (usual["tile_px"], usual["mpp"], stated["tile_px"], stated["mpp"]) == (256, 0.5, 512, 0.25)


def test_a_tile_encoder_of_the_features_width_becomes_part_of_the_model(
    source: OfficialSource, tmp_path: Path
) -> None:
    folder = write_encoder(tmp_path / "encoder", "mine", dim=4, tile_px=64, mpp=2.0)
    source = replace(source, tile_encoder=EncoderChoice(folder=folder))
    model = import_weights(source, tmp_path / "model", "official").folder
    assert (model.encoder["name"], model.tiling["tile_px"], model.tiling["mpp"]) == ("mine", 64, 2.0)
    assert model.encoder["sha256"] == sha256_file(folder / WEIGHTS) == sha256_file(model.path / WEIGHTS)
    assert model.encoder_settings == open_encoder(folder).settings


def test_a_tile_encoder_of_another_width_is_refused(source: OfficialSource, tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder", "mine", dim=8)
    with pytest.raises(InvalidInputError, match="length 4, and mine makes them of length 8") as caught:
        import_weights(replace(source, tile_encoder=EncoderChoice(folder=folder)), tmp_path / "model", "x")
    assert caught.value.code == "model-other-encoder"
    assert not (tmp_path / "model").exists()


def test_a_folder_that_is_not_empty_is_left_untouched(source: OfficialSource, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "kept").write_text("mine")
    with pytest.raises(InvalidInputError) as caught:
        import_weights(source, tmp_path / "model", "official")
    assert caught.value.code == "import-output-exists"
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["kept"]


@pytest.mark.parametrize("there", [False, True], ids=["new", "empty"])
def test_a_failed_export_leaves_nothing_behind(
    source: OfficialSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool
) -> None:
    def fail(folder: Path) -> None:
        assert (folder / "histgen.safetensors").is_file()
        raise RuntimeError("no such operator")

    monkeypatch.setattr(importing, "to_onnx", fail)
    places = tmp_path / "models"
    if there:
        (places / "model").mkdir(parents=True)
    with pytest.raises(RuntimeError):
        import_weights(source, places / "model", "official")
    assert [path.name for path in places.rglob("*")] == (["model"] if there else [])


def test_an_empty_folder_can_become_the_model(source: OfficialSource, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    model = import_weights(source, tmp_path / "model", "official").folder
    assert (model.path, model.name) == (tmp_path / "model", "official")
    (tmp_path / "other").mkdir()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "other").stat().st_mode
