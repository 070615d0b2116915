"""A reporter whose model has a retrieval network, over a case index that a test fills."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import tiny_model
from case_entries import entry
from job_kit import JobLab, scanned
from tiny_retrieval import tiny_retrieval_model

from histgen_lib.events import BagReady
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen.checkpoint import update_config
from histgen_lib.pipeline.draft.similar import NearestCases
from histgen_lib.reports.record import DraftReport
from histgen_lib.reports.renderers.draft_json import from_json
from histgen_lib.retrieval import CaseEntry, CaseIndex
from histgen_lib.storage import ObjectStore
from histgen_lib.testing.cases import MemoryCaseIndex

FIGURES = {"right": 120, "right_flagged": 3, "wrong": 80, "wrong_flagged": 62}


def checking_model(folder: Path, threshold: float, **more: object) -> Path:
    """Copy the tiny model with a retrieval network; a line needs this score, unless `more` says otherwise."""
    shutil.copytree(tiny_retrieval_model(), folder)
    return with_figures(folder, {"lines": {"threshold": threshold, **FIGURES}, **more})


def with_figures(folder: Path, consistency: dict[str, object]) -> Path:
    """Set the figures of the consistency check in a model folder."""
    retrieval = dict(open_model_folder(folder).retrieval)
    update_config(folder, retrieval=retrieval | {"consistency": consistency})
    return folder


@dataclass
class SimilarLab:
    """A scanned slide, and what it takes to draft it beside the cases of an index."""

    lab: JobLab
    ready: BagReady

    @classmethod
    def scanned(cls, folder: Path, model: Path, name: str = "sound", seed: int = 0) -> SimilarLab:
        """Scan a slide of this name into the store at `folder`."""
        lab = JobLab.at(folder, model)
        slide = tiny_model.write_slide(folder / f"{name}.tif", side_px=640, seed=seed)
        return cls(lab, lab.scan_job.make_bag(scanned(slide)))

    def copy(self, folder: Path) -> SimilarLab:
        """Return the same over a copy of the store, with the same loaded networks."""
        shutil.copytree(self.lab.folder / "store", folder / "store")
        return replace(self, lab=JobLab.at(folder, self.lab.model.folder.path, self.lab.server))

    @property
    def network(self) -> str:
        """The digest of the retrieval network."""
        return self.lab.model.folder.retrieval_digest

    def signed(self, slide_id: str, seed: int = 5, **more: object) -> CaseEntry:
        """Make an entry that this slide's draft may cite."""
        return entry(slide_id, seed, **({"signed": True, "model": self.network} | more))

    def beside(self, *entries: CaseEntry, index: CaseIndex | None = None) -> JobLab:
        """Return the lab with an index that holds these entries."""
        filled = index or MemoryCaseIndex()
        filled.put(entries)
        return self.over(lambda: filled)

    def over(self, opened: Callable[[], CaseIndex], **settings: float) -> JobLab:
        """Return the lab with the index that `opened` returns."""
        return replace(self.lab, nearest=NearestCases(opened, self.lab.store, **settings))


def draft_in(store: ObjectStore, owner: str = "sound") -> DraftReport:
    """Return the one draft of a slide."""
    (key,) = [one.key for one in store.list(f"reports/{owner}/") if one.key.endswith("/draft.json")]
    return from_json(store.get(key))


def page_in(store: ObjectStore, owner: str = "sound") -> str:
    """Return the page of the one draft of a slide."""
    (key,) = [one.key for one in store.list(f"reports/{owner}/") if one.key.endswith("/draft.html")]
    return store.get(key).decode()
