"""HistGen's published files, in their formats and at full size, up to the draft of a slide."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import published_weights as published
import pytest
import tiny_model
import torch

from histgen_lib.bags import read_bag
from histgen_lib.cli.app import run
from histgen_lib.files import sha256_file

WORDS = 299


def test_published_files_become_a_model_that_drafts_a_slide(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One test, since the files are large: import, then encode and draft a slide of few tiles."""
    encoder = published.write_tile_encoder(tmp_path / "dinov2_cpath_v1.pth")
    checkpoint = published.write_checkpoint(tmp_path / "model_best.pth", WORDS + 1)
    annotation = published.write_annotation(tmp_path / "annotation.json", WORDS)
    model, out = tmp_path / "model", tmp_path / "drafts"
    options = ["--annotation", annotation, "--tile-encoder", f"histgen-dinov2-vitl14={encoder}", "--out", model]

    def call(*arguments: object) -> dict[str, object]:
        code = run([*map(str, arguments), "--json"])
        printed = capsys.readouterr()
        assert code == 0, printed.err
        answer: dict[str, object] = json.loads(printed.out)
        return answer

    facts = call("model", "import-official", checkpoint, *options)
    print(facts)
    slide = tiny_model.write_slide(tmp_path / "s.tif", side_px=1200, mpp=0.25)
    answer = call("report", slide, "--model", model, "--out", out)
    print(answer)
