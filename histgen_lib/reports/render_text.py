"""draft.txt: the draft for a terminal, a fax or a copy and paste; the warnings come first."""

from __future__ import annotations

import textwrap

from histgen_lib.reports.notices import notices, percent, quality_sentence
from histgen_lib.reports.record import DraftReport

_WIDTH = 88


def to_text(draft: DraftReport) -> str:
    """Plain text ending in a newline. An out-of-distribution or abstained draft starts with the reason."""
    warnings = [n for n in notices(draft) if n.severity != "note"]
    notes = [n for n in notices(draft) if n.severity == "note"]
    parts = [_wrap(f"*** {n.title.upper()} *** {n.body}") for n in warnings]
    parts.append("\n".join([draft.notice, *(_wrap(f"{n.title}: {n.body}") for n in notes)]))
    parts.append(_title(draft))
    parts.append(draft.text)
    parts += [section for section in (_confidence(draft), _quality(draft)) if section]
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
    lines = [f"Confidence {percent(draft.confidence)}"]
    lines += [
        f"  check first ({percent(s.confidence)}): {s.text.strip().removeprefix('- ')}" for s in doubtful
    ]
    return "\n".join(lines)


def _quality(draft: DraftReport) -> str:
    return "\n".join(f"Quality: {quality_sentence(flag)}" for flag in draft.quality.flags)


def _wrap(text: str) -> str:
    return "\n".join(textwrap.wrap(text, _WIDTH))
