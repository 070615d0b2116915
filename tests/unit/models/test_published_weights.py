"""HistGen's published files, in their formats and at full size, up to the draft of a slide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import published_weights as published
import pytest
import tiny_model
import torch

from histgen_lib.bags import read_bag
from histgen_lib.cli.app import run
from histgen_lib.cli.offline.importing import OfficialSource, load_weights
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import sha256_file
from histgen_lib.models.histgen.official import published_sizes

WORDS = 299
"""Different words in the reports; every vocabulary has one more, for words that it does not know."""
PUBLISHED = {"num_heads": 8, "topk": 512, "prototype_num": 512, "region_size": 96}


def _told(**changed: int) -> dict[str, torch.Tensor]:
    """Return the weights that tell sizes, without numbers in them."""
    d = {"d_model": 512, "d_ff": 512, "d_vf": 2048, "cmm_size": 2048, **changed}
    shapes = {
        "encoder_decoder.logit.weight": (300, d["d_model"]),
        "wsi_mapping.weight": (d["d_vf"], 1024),
        "encoder_decoder.memory_matrix": (d["cmm_size"], d["d_model"]),
    }
    for layer in range(3):
        name = f"encoder_decoder.model.decoder.layers.{layer}.feed_forward.w_1.weight"
        shapes[name] = (d["d_ff"], d["d_model"])
    return {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}


def test_sizes_that_weights_of_the_published_size_do_not_tell_are_the_published_ones() -> None:
    table = {published.TABLE: torch.empty(-(-100_000 // 64) + 1, 512, device="meta")}
    assert published_sizes(_told()) == PUBLISHED
    assert published_sizes(_told(), {"topk": 32, "num_heads": None}).keys() == PUBLISHED.keys() - {"topk"}
    assert published_sizes(_told() | table).keys() == PUBLISHED.keys() - {"region_size"}


@pytest.mark.parametrize("other", [{"d_model": 256}, {"d_ff": 1024}, {"d_vf": 512}, {"cmm_size": 64}])
def test_nothing_is_assumed_for_weights_of_any_other_size(other: dict[str, int]) -> None:
    assert published_sizes(_told(**other)) == {}


def test_published_files_become_a_model_that_drafts_a_slide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One test, since the files are large: import, then encode and draft a slide of three tiles."""
    encoder = published.write_tile_encoder(tmp_path / "dinov2_cpath_v1.pth")
    checkpoint = published.write_checkpoint(tmp_path / "model_best.pth", WORDS + 1)
    annotation = published.write_annotation(tmp_path / "annotation.json", WORDS)
    model, out = tmp_path / "model", tmp_path / "drafts"

    def call(*arguments: object) -> dict[str, Any]:
        code = run([*map(str, arguments), "--json"])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        answer: dict[str, Any] = json.loads(printed.out)
        return answer

    named = f"histgen-dinov2-vitl14={encoder}"
    options = ["--annotation", annotation, "--tile-encoder", named, "--out", model]
    facts = call("model", "import-official", checkpoint, *options)
    assert facts["assumed"] == {name: PUBLISHED[name] for name in ("num_heads", "topk", "prototype_num")}
    assert {name: facts["histgen"][name] for name in PUBLISHED} == PUBLISHED
    assert (facts["tiling"]["tile_px"], facts["tiling"]["mpp"]) == (512, 0.25)
    assert (facts["encoder"]["name"], facts["encoder"]["dim"]) == ("histgen-dinov2-vitl14", 1024)
    assert facts["encoder"]["sha256"] == sha256_file(encoder)

    slide = tiny_model.write_slide(tmp_path / "s.tif", side_px=700, mpp=0.25)
    [draft] = call("report", slide, "--model", model, "--out", out)["drafts"]
    bag = read_bag(draft["files"]["bag"])
    assert len(draft["text"].split()) > 1
    assert bag.features.shape == (3, 1024)
    assert (bag.tile_px, bag.mpp, bag.span_px) == (512, 0.25, 512)
    assert (bag.encoder_sha256, bag.encoder_settings) == (
        facts["encoder"]["sha256"],
        facts["encoder"]["settings_sha256"],
    )
    record = json.loads(Path(draft["files"]["json"]).read_text())
    assert record["provenance"]["model"]["sha256"] == facts["sha256"]

    source = OfficialSource(checkpoint, annotation, 10, {"region_size": 64})
    with pytest.raises(InvalidInputError, match="region_size 96, not 64") as caught:
        load_weights(source)
    assert caught.value.code == "checkpoint-size-mismatch"
