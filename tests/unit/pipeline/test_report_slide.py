"""One slide through the whole path, with a tiny random model run by ONNX Runtime."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_model

from histgen_lib.bags import read_bag, write_bag
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError
from histgen_lib.inference import OnnxServer
from histgen_lib.models.histgen.checkpoint import update_config
from histgen_lib.pipeline import Drafter, load_model, report_bag, report_slide
from histgen_lib.reports.renderers.draft_json import from_json
from histgen_lib.text.synoptic import parse_report

FILES = {"draft.json", "draft.txt", "draft.html", "bag.parquet"}


class FailingServer:
    """An inference server whose report model breaks after the tiles were encoded."""

    def __init__(self, inner, error) -> None:
        self.inner, self.error = inner, error

    def infer(self, model, tensors):
        if model == "histgen":
            raise self.error
        return self.inner.infer(model, tensors)


@pytest.fixture(scope="module")
def model(model_dir):
    return load_model(model_dir)


@pytest.fixture(scope="module")
def server(model_dir):
    return OnnxServer(model_dir, threads=1)


@pytest.fixture
def run(model, server, tmp_path):
    """Report a slide into this test's folder."""

    def report(path, out="out", server=server, beam_size=None, **options):
        return report_slide(path, tmp_path / out, Drafter(model, server, beam_size), **options)

    return report


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_slide_becomes_a_folder_of_four_files(run, slide_path):
    result = run(slide_path)

    assert result.status == "written"
    assert {path.name for path in result.folder.iterdir()} == FILES
    assert [path.name for path in result.folder.parent.iterdir()] == ["sound"]
    assert from_json((result.folder / "draft.json").read_bytes()) == result.draft
    assert read_bag(result.folder / "bag.parquet").digest == result.draft.provenance.bag_digest


def test_the_draft_agrees_with_itself(run, slide_path):
    draft = run(slide_path).draft

    assert draft.fields == parse_report(draft.text)
    assert [s.text for s in draft.sentences] == [draft.text[s.start : s.end] for s in draft.sentences]
    assert draft.provenance.slide.mpp_source == "file"
    assert draft.provenance.slide.mpp == pytest.approx(0.5)
    assert draft.provenance.model.synthetic is True
    width, height = draft.provenance.slide.size_px
    for tile in (tile for sentence in draft.sentences for tile in sentence.evidence):
        assert 0 <= tile.x < width
        assert 0 <= tile.y < height


def test_doing_it_twice_gives_the_same_bytes(run, slide_path):
    assert contents(run(slide_path, "a").folder) == contents(run(slide_path, "b").folder)


def test_a_finished_draft_is_left_alone(run, slide_path):
    first = run(slide_path)
    before = {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    second = run(slide_path)

    assert second.status == "unchanged"
    assert second.draft == first.draft
    assert {path.name: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_damaged_output_is_replaced(run, slide_path, name):
    folder = run(slide_path).folder
    whole = contents(folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-40])

    assert run(slide_path).status == "written"
    assert contents(folder) == whole


def test_another_mpp_is_another_draft(run, slide_path):
    first = run(slide_path).draft
    second = run(slide_path, mpp=0.6).draft

    assert first.provenance.inputs_digest != second.provenance.inputs_digest
    assert second.provenance.slide.mpp_source == "stated"


def test_an_mpp_that_contradicts_the_file_is_shown_with_both_values_in_every_rendering(run, slide_path):
    result = run(slide_path, mpp=0.7)
    slide = json.loads((result.folder / "draft.json").read_bytes())["provenance"]["slide"]

    assert (slide["mpp"], slide["mpp_source"]) == (0.7, "stated")
    assert slide["file_mpp"] == pytest.approx(0.5, rel=1e-3)
    assert "scale-contradicted" in result.draft.quality.flags
    for name in ("draft.txt", "draft.html"):
        text = (result.folder / name).read_text(encoding="utf-8")
        assert "by more than 20 %" in text
        assert "0.7 µm/px (stated; the file says 0.5)" in text


def test_a_draft_at_the_files_own_scale_mentions_no_other(run, slide_path):
    result = run(slide_path)

    assert "file_mpp" not in (result.folder / "draft.json").read_text(encoding="utf-8")
    assert "the file says" not in (result.folder / "draft.txt").read_text(encoding="utf-8")


def test_another_slide_of_the_same_name_is_never_overwritten(run, slide_path, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    other = tiny_model.write_slide(tmp_path / "elsewhere" / "sound.tif", seed=1)
    folder = run(slide_path).folder
    before = contents(folder)

    with pytest.raises(InvalidInputError) as caught:
        run(other)
    assert caught.value.code == "output-other-slide"
    assert contents(folder) == before
    assert run(other, overwrite=True).status == "written"


def test_files_that_are_not_ours_survive(run, slide_path):
    folder = run(slide_path).folder
    (folder / "notes.txt").write_text("look again at level 3")
    run(slide_path, mpp=0.6)

    assert (folder / "notes.txt").read_text() == "look again at level 3"


@pytest.mark.parametrize(
    "error", [InvalidInputError("bag-empty", "No."), KeyboardInterrupt(), RuntimeError("bug")]
)
def test_nothing_is_left_behind_when_it_ends_early(run, server, slide_path, tmp_path, error):
    with pytest.raises(type(error)):
        run(slide_path, server=FailingServer(server, error))

    assert not (tmp_path / "out").exists()


def test_nothing_half_written_is_left_when_writing_fails(run, slide_path, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("histgen_lib.pipeline.outputs.write_bag", fail)
    with pytest.raises(HistgenError) as caught:
        run(slide_path)

    assert caught.value.code == "output-disk-full"
    assert list((tmp_path / "out").iterdir()) == []


def test_an_output_folder_that_is_a_file_is_a_plain_error(run, slide_path, tmp_path):
    (tmp_path / "out").write_text("in the way")

    with pytest.raises(FatalError) as caught:
        run(slide_path)
    assert caught.value.code == "output-unwritable"


def test_a_foreign_slide_is_drafted_and_marked(own_model_dir, slide_path, tmp_path):
    tiny_model.set_thresholds(own_model_dir, domain=1e-6)
    result = report_slide(
        slide_path,
        tmp_path / "out",
        Drafter(load_model(own_model_dir), OnnxServer(own_model_dir, threads=1)),
    )

    assert result.draft.abstained
    assert result.draft.out_of_distribution.flag
    assert result.draft.abstention.reasons == ("out-of-distribution",)
    assert result.draft.text
    assert (result.folder / "draft.txt").read_text().startswith("*** OUT OF DISTRIBUTION")


def test_the_model_abstains_from_a_doubtful_draft(own_model_dir, slide_path, tmp_path):
    tiny_model.set_thresholds(own_model_dir, report=0.999)
    result = report_slide(
        slide_path,
        tmp_path / "out",
        Drafter(load_model(own_model_dir), OnnxServer(own_model_dir, threads=1)),
    )

    assert result.draft.abstention.reasons == ("low-confidence",)


def test_a_bag_alone_gives_the_same_words(run, model, server, slide_path, tmp_path):
    first = run(slide_path)
    again = report_bag(first.folder / "bag.parquet", tmp_path / "again", Drafter(model, server))

    assert again.draft.text == first.draft.text
    assert again.draft.sentences == first.draft.sentences
    assert again.draft.provenance.slide.content_id is None
    assert (
        report_bag(first.folder / "bag.parquet", tmp_path / "again", Drafter(model, server)).status
        == "unchanged"
    )


def test_a_bag_given_with_its_slide_saves_the_encoding(run, slide_path, server):
    first = run(slide_path)

    class NoEncoder:
        def infer(self, name, tensors):
            assert name == "histgen"
            return server.infer(name, tensors)

    second = run(slide_path, "again", bag=first.folder / "bag.parquet", server=NoEncoder())
    assert second.draft.sentences == first.draft.sentences


def test_a_bag_of_another_slide_is_refused(run, slide_path, tmp_path):
    other = tiny_model.write_slide(tmp_path / "other.tif", side_px=1280)
    bag = run(other).folder / "bag.parquet"

    with pytest.raises(InvalidInputError) as caught:
        run(slide_path, bag=bag)
    assert caught.value.code == "bag-other-slide"


def test_a_bag_of_another_encoder_is_refused(run, own_model_dir, slide_path, tmp_path):
    bag = run(slide_path).folder / "bag.parquet"
    config = json.loads((own_model_dir / "config.json").read_text())
    config["encoder"]["sha256"] = "00" * 32
    (own_model_dir / "config.json").write_text(json.dumps(config))

    with pytest.raises(InvalidInputError) as caught:
        report_bag(
            bag, tmp_path / "x", Drafter(load_model(own_model_dir), OnnxServer(own_model_dir, threads=1))
        )
    assert caught.value.code == "bag-other-encoder"


def test_a_bag_of_the_same_encoder_with_other_settings_is_refused(run, own_model_dir, slide_path, tmp_path):
    """Other settings are another pooling or resizing of the same weights; bags that state none pass."""
    path = run(slide_path).folder / "bag.parquet"
    bag = read_bag(path)
    assert bag.encoder_settings == load_model(own_model_dir).encoder_settings != ""
    encoder = load_model(own_model_dir).folder.encoder
    update_config(own_model_dir, encoder=dict(encoder) | {"settings_sha256": "1" * 64})
    drafter = Drafter(load_model(own_model_dir), OnnxServer(own_model_dir, threads=1))

    with pytest.raises(InvalidInputError, match="other settings") as caught:
        report_bag(path, tmp_path / "x", drafter)
    assert caught.value.code == "bag-other-encoder"
    for number, settings in enumerate(("", "1" * 64)):
        write_bag(replace(bag, encoder_settings=settings), tmp_path / f"{number}.parquet")
        assert report_bag(tmp_path / f"{number}.parquet", tmp_path / str(number), drafter).draft.text


def test_progress_counts_every_tile_and_ends_each_stage(run, slide_path):
    calls: list[tuple[str, int, int]] = []
    result = run(slide_path, progress=lambda *call: calls.append(call))
    tiles = [call for call in calls if call[0] == "encode"]

    assert tiles[-1][1] == tiles[-1][2] == result.draft.provenance.slide.tiles
    assert [stage for stage, done, total in calls if done == total] == [
        "open",
        "grid",
        "encode",
        "generate",
        "render",
    ]


def test_memory_holds_one_batch_of_tiles_at_a_time(run, slide_path, server):
    seen: list[int] = []

    class Counting:
        def infer(self, name, tensors):
            if name == "tile_encoder":
                seen.append(len(tensors["tiles"]))
            return server.infer(name, tensors)

    tiles = run(slide_path, server=Counting()).draft.provenance.slide.tiles
    assert max(seen) <= 32
    assert sum(seen) == tiles


def test_features_are_kept_as_float16(run, slide_path):
    assert read_bag(run(slide_path).folder / "bag.parquet").features.dtype == np.float16


def test_two_processes_with_the_same_slide_leave_one_complete_folder(run, slide_path, monkeypatch):
    """The other process's folder appears between looking and renaming."""
    other = run(slide_path, "other").folder
    rename = Path.rename

    def rename_too_late(self, target):
        shutil.copytree(other, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", rename_too_late)
    result = run(slide_path)

    assert result.status == "unchanged"
    assert contents(result.folder) == contents(other)
    assert [path.name for path in result.folder.parent.iterdir()] == ["sound"]


def test_a_mean_pooled_model_is_refused(own_model_dir):
    """It learned from one tile, the mean of all: fed all tiles it would write confident nonsense."""
    update_config(own_model_dir, training={"variant": "corrected"})
    load_model(own_model_dir)
    update_config(own_model_dir, training={"variant": "mean-pooled"})
    with pytest.raises(FatalError, match="mean-pooled baseline") as caught:
        load_model(own_model_dir)
    assert caught.value.code == "model-mean-pooled"
    assert "histgen compare" in caught.value.hint


@pytest.mark.parametrize("part", [{"training": 5}, {"tiling": "x"}, {"tiling": {}}, {"encoder": [1]}])
def test_a_model_whose_config_has_a_section_of_the_wrong_type_is_refused(part, own_model_dir):
    config = json.loads((own_model_dir / "config.json").read_text())
    (own_model_dir / "config.json").write_text(json.dumps(config | part))
    with pytest.raises(FatalError) as caught:
        load_model(own_model_dir)
    assert caught.value.code == "model-config"


def test_onnx_files_of_another_model_are_named(own_model_dir, slide_path, tmp_path):
    tiling = {"tile_px": 128, "mpp": 2.0, "overlap_px": 0, "min_tissue": 0.15}
    update_config(own_model_dir, tiling=tiling)
    model, server = load_model(own_model_dir), OnnxServer(own_model_dir, threads=1)
    with pytest.raises(FatalError, match="not made of the network that config") as caught:
        report_slide(slide_path, tmp_path / "x", Drafter(model, server))
    assert caught.value.code == "model-onnx"
