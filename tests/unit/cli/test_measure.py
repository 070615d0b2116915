"""`histgen model measure` writes its figures where the pipeline finds them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from histgen_lib.cli.offline import scoring
from histgen_lib.cli.offline.cases import MatchedCases
from histgen_lib.cli.offline.scoring import ModelDrafts
from histgen_lib.evaluation import EvidenceCase
from histgen_lib.pipeline import load_model


def _case(slide: int, field: str, *, hit: bool) -> EvidenceCase:
    lesion = np.array([[0, 0], [50, 0], [50, 50], [0, 50]], dtype=np.float64)
    tiles = np.array([[0.0, 0.0], [200.0, 0.0]])
    return EvidenceCase(f"s{slide}", field, tiles[[0 if hit else 1]], tiles, 100.0, (lesion,))


@pytest.fixture
def measure(histgen, own_model_dir, monkeypatch):
    """Measure a model on fabricated drafts; return the exit code and the output."""

    def call(cases, *options):
        monkeypatch.setattr(scoring, "run_model", lambda run: ModelDrafts([], [], cases, run, MatchedCases()))
        where = ["--annotation", "a.json", "--truth", "truth", "--bags", "bags"]
        return histgen("model", "measure", own_model_dir, *where, *options)

    return call


def test_figures_are_stored_in_the_model_and_decide_what_its_drafts_show(measure, own_model_dir):
    cases = [_case(n, "grade", hit=True) for n in range(12)] + [
        _case(n, "necrosis", hit=n == 0) for n in range(9)
    ]
    before = load_model(own_model_dir)
    digest = before.folder.digest
    code, out, _ = measure(cases, "--json")
    after = load_model(own_model_dir)

    assert code == 0
    assert [(c["field"], c["hits"], c["lines"], c["reliable"]) for c in json.loads(out)["evidence"]] == [
        ("grade", 12, 12, True),
        ("necrosis", 1, 9, False),
    ]
    assert before.evidence.check("- Grade: 2") is None
    assert after.evidence.check("- Grade: 2").reliable
    assert not after.evidence.check("- Necrosis: present").reliable
    assert after.folder.digest != digest, "other drafts come of it: to the store it is another model"


def test_the_measured_figures_are_printed(measure):
    _, out, _ = measure([_case(n, "mitotic_score", hit=n == 0) for n in range(9)])

    assert "mitotic score" in out
    assert "1 of 9" in out


def test_nothing_to_measure_is_an_error_and_changes_nothing(measure, own_model_dir):
    before = (own_model_dir / "config.json").read_bytes()
    code, _, err = measure([])

    assert code != 0
    assert "evaluation-no-evidence" in err
    assert (own_model_dir / "config.json").read_bytes() == before
