"""What a slide shows, drawn at random before any pixel: diagnosis, report fields, sizes and artefacts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from histgen_lib.text.synoptic import format_report

BIOPSY: dict[str, str] = {
    "Breast": "core needle biopsy",
    "Colon": "endoscopic biopsy",
    "Stomach": "endoscopic biopsy",
    "Prostate": "core needle biopsy",
    "Lung": "transbronchial biopsy",
    "Urinary bladder": "transurethral resection",
}
"""Organ to the procedure of a specimen without ink; one with ink is an "excision"."""

INVASIVE_FIELDS = (
    "grade",
    "mitotic_score",
    "necrosis",
    "lymphovascular_invasion",
    "tumor_infiltrating_lymphocytes",
    "margins",
)
OTHER_FIELDS = ("inflammation", "granulomas")

VALUES: dict[str, tuple[str, ...]] = {
    "grade": ("1", "2", "3"),
    "mitotic_score": ("1", "2", "3"),
    "necrosis": ("present", "not identified"),
    "lymphovascular_invasion": ("present", "not identified"),
    "tumor_infiltrating_lymphocytes": ("absent", "peritumoral", "intratumoral"),
    "margins": ("involved", "uninvolved"),
    "inflammation": ("none", "chronic", "chronic active"),
    "granulomas": ("present", "not identified"),
}
"""Field to its values. `margins` is reported only for excisions."""

MITOSES: dict[str, tuple[int, int]] = {"1": (0, 0), "2": (2, 3), "3": (20, 26)}
"""Mitotic score to the smallest and largest number of mitoses in the hotspot."""

MPP = 0.25
"""Micrometres per level-0 pixel of every synthetic slide."""

EXCISION = "excision"
ARTEFACTS = ("pen", "fold", "blur", "bubble", "grey background", "yellow background", "stripes", "blood")


@dataclass(frozen=True)
class Diagnosis:
    """One diagnosis line: the class its lesion is painted with, and which values are medically possible."""

    organ: str
    text: str
    lesion: str
    invasive: bool = False
    weight: float = 1.0
    only: tuple[tuple[str, tuple[str, ...]], ...] = ()

    def values(self, field: str) -> tuple[str, ...]:
        """Return the values `field` may take under this diagnosis."""
        return dict(self.only).get(field, VALUES[field])


_QUIET = (("inflammation", ("none",)), ("granulomas", ("not identified",)))
_GASTRITIS = (("inflammation", ("chronic", "chronic active")),)
_CHRONIC = (("inflammation", ("chronic",)),)
_HIGH = (("grade", ("3",)),)
_SIGNET = (*_HIGH, ("mitotic_score", ("1",)))

DIAGNOSES: tuple[Diagnosis, ...] = (
    Diagnosis("Breast", "Benign breast tissue", "", weight=1.2),
    Diagnosis("Breast", "Fibroadenoma", "fibroadenoma", weight=0.8),
    Diagnosis("Breast", "Ductal carcinoma in situ", "dcis", weight=0.9),
    Diagnosis("Breast", "Invasive carcinoma of no special type", "breast_nst", True, 1.5),
    Diagnosis("Breast", "Mucinous carcinoma", "breast_mucinous", True),
    Diagnosis("Colon", "Unremarkable colonic mucosa", "", weight=0.8, only=_QUIET),
    Diagnosis("Colon", "Tubular adenoma with low-grade dysplasia", "adenoma_low"),
    Diagnosis("Colon", "Tubular adenoma with high-grade dysplasia", "adenoma_high"),
    Diagnosis("Colon", "Adenocarcinoma", "colon_adenocarcinoma", True, 1.4),
    Diagnosis("Colon", "Mucinous adenocarcinoma", "colon_mucinous", True),
    Diagnosis("Stomach", "Unremarkable gastric mucosa", "", weight=0.8, only=_QUIET),
    Diagnosis("Stomach", "Chronic gastritis", "", weight=0.9, only=_GASTRITIS),
    Diagnosis(
        "Stomach", "Chronic gastritis with intestinal metaplasia", "goblet_metaplasia", only=_GASTRITIS
    ),
    Diagnosis("Stomach", "Adenocarcinoma, intestinal type", "gastric_intestinal", True, 1.4),
    Diagnosis("Stomach", "Poorly cohesive carcinoma", "gastric_poorly_cohesive", True, only=_SIGNET),
    Diagnosis("Prostate", "Benign prostatic tissue", "", weight=1.2),
    Diagnosis("Prostate", "Acinar adenocarcinoma", "prostate_acinar", True, 1.8),
    Diagnosis("Prostate", "High-grade prostatic intraepithelial neoplasia", "pin"),
    Diagnosis("Lung", "Unremarkable lung parenchyma", "", weight=0.8, only=_QUIET),
    Diagnosis("Lung", "Organizing pneumonia", "op_plug", weight=0.8, only=_CHRONIC),
    Diagnosis("Lung", "Adenocarcinoma", "lung_adenocarcinoma", True, 1.3),
    Diagnosis("Lung", "Squamous cell carcinoma", "lung_squamous", True, 1.2),
    Diagnosis("Lung", "Small cell carcinoma", "lung_small_cell", True, only=_HIGH),
    Diagnosis("Urinary bladder", "Unremarkable urothelium", "", weight=0.8, only=_QUIET),
    Diagnosis("Urinary bladder", "Non-invasive papillary urothelial carcinoma", "papillary"),
    Diagnosis(
        "Urinary bladder",
        "Invasive urothelial carcinoma, muscularis propria not invaded",
        "urothelial_carcinoma",
        True,
        1.2,
    ),
    Diagnosis(
        "Urinary bladder",
        "Invasive urothelial carcinoma with invasion of muscularis propria",
        "urothelial_carcinoma",
        True,
        1.2,
    ),
)


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
    """Draw the lesion's share of the tissue: 20 to 55 %, and at least 0.17 mm² if 55 % allows it."""
    tissue_mm2 = size[0] * size[1] * share * (MPP / 1000) ** 2
    return float(min(0.55, max(0.17 / tissue_mm2, rng.uniform(0.2, 0.55))))


def _artefacts(rng: np.random.Generator) -> tuple[str, ...]:
    count = int(rng.choice(4, p=[0.35, 0.35, 0.2, 0.1]))
    chosen = set(rng.choice(ARTEFACTS, size=count, replace=False).tolist())
    if {"grey background", "yellow background"} <= chosen:
        chosen.discard("yellow background")
    return tuple(name for name in ARTEFACTS if name in chosen)
