"""The sentences of the synthetic world: its organs, diagnoses, fields and the values each may take."""

from __future__ import annotations

from dataclasses import dataclass

BIOPSY: dict[str, str] = {
    "Breast": "core needle biopsy",
    "Colon": "endoscopic biopsy",
    "Stomach": "endoscopic biopsy",
    "Prostate": "core needle biopsy",
    "Lung": "transbronchial biopsy",
    "Urinary bladder": "transurethral resection",
}
"""Organ to the procedure of a specimen without ink; a specimen with ink is an "excision"."""

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
"""Field to its values. `margins` is reported on excisions only."""

MITOSES: dict[str, tuple[int, int]] = {"1": (0, 0), "2": (2, 3), "3": (20, 26)}
"""Mitotic score to the least and the greatest number of mitoses in the hotspot."""


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
