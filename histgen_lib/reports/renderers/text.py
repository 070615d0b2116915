"""draft.txt: the draft for a terminal, a fax, or copying and pasting; the warnings come first."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from histgen_lib.reports.notices import (
    OTHER_CASES,
    SIMILARITY,
    UNSUPPORTED,
    checks_words,
    confidence_words,
    evidence_unmeasured,
    evidence_words,
    notices,
    quality_words,
    resolution,
    similar_words,
    support_words,
    unread_words,
    unsupported,
)
from histgen_lib.reports.record import DraftReport, Sentence, SimilarCase

if TYPE_CHECKING:
    from histgen_lib.reports.pictures import Pictures

_WIDTH = 88


def render(draft: DraftReport, pictures: Sequence[Pictures]) -> bytes:
    """Render draft.txt, which shows no pictures."""
    return to_text(draft).encode()


def to_text(draft: DraftReport) -> str:
    """Return the draft as text that ends in a newline; if the model abstained, it starts with the reason."""
    warnings = [n for n in notices(draft) if n.severity != "note"]
    notes = [n for n in notices(draft) if n.severity == "note"]
    parts = [_wrap(f"*** {n.title.upper()} *** {n.body}") for n in warnings]
    parts.append("\n".join([draft.notice, *(_wrap(f"{n.title}: {n.body}") for n in notes)]))
    parts.append(_title(draft))
    parts.append(draft.text)
    sections = _confidence(draft), _support(draft), _evidence(draft), _similar(draft), _quality(draft)
    parts += [section for section in sections if section]
    return "\n\n".join(parts) + "\n"


def _title(draft: DraftReport) -> str:
    if draft.case_id is None:
        return f"Slide {draft.slide_id}"
    return _wrap(f"Case {draft.case_id}: slides {', '.join(part.slide_id for part in draft.slides)}")


def _confidence(draft: DraftReport) -> str:
    if draft.out_of_distribution.flag:
        return ""
    if not draft.calibrated:
        return "Confidence not calibrated"
    doubtful = sorted((s for s in draft.sentences if s.uncertain), key=lambda s: s.confidence or 0)
    lines = [f"Confidence {confidence_words(draft.confidence)}"]
    lines += [f"  check first ({confidence_words(s.confidence)}): {_plain(s)}" for s in doubtful]
    return "\n".join(lines)


def _evidence(draft: DraftReport) -> str:
    """Name the lines whose tiles the page does not show; empty for a draft without tiles."""
    if unmeasured := evidence_unmeasured(draft):
        return _wrap(f"Evidence: {unmeasured}")
    hidden = [s for s in draft.sentences if s.evidence and not s.shown_evidence]
    return "\n".join(_wrap(f"Evidence for {_plain(s)}: {evidence_words(s)}") for s in hidden)


def _support(draft: DraftReport) -> str:
    """Name the lines that no region of the slide supports."""
    return "\n".join(_wrap(f"{UNSUPPORTED} {_plain(s)}: {support_words(s)}") for s in unsupported(draft))


def _similar(draft: DraftReport) -> str:
    """List the similar signed cases, or say why there are none."""
    cases = draft.similar.cases if draft.similar else ()
    if not cases:
        return _wrap(similar_words(draft.similar))
    heading = _wrap(f"Similar signed cases. {OTHER_CASES} {SIMILARITY}")
    return "\n".join([heading, *(f"  {one.score:.2f} {_title_of(one)}" for one in cases)])


def _title_of(case: SimilarCase) -> str:
    words = [case.organ, case.diagnosis or case.text.partition("\n")[0]]
    of = f"case {case.case_id}" if case.case_id else f"slide {case.slide_id}"
    return f"{', '.join(filter(None, words))} ({of})"


def _quality(draft: DraftReport) -> str:
    sentences = [*quality_words(draft), *unread_words(draft), checks_words(draft)]
    lines = [_wrap(f"Quality: {sentence}") for sentence in sentences]
    return "\n".join([*lines, *_other_scales(draft)])


def _other_scales(draft: DraftReport) -> list[str]:
    """Return both scales of each slide whose file states another scale than the one used."""
    slides = [(part.slide_id, part.slide) for part in draft.slides] or [("", draft.provenance.slide)]
    return [f"Resolution{of and ' of '}{of}: {resolution(slide)}" for of, slide in slides if slide.file_mpp]


def _plain(sentence: Sentence) -> str:
    return sentence.text.strip().removeprefix("- ")


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH))
