"""The sentences that every rendering must carry, in the order in which they matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from histgen_lib.reports.record import DraftReport

Severity = Literal["stop", "caution", "note"]

QUALITY_SENTENCES = {
    "blurred": "Part of the slide is out of focus.",
    "low-tissue": "There is little tissue on the slide.",
    "pen": "There are pen marks on the slide.",
    "overexposed": "Part of the slide is overexposed.",
    "underexposed": "Part of the slide is too dark.",
}


@dataclass(frozen=True)
class Notice:
    """One thing that a reader must know before the text."""

    code: str
    severity: Severity
    title: str
    body: str


def notices(draft: DraftReport) -> list[Notice]:
    """What must be said of this draft, the worst first. Empty only for an ordinary draft of a real model."""
    found = [_out_of_distribution(draft)] if draft.out_of_distribution.flag else []
    if "too-little-tissue" in draft.abstention.reasons:
        found.append(
            Notice(
                "too-little-tissue",
                "stop",
                "Too little tissue for a draft",
                f"Only {draft.provenance.slide.tiles} tile(s) of tissue could be read.",
            )
        )
    if "low-confidence" in draft.abstention.reasons:
        found.append(_low_confidence(draft))
    if draft.provenance.model.synthetic:
        found.append(
            Notice(
                "synthetic-model",
                "note",
                "Demonstration model",
                f"The model “{draft.provenance.model.name}” was trained on computer-drawn synthetic slides only. "
                "It has never seen a patient's tissue.",
            )
        )
    return found


def quality_sentence(flag: str) -> str:
    """A sentence for a quality flag; an unknown flag is shown as it is."""
    return QUALITY_SENTENCES.get(flag, flag.replace("-", " ").replace("_", " ").capitalize() + ".")


def _out_of_distribution(draft: DraftReport) -> Notice:
    domain = draft.out_of_distribution
    return Notice(
        "out-of-distribution",
        "stop",
        "Out of distribution: do not rely on this draft",
        "This slide does not look like the slides the model was trained on "
        f"(strangeness {domain.score:.2f}, accepted up to {domain.threshold:.2f}). "
        "The text below is what the model would have written; it is very likely wrong, "
        "and its confidences mean nothing here.",
    )


def _low_confidence(draft: DraftReport) -> Notice:
    return Notice(
        "low-confidence",
        "caution",
        "The model abstains",
        f"Its confidence in this draft is {percent(draft.confidence)}, below the "
        f"{percent(draft.abstention.threshold)} it needs to stand by a draft. Read the slide without it.",
    )


def percent(share: float) -> str:
    """0.934 → "93 %". Rounded down, so that nothing short of certainty reads as 100 %."""
    return f"{int(share * 100 + 1e-9)} %"
