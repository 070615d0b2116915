"""What a slide is to show, drawn at random before any pixel: the report's fields, sizes and artefacts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histgen_lib.synth.grammar import BIOPSY, DIAGNOSES, INVASIVE_FIELDS, OTHER_FIELDS, Diagnosis
from histgen_lib.text.synoptic import format_report

MPP = 0.25
"""Micrometres per level-0 pixel of every synthetic slide."""

EXCISION = "excision"
ARTEFACTS = ("pen", "fold", "blur", "bubble", "grey background", "yellow background", "stripes", "blood")


@dataclass(frozen=True)
class SlideSpec:
    """One slide before it is rendered; `render` adds only what `seed` and `index` determine.

    `size_px` is (width, height) at level 0; `tissue_share` and `lesion_share` are area fractions of slide and
    tissue; `fields` is what the report states, in its order.
    """

    seed: int
    index: int
    diagnosis: Diagnosis
    fields: dict[str, str]
    size_px: tuple[int, int]
    tissue_share: float
    lesion_share: float
    artefacts: tuple[str, ...]

    @property
    def slide_id(self) -> str:
        """The slide's name: `syn-<seed>-<index>`."""
        return f"syn-{self.seed}-{self.index:05d}"

    @property
    def report(self) -> str:
        """The report that is true of this slide."""
        return format_report(self.fields)

    @property
    def excision(self) -> bool:
        """Whether the specimen is a block with ink on its edge."""
        return self.fields["procedure"] == EXCISION


def sample(seed: int, index: int) -> SlideSpec:
    """Draw slide `index` of `seed`; depends on nothing else."""
    rng = np.random.default_rng([seed, index, 0])
    weights = np.array([d.weight for d in DIAGNOSES])
    diagnosis = DIAGNOSES[rng.choice(len(DIAGNOSES), p=weights / weights.sum())]
    fields = _fields(diagnosis, rng)
    excision = fields["procedure"] == EXCISION
    side = float(np.clip(rng.lognormal(np.log(5400 if excision else 4900), 0.19), 4200, 11800))
    aspect = rng.uniform(0.85, 1.18)
    size = (round(side * aspect**0.5), round(side / aspect**0.5))
    share = rng.uniform(0.45, 0.6) if excision else rng.uniform(0.33, 0.47)
    return SlideSpec(
        seed=seed,
        index=index,
        diagnosis=diagnosis,
        fields=fields,
        size_px=size,
        tissue_share=share,
        lesion_share=_lesion_share(size, share, rng),
        artefacts=_artefacts(rng),
    )


def _fields(diagnosis: Diagnosis, rng: np.random.Generator) -> dict[str, str]:
    excision = rng.random() < (0.5 if diagnosis.invasive else 0.25)
    fields = {
        "organ": diagnosis.organ,
        "procedure": EXCISION if excision else BIOPSY[diagnosis.organ],
        "diagnosis": diagnosis.text,
    }
    for name in INVASIVE_FIELDS if diagnosis.invasive else OTHER_FIELDS:
        value = str(rng.choice(diagnosis.values(name)))
        if name != "margins" or excision:
            fields[name] = value
    return fields


def _lesion_share(size: tuple[int, int], share: float, rng: np.random.Generator) -> float:
    """Return the lesion's part of the tissue: skewed to small, never under 0.15 mm² nor over 58 %."""
    tissue_mm2 = size[0] * size[1] * share * (MPP / 1000) ** 2
    return float(min(0.55, max(0.17 / tissue_mm2, rng.uniform(0.2, 0.55))))


def _artefacts(rng: np.random.Generator) -> tuple[str, ...]:
    count = int(rng.choice(4, p=[0.35, 0.35, 0.2, 0.1]))
    chosen = set(rng.choice(ARTEFACTS, size=count, replace=False).tolist())
    if {"grey background", "yellow background"} <= chosen:
        chosen.discard("yellow background")
    return tuple(name for name in ARTEFACTS if name in chosen)
