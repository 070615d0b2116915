"""What every rendering must tell its reader, the most important first, and the wording of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from histgen_lib.reports.record import (
    DraftReport,
    Quality,
    Sentence,
    SimilarAnswer,
    SimilarCases,
    SlideProvenance,
)

Severity = Literal["stop", "caution", "note"]

QUALITY_SENTENCES = {
    "little-tissue": "There is little tissue on the slide.",
    "out-of-focus": "More than half of the tissue is out of focus.",
    "partly-out-of-focus": "Part of the tissue is out of focus.",
    "pen": "There are pen marks on the slide.",
    "overexposed": "Much of the tissue is overexposed.",
    "underexposed": "The slide is too dark.",
    "pale": "The stain is very pale.",
    "enlarged": "The resolution of the scan is lower than the model needs; its tiles were enlarged.",
    "damaged": "The slide file is damaged; the damaged parts were left out.",
    "levels-left-out": "Some reduced levels in the file do not show the same picture as the full-resolution "
    "level; they were not used.",
    "scale-contradicted": "The stated scale differs from the scale in the file by more than 20 %.",
    "scale-doubtful": "The file contradicts its own scale (it has a second one, or a magnification that does "
    "not fit). The first was used; if it is wrong, state the right one with --mpp.",
    "pixels-not-square": "According to the file its pixels are not square; they were treated as square.",
    "encoder-unstated": "The bag does not say which tile encoder made it.",
}


@dataclass(frozen=True)
class Notice:
    """One thing that a reader must know before reading the draft."""

    code: str
    severity: Severity
    title: str
    body: str


UNSUPPORTED = "No region of the slide supports this."
SIMILARITY = (
    "The number says how alike the two slides as a whole look to the retrieval network; the one between two "
    "pictures, how alike these regions do. 1.00 is no difference that it can see. It is not a probability, "
    "and no diagnosis follows from it."
)
OTHER_CASES = "Signed reports of other cases: nothing in them was found on this slide."

_WITHOUT_CASES: dict[SimilarAnswer, str] = {
    "answered": "The case index holds no other signed case to compare this one with.",
    "off": "",
    "away": "Similar signed cases are missing: the case index was not available when this was drafted.",
    "slow": "Similar signed cases are missing: the case index took too long to answer.",
    "other-model": "Similar signed cases are missing: the case index is of another retrieval network and "
    "has to be rebuilt.",
}

_NO_TEXT = Notice("no-text", "stop", "The model wrote nothing", "There is no draft for this slide.")
_UNCALIBRATED = Notice(
    "not-calibrated",
    "caution",
    "Confidence not calibrated",
    "This model's confidence was never compared with the truth, so none is shown. "
    "Check every line with the same care.",
)
_UNCHECKED = Notice(
    "domain-unchecked",
    "caution",
    "Not checked against the training data",
    "This model cannot tell whether the slide resembles the slides it was trained on.",
)


def notices(draft: DraftReport) -> list[Notice]:
    """Return the notices for this draft, the worst first; empty for an ordinary draft."""
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
                f"The model “{draft.provenance.model.name}” was trained only on synthetic, computer-drawn "
                "slides. It has never seen a patient's tissue.",
            )
        )
    return found


def quality_sentence(flag: str) -> str:
    """Return the sentence for a quality flag; an unknown flag is shown as it is."""
    return QUALITY_SENTENCES.get(flag, flag.replace("-", " ").replace("_", " ").capitalize() + ".")


def resolution(slide: SlideProvenance) -> str:
    """Return the scale of a slide, where it comes from, and the file's own scale if that is another."""
    if not slide.mpp:
        return "not stated"
    other = f"; the file says {slide.file_mpp:.4g}" if slide.file_mpp else ""
    return f"{slide.mpp:.4g} µm/px ({slide.mpp_source}{other})"


def quality_words(draft: DraftReport) -> list[str]:
    """Return what spoils the picture, if anything; for a case each sentence begins with the slide's id."""
    if not draft.slides:
        return [quality_sentence(flag) for flag in draft.quality.flags]
    return [f"{s.slide_id}: {quality_sentence(flag)}" for s in draft.slides for flag in s.quality.flags]


def checks_words(draft: DraftReport) -> str:
    """Return what the picture was checked for, and what it was not checked for."""
    quality = draft.quality
    if not quality.checked:
        return "The picture was not checked: only the features of its tiles were available."
    checked = f"Checked: {', '.join(quality.checked)}."
    return f"{checked} Not checked: {', '.join(quality.not_checked)}." if quality.not_checked else checked


def unread_words(draft: DraftReport) -> list[str]:
    """Return how much tissue of each slide no tile covers; nothing where that was not measured."""
    if not draft.slides:
        return _unread(draft.quality)
    return [f"{s.slide_id}: {sentence}" for s in draft.slides for sentence in _unread(s.quality)]


def evidence_unmeasured(draft: DraftReport) -> str:
    """Return that the model's evidence was never measured; empty if it was, or if there is no evidence."""
    lines = [s for s in draft.sentences if s.evidence]
    if not lines or any(s.evidence_check for s in lines):
        return ""
    return "How often this model's evidence tiles show what its lines state has not been measured."


def evidence_words(sentence: Sentence) -> str:
    """Return how far to trust the evidence tiles of a line, from what was measured of the model."""
    check = sentence.evidence_check
    if check is None:
        return "The evidence tiles of lines like this one have not been measured."
    measured = f"{check.hits} of {check.lines} measured slides"
    if check.reliable:
        return f"For such lines, the strongest tile showed the stated finding on {measured}."
    bounds = f"lower bound {percent(check.low)}; {percent(check.threshold)} needed"
    return (
        "Tiles not shown: for such lines, the strongest tile showed the stated finding on only "
        f"{measured} ({bounds})."
    )


def unsupported(draft: DraftReport) -> list[Sentence]:
    """Return the lines that no region of the slide supports; none if the check means nothing here."""
    if draft.out_of_distribution.flag:
        return []
    return [one for one in draft.sentences if one.support and not one.support.supported]


def support_words(sentence: Sentence) -> str:
    """Return why a line is flagged, and how far to trust that; empty for a line that is not."""
    support = sentence.support
    if support is None or support.supported:
        return ""
    of, rates = f" of the slide {support.slide_id}" if support.slide_id else "", support.rates
    return (
        f"The closest region{of} (x {support.region.x}, y {support.region.y} px) scores {support.score:.2f}; "
        f"{support.threshold:.2f} is needed. When this was measured, {rates.wrong_flagged} of {rates.wrong} "
        f"wrong lines were flagged, and {rates.right_flagged} of {rates.right} right ones by mistake."
    )


def similar_words(similar: SimilarCases | None) -> str:
    """Return why no similar case is shown; empty where some are, and where none were looked for."""
    if similar is None or similar.cases:
        return ""
    return _WITHOUT_CASES[similar.answer]


def confidence_words(confidence: float | None) -> str:
    """Return a confidence as it is shown."""
    return "not calibrated" if confidence is None else percent(confidence)


def _unread(quality: Quality) -> list[str]:
    area, share = (quality.measures.get(f"tissue_unread_{of}") for of in ("mm2", "fraction"))
    if area is None or share is None:
        return []
    if share == 0:
        return ["Tiles cover all tissue that was found."]
    part = "less than 1 %" if share < 0.01 else f"{share * 100:.0f} %"
    size = "Less than 0.01 mm²" if area < 0.01 else f"{area:.2f} mm²"
    return [f"{size} of tissue ({part}) is not covered by any tile: the model has not seen it."]


def _out_of_distribution(draft: DraftReport) -> Notice:
    domain = draft.out_of_distribution
    return Notice(
        "out-of-distribution",
        "stop",
        "Out of distribution: do not rely on this draft",
        "This slide does not resemble the slides the model was trained on "
        f"(out-of-distribution score {domain.score or 0:.2f}, limit {domain.threshold or 0:.2f}). "
        "The text below is what the model would have written. It is very likely wrong, "
        "and its confidence values mean nothing here.",
    )


def _low_confidence(draft: DraftReport) -> Notice:
    if not draft.calibrated or draft.confidence is None:
        needed = percent(draft.abstention.threshold)
        reason = f"It needs a confidence of {needed} to stand by a draft, and cannot state its own."
    else:
        stated, needed = _apart(draft.confidence, draft.abstention.threshold)
        reason = f"Its confidence in this draft is {stated}, below the {needed} it needs to stand by a draft."
    return Notice(
        "low-confidence", "caution", "The model abstains", f"{reason} Read the slide without the draft."
    )


def _apart(confidence: float, threshold: float) -> tuple[str, str]:
    """Return both as text, with as many digits as it takes to tell them apart."""
    stated, needed = percent(confidence), percent(threshold)
    if stated == needed:
        return f"{confidence * 100:.2f} %", f"{threshold * 100:.2f} %"
    return stated, needed


def percent(share: float) -> str:
    """0.934 → "93 %". Rounded down, so that nothing short of certainty reads as 100 %."""
    return f"{int(share * 100 + 1e-9)} %"
