"""Another model, with another tile encoder, is put in while slides are on their way, and taken out again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model
import torch
from fleet import WAIT_S, Fleet, aborting
from harness import DRAFT, on_this_machine

from histgen_lib.export import to_onnx
from histgen_lib.models.tile_encoder.small import TileEncoder
from histgen_lib.pipeline import load_model

pytestmark = pytest.mark.timeout(1800)  # many services are started, on a machine that may be busy


@pytest.fixture
def other_model(tmp_path) -> Path:
    torch.manual_seed(1)
    folder = tiny_model.make_tiny_model(tmp_path / "other-model", TileEncoder(16))
    to_onnx(folder)
    return folder


@pytest.fixture
def fleet(tmp_path, model_dir) -> Iterator[Fleet]:
    yield from aborting(Fleet(on_this_machine(tmp_path / "place"), tmp_path / "fleet", model_dir, slides=4))


def drafted_by(fleet: Fleet) -> dict[str, str]:
    """Return the digest of the model of each slide's report."""
    keys = [key for key in fleet.keys("reports/") if DRAFT.fullmatch(key)]
    drafts = [json.loads(fleet.store.get(key)) for key in keys]
    return {draft["slide_id"]: draft["provenance"]["model"]["sha256"] for draft in drafts}


def test_a_change_of_model_and_its_rollback_end_each_slide_once(fleet, other_model, model_dir):
    """Put in while bags of the old encoder wait, it gives letters to replay; drained first, none."""
    other = {"HISTGEN_MODEL": str(other_model)}
    fleet.bring("gateway", "tiler", "reporter")
    (first,) = fleet.drop()
    fleet.drafted(first)

    fleet.retire("reporter")
    (second,) = fleet.drop()
    fleet.until(lambda: fleet.finished("tiler") == 2, WAIT_S, "a bag of the old encoder")
    fleet.bring("reporter-other", **other)
    fleet.until(lambda: fleet.letters() == {second: "bag-other-encoder"}, WAIT_S, "it is of no use now")
    fleet.retire("tiler")
    fleet.bring("tiler-other", **other)
    fleet.replay(code="bag-other-encoder")
    fleet.drafted(second, *fleet.drop())

    fleet.retire("tiler-other")
    fleet.until(fleet.idle, WAIT_S, "the reporter has drafted all there is")
    fleet.retire("reporter-other")
    fleet.bring("reporter-back", "tiler-back")
    (last,) = fleet.drop()
    fleet.drafted(last)
    fleet.finish()
    fleet.check_each_once()
    fleet.stop()

    old, new = (load_model(folder).provenance.sha256 for folder in (model_dir, other_model))
    assert list(drafted_by(fleet).values()) == [old, new, new, old]
