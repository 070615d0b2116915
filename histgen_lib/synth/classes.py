"""What a pixel of a synthetic slide can be: the fixed list behind every truth map."""

from __future__ import annotations

CLASSES: tuple[str, ...] = (
    "background", "fat", "collagen", "lamina_propria", "smooth_muscle", "desmoplasia", "hyaline",
    "breast_epithelium", "colon_epithelium", "gastric_epithelium", "prostate_epithelium",
    "bronchial_epithelium",
    "urothelium", "alveoli", "vessel", "blood", "lymphoid_aggregate",
    "fibroadenoma", "dcis", "adenoma_low", "adenoma_high", "goblet_metaplasia", "pin", "op_plug", "papillary",
    "breast_nst", "breast_mucinous", "colon_adenocarcinoma", "colon_mucinous", "gastric_intestinal",
    "gastric_poorly_cohesive", "prostate_acinar", "lung_adenocarcinoma", "lung_squamous", "lung_small_cell",
    "urothelial_carcinoma", "mucin", "keratin", "necrosis", "vessel_embolus", "lymphocytes_stroma",
    "lymphocytes_in_tumour", "abscess", "granuloma", "ink", "pen", "fold",
)  # fmt: skip
"""Class names; a class's number in the truth PNG is its place in this tuple."""

CLASS_ID: dict[str, int] = {name: number for number, name in enumerate(CLASSES)}

STROMA: tuple[str, ...] = ("collagen", "lamina_propria", "desmoplasia", "smooth_muscle", "fibroadenoma")
"""Classes in whose area inflammatory cells may lie."""
