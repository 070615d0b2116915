"""bag→draft: the features of a slide, or of a case's slides together, to a report that says how sure it is.

And when it should not be believed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib.bags import Bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.inference import InferenceServer
from histgen_lib.pipeline.draft.sentences import Generated, make_sentences, report_confidence
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.pipeline.progress import Progress, silent
from histgen_lib.pipeline.provenance import (
    Part,
    provenance_of_case,
    provenance_of_slide,
    quality_of_part,
    slide_provenance,
)
from histgen_lib.reports.record import (
    Abstention,
    AbstentionReason,
    CaseSlide,
    DraftReport,
    OutOfDistribution,
    Quality,
    Sentence,
)
from histgen_lib.text.synoptic import parse_report


@dataclass(frozen=True, eq=False)
class Drafted:
    """A draft and the evidence of each of its sentences over all tiles of its bags: float32[S, N]."""

    draft: DraftReport
    weights: NDArray[np.float32]


def bag_to_draft(
    bag: Bag | Part,
    *,
    model: ReportModel,
    server: InferenceServer,
    beam_size: int | None = None,
    progress: Progress = silent,
) -> Drafted:
    """Let the model write of one slide, then judge what it wrote.

    An out-of-distribution slide gets its draft, and is marked. `beam_size` overrides the model's.
    Raises InvalidInputError("bag-other-encoder") for features of another encoder than the model's, and what
    the server raises.
    """
    part = bag if isinstance(bag, Part) else Part(bag)
    made = _write([part.bag], model, server, beam_size, progress)
    sentences, weights = make_sentences(made, [part.bag], model)
    draft = DraftReport(
        slide_id=part.bag.slide_id,
        text=made.text,
        sentences=sentences,
        quality=quality_of_part(part),
        provenance=provenance_of_slide(part, model, beam_size),
        **_judged(made.text, sentences, check_domain(part.bag, model), model),
    )
    return Drafted(draft, weights)


def bags_to_case_draft(
    case_id: str,
    parts: Sequence[Part],
    *,
    model: ReportModel,
    server: InferenceServer,
    beam_size: int | None = None,
    progress: Progress = silent,
) -> Drafted:
    """Let the model write one report of all slides of a case, in the order of `parts`; as `bag_to_draft`.

    The case is out of distribution if any of its slides is, and has the flags of all of them.
    """
    bags = [part.bag for part in parts]
    made = _write(bags, model, server, beam_size, progress)
    sentences, weights = make_sentences(made, bags, model, named=True)
    domains = [check_domain(bag, model) for bag in bags]
    draft = DraftReport(
        slide_id=case_id,
        case_id=case_id,
        slides=tuple(_case_slide(part) for part in parts),
        text=made.text,
        sentences=sentences,
        quality=_all_flags(parts),
        provenance=provenance_of_case(case_id, parts, model, beam_size),
        **_judged(made.text, sentences, max(domains, key=lambda domain: domain.score or 0.0), model),
    )
    return Drafted(draft, weights)


def check_domain(bag: Bag, model: ReportModel) -> OutOfDistribution:
    """Compare the bag with the model's training world."""
    if model.domain is None or math.isnan(model.domain_threshold):
        return OutOfDistribution(flag=False, score=None, threshold=None, method="none")
    score = round(model.domain.score(bag.features), 4)
    threshold = round(model.domain_threshold, 4)
    return OutOfDistribution(
        flag=score > threshold, score=score, threshold=threshold, method=model.domain.method
    )


def _write(
    bags: Sequence[Bag],
    model: ReportModel,
    server: InferenceServer,
    beam_size: int | None,
    progress: Progress,
) -> Generated:
    for bag in bags:
        _check_encoder(bag, model)
    progress("generate", 0, 1)
    request = _case_request(bags) if len(bags) > 1 else _request(bags[0])
    if beam_size is not None:
        request["beam_size"] = np.array([beam_size], dtype=np.int32)
    made = Generated.from_tensors(server.infer("histgen", request), model.folder.tokenizer)
    progress("generate", 1, 1)
    return made


def _check_encoder(bag: Bag, model: ReportModel) -> None:
    """By the weights' digest where both say it, else by name; the width has to fit in any case."""
    made, read = (bag.encoder_name, bag.encoder_sha256), (model.encoder_name, model.encoder_sha256)
    told_by = 1 if made[1] and read[1] else 0
    width, wanted = bag.features.shape[1], model.folder.histgen.input_dim
    if width != wanted:
        raise _other_encoder(bag, model, f"has features of length {width}", f"of length {wanted}")
    if made[told_by] and read[told_by] and made[told_by] != read[told_by]:
        raise _other_encoder(bag, model, "was made with another tile encoder", f"of {model.encoder_name}")


def _other_encoder(bag: Bag, model: ReportModel, made: str, read: str) -> InvalidInputError:
    return InvalidInputError(
        "bag-other-encoder",
        f"The bag of {bag.slide_id} {made}, but the model {model.folder.name} reads features {read}.",
        hint="Give the slide itself, or a bag that this model's encoder made (histgen encode).",
    )


def _request(bag: Bag) -> dict[str, NDArray[Any]]:
    request: dict[str, NDArray[Any]] = {"features": bag.features, "xy": bag.xy}
    if bag.has_places:
        request["span_px"] = np.array([bag.span_px], dtype=np.float32)
    return request


def _case_request(bags: Sequence[Bag]) -> dict[str, NDArray[Any]]:
    """Put bags one after the other, places at the first one's scale: slides may differ in theirs."""
    span_px = bags[0].span_px
    request: dict[str, NDArray[Any]] = {
        "features": np.concatenate([bag.features for bag in bags]),
        "xy": np.concatenate([_scaled(bag, span_px) for bag in bags]),
        "slide": np.repeat(np.arange(len(bags)), [len(bag) for bag in bags]).astype(np.int32),
    }
    if bags[0].has_places:
        request["span_px"] = np.array([span_px], dtype=np.float32)
    return request


def _scaled(bag: Bag, span_px: float) -> NDArray[np.int32]:
    if bag.span_px == span_px or not bag.has_places:
        return bag.xy
    return np.asarray(np.rint(bag.xy * (span_px / bag.span_px)), dtype=np.int32)


def _judged(
    text: str, sentences: Sequence[Sentence], domain: OutOfDistribution, model: ReportModel
) -> dict[str, Any]:
    """Say how far the model stands by what it wrote: the fields of the draft that tell."""
    fields = parse_report(text)
    calibrated = model.calibration.known
    stated = round(report_confidence(sentences, fields, model.report_statistic), 4)
    confidence = stated if calibrated else None
    reasons = _reasons(text, confidence, domain, model)
    return {
        "fields": fields,
        "confidence": confidence,
        "calibrated": calibrated,
        "abstained": bool(reasons),
        "abstention": Abstention(reasons=reasons, threshold=model.abstention_threshold),
        "out_of_distribution": domain,
    }


def _reasons(
    text: str, confidence: float | None, domain: OutOfDistribution, model: ReportModel
) -> tuple[AbstentionReason, ...]:
    found: list[AbstentionReason] = []
    if domain.flag:
        found.append("out-of-distribution")
    if not text.strip():
        found.append("no-text")
    elif (confidence or 0.0) < model.abstention_threshold:
        found.append("low-confidence")
    return tuple(found)


def _case_slide(part: Part) -> CaseSlide:
    return CaseSlide(
        slide_id=part.bag.slide_id,
        bag_digest=part.bag.digest,
        slide=slide_provenance(part),
        quality=quality_of_part(part),
    )


def _all_flags(parts: Sequence[Part]) -> Quality:
    """Collect the flags of all slides; checked is what all of them were checked for."""
    found = [quality_of_part(part) for part in parts]
    return Quality(
        flags=tuple(dict.fromkeys(flag for one in found for flag in one.flags)),
        checked=tuple(c for c in found[0].checked if all(c in one.checked for one in found)),
        not_checked=tuple(dict.fromkeys(c for one in found for c in one.not_checked)),
    )
