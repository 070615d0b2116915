"""The sentences that every rendering must carry, in the order in which they matter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from histgen_lib.reports.record import DraftReport, Quality, Sentence, SlideProvenance

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
    "damaged": "The slide's file is damaged; what is damaged was left out.",
    "levels-left-out": "Some smaller copies of the picture in the file do not show what the full one shows; "
    "they were not used.",
    "scale-contradicted": "The scale that was stated is more than a fifth off the one that the file states.",
    "scale-doubtful": "The file contradicts its own scale (a second one, or the magnification beside it): "
    "everything rests on the first; if it is wrong, state the right one with --mpp.",
    "pixels-not-square": "The file says that its pixels are not square; they were taken as square.",
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
    "Nobody has compared this model's confidence with what was right, so none is shown. "
    "Check every line alike.",
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


def resolution(slide: SlideProvenance) -> str:
    """Say the scale of a slide, who is believed in it, and what the file itself states if that is another."""
    if not slide.mpp:
        return "not stated"
    other = f"; the file says {slide.file_mpp:.4g}" if slide.file_mpp else ""
    return f"{slide.mpp:.4g} µm/px ({slide.mpp_source}{other})"


def quality_words(draft: DraftReport) -> list[str]:
    """Say what spoils the picture, if anything; of a case with the slide's name before each sentence."""
    if not draft.slides:
        return [quality_sentence(flag) for flag in draft.quality.flags]
    return [f"{s.slide_id}: {quality_sentence(flag)}" for s in draft.slides for flag in s.quality.flags]


def checks_words(draft: DraftReport) -> str:
    """Say what the picture was checked for, and what it was not."""
    quality = draft.quality
    if not quality.checked:
        return "The picture was not checked: only its features were given."
    made = f"Checked: {', '.join(quality.checked)}."
    return f"{made} Not checked: {', '.join(quality.not_checked)}." if quality.not_checked else made


def unread_words(draft: DraftReport) -> list[str]:
    """Say how much tissue lies in no tile, of each slide; nothing where nobody measured it."""
    if not draft.slides:
        return _unread(draft.quality)
    return [f"{s.slide_id}: {sentence}" for s in draft.slides for sentence in _unread(s.quality)]


def evidence_unmeasured(draft: DraftReport) -> str:
    """Say that nobody measured the model's evidence; empty where somebody did, or where there is none."""
    lines = [s for s in draft.sentences if s.evidence]
    if not lines or any(s.evidence_check for s in lines):
        return ""
    return "How often this model's tiles show what its lines state was not measured."


def evidence_words(sentence: Sentence) -> str:
    """Say how far the tiles of a line are to be believed, from what was measured of the model."""
    check = sentence.evidence_check
    if check is None:
        return "Tiles of such lines were not measured."
    measured = f"The strongest tile showed it in {check.hits} of {check.lines} measured slides"
    if check.reliable:
        return f"{measured}."
    bounds = f"at least {percent(check.low)}; {percent(check.threshold)} is needed"
    return f"{measured}: not shown as evidence ({bounds})."


def confidence_words(confidence: float | None) -> str:
    """Put a confidence as it is shown."""
    return "not calibrated" if confidence is None else percent(confidence)


def _unread(quality: Quality) -> list[str]:
    area, share = (quality.measures.get(f"tissue_unread_{of}") for of in ("mm2", "fraction"))
    if area is None or share is None:
        return []
    if share == 0:
        return ["All tissue that was found lies in tiles."]
    part = "less than 1 %" if share < 0.01 else f"{share * 100:.0f} %"
    size = "Less than 0.01 mm²" if area < 0.01 else f"{area:.2f} mm²"
    return [f"{size} of tissue ({part} of it) lies in no tile: the model has not seen it."]


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
    if not draft.calibrated or draft.confidence is None:
        said = f"It needs a confidence of {percent(draft.abstention.threshold)}, and cannot tell its own,"
    else:
        stated, needed = _apart(draft.confidence, draft.abstention.threshold)
        said = f"Its confidence in this draft is {stated}, below the {needed} it needs"
    return Notice(
        "low-confidence",
        "caution",
        "The model abstains",
        f"{said} to stand by a draft. Read the slide without it.",
    )


def _apart(confidence: float, threshold: float) -> tuple[str, str]:
    """Put both in words that differ, as they do."""
    stated, needed = percent(confidence), percent(threshold)
    if stated == needed:
        return f"{confidence * 100:.2f} %", f"{threshold * 100:.2f} %"
    return stated, needed


def percent(share: float) -> str:
    """0.934 → "93 %". Rounded down, so that nothing short of certainty reads as 100 %."""
    return f"{int(share * 100 + 1e-9)} %"
