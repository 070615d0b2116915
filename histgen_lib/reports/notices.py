"""The sentences that every rendering must carry, in the order in which they matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from histgen_lib.reports.record import DraftReport

Severity = Literal["stop", "caution", "note"]

QUALITY_SENTENCES = {
    "little-tissue": "There is little tissue on the slide.",
    "out-of-focus": "More than half of the tissue is out of focus.",
    "partly-out-of-focus": "Part of the tissue is out of focus.",
    "pen": "There are pen marks on the slide.",
    "overexposed": "Much of the tissue is overexposed.",
    "underexposed": "The slide is too dark.",
    "pale": "The stain is very pale.",
    "enlarged": "The scan is coarser than the model needs; its tiles were enlarged.",
    "encoder-unstated": "The bag does not say which tile encoder made it.",
}


@dataclass(frozen=True)
class Notice:
    """One thing that a reader must know before the text."""

    code: str
    severity: Severity
    title: str
    body: str


_NO_TEXT = Notice("no-text", "stop", "The model wrote nothing", "There is no draft for this slide.")
_UNCALIBRATED = Notice(
    "not-calibrated",
    "caution",
    "Confidence not calibrated",
    "Nobody has measured how often this model is right, so no line can say how sure it is. Check every line.",
)
_UNCHECKED = Notice(
    "domain-unchecked",
    "caution",
    "Not checked against the training world",
    "This model cannot tell whether the slide looks like the slides it was trained on.",
)


def notices(draft: DraftReport) -> list[Notice]:
    """Collect what must be said of this draft, the worst first; empty for an ordinary draft."""
    found = [_out_of_distribution(draft)] if draft.out_of_distribution.flag else []
    if draft.out_of_distribution.score is None:
        found.append(_UNCHECKED)
    if not draft.calibrated:
        found.append(_UNCALIBRATED)
    if "no-text" in draft.abstention.reasons:
        found.append(_NO_TEXT)
    if "low-confidence" in draft.abstention.reasons and not draft.out_of_distribution.flag:
        found.append(_low_confidence(draft))
    if draft.provenance.model.synthetic:
        found.append(
            Notice(
                "synthetic-model",
                "note",
                "Demonstration model",
                f"The model “{draft.provenance.model.name}” was trained on computer-drawn synthetic slides "
                "only. It has never seen a patient's tissue.",
            )
        )
    return found


def quality_sentence(flag: str) -> str:
    """Put a quality flag into a sentence; an unknown flag is shown as it is."""
    return QUALITY_SENTENCES.get(flag, flag.replace("-", " ").replace("_", " ").capitalize() + ".")


def _out_of_distribution(draft: DraftReport) -> Notice:
    domain = draft.out_of_distribution
    return Notice(
        "out-of-distribution",
        "stop",
        "Out of distribution: do not rely on this draft",
        "This slide does not look like the slides the model was trained on "
        f"(strangeness {domain.score or 0:.2f}, accepted up to {domain.threshold or 0:.2f}). "
        "The text below is what the model would have written; it is very likely wrong, "
        "and its confidences mean nothing here.",
    )


def _low_confidence(draft: DraftReport) -> Notice:
    least = percent(draft.abstention.threshold)
    said = f"Its confidence in this draft is {percent(draft.confidence)}, below the {least} it needs"
    if not draft.calibrated:
        said = f"It needs a confidence of {least}, and cannot tell its own,"
    return Notice(
        "low-confidence",
        "caution",
        "The model abstains",
        f"{said} to stand by a draft. Read the slide without it.",
    )


def percent(share: float | None) -> str:
    """0.934 → "93 %". Rounded down, so that nothing short of certainty reads as 100 %; None: nobody knows."""
    if share is None:
        return "not calibrated"
    return f"{int(share * 100 + 1e-9)} %"
