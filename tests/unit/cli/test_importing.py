"""The vocabulary of an imported model is the one counted in the authors' training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from histgen_lib.cli.offline import importing
from histgen_lib.cli.offline.importing import OfficialSource, import_weights
from histgen_lib.errors import InvalidInputError
from histgen_lib.models.histgen import HistGen, HistGenConfig
from histgen_lib.text.tokenizers import WordTokenizer

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
    monkeypatch.setattr(importing, "load_official", lambda _checkpoint, _sizes: HistGen(config))
    monkeypatch.setattr(importing, "to_onnx", lambda _folder: [])
    tiling = {"tile_px": 256, "mpp": 0.5, "overlap_px": 0, "min_tissue": 0.15}
    return OfficialSource(tmp_path / "w.pth", annotation, 2, {}, tiling, "UNI")


def test_words_are_counted_in_the_training_split_only(source: OfficialSource, tmp_path: Path) -> None:
    model = import_weights(source, tmp_path / "model", "official")
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
    model = import_weights(source, tmp_path / "model", "official")
    assert (model.path, model.name) == (tmp_path / "model", "official")
    (tmp_path / "other").mkdir()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "other").stat().st_mode
