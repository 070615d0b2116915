"""Bag → draft: what the model writes of a slide, or of all slides of a case, and how far to believe it."""

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
from histgen_lib.models.histgen.serving import NAME
from histgen_lib.pipeline.draft.sentences import Generated, make_sentences, report_confidence
from histgen_lib.pipeline.draft.support import Seen, check_sentences, see
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.pipeline.provenance import Part, Recipe
from histgen_lib.reports.record import (
    Abstention,
    AbstentionReason,
    DraftReport,
    OutOfDistribution,
    Quality,
)
from histgen_lib.text.synoptic import parse_report


@dataclass(frozen=True, eq=False)
class Drafted:
    """A draft, and the evidence of each of its sentences over all tiles of its bags: float32[S, N].

    `seen`: each slide as the retrieval network sees it; empty without one.
    """

    draft: DraftReport
    weights: NDArray[np.float32]
    seen: tuple[Seen, ...] = ()


@dataclass(frozen=True)
class Drafter:
    """Drafts reports. `beam_size` overrides the model's."""

    model: ReportModel
    server: InferenceServer
    beam_size: int | None = None

    @property
    def recipe(self) -> Recipe:
        """What decides the drafts' bytes besides the slides."""
        return Recipe(self.model, self.beam_size)

    def draft(self, bag: Bag | Part) -> Drafted:
        """Draft the report of one slide, and judge it.

        An out-of-distribution slide gets its draft, and is marked. Raises
        InvalidInputError("bag-other-encoder") for features of another encoder than the model's, and what the
        server raises.
        """
        return self._draft([bag if isinstance(bag, Part) else Part(bag)])

    def draft_case(self, case_id: str, parts: Sequence[Part]) -> Drafted:
        """Draft one report of all slides of a case, in the order of `parts`; otherwise as `draft`.

        The case is out of distribution if any of its slides is, and has the quality flags of all of them.
        """
        return self._draft(parts, case_id)

    def _draft(self, parts: Sequence[Part], case_id: str | None = None) -> Drafted:
        model, bags, first = self.model, [part.bag for part in parts], parts[0]
        generated = self._generate(bags)
        named = case_id is not None
        sentences, weights = make_sentences(generated, bags, model, named=named)
        seen = see(model, self.server, bags)
        sentences = check_sentences(sentences, seen, model, self.server, named=named)
        fields = parse_report(generated.text)
        overall = round(report_confidence(sentences, fields, model.report_statistic), 4)
        confidence = overall if model.calibration.known else None
        domain = max((self._check_domain(bag) for bag in bags), key=lambda domain: domain.score or 0.0)
        reasons = _reasons(generated.text, confidence, domain, model.abstention_threshold)
        draft = DraftReport(
            slide_id=first.bag.slide_id if case_id is None else case_id,
            case_id=case_id,
            slides=() if case_id is None else tuple(part.of_case for part in parts),
            text=generated.text,
            fields=fields,
            confidence=confidence,
            calibrated=model.calibration.known,
            abstained=bool(reasons),
            abstention=Abstention(reasons=reasons, threshold=model.abstention_threshold),
            out_of_distribution=domain,
            quality=first.quality if case_id is None else _case_quality(parts),
            sentences=sentences,
            provenance=self.recipe.of_slide(first)
            if case_id is None
            else self.recipe.of_case(case_id, parts),
        )
        return Drafted(draft, weights, seen)

    def _generate(self, bags: Sequence[Bag]) -> Generated:
        for bag in bags:
            self._check_encoder(bag)
        request = _case_request(bags) if len(bags) > 1 else _request(bags[0])
        if self.beam_size is not None:
            request["beam_size"] = np.array([self.beam_size], dtype=np.int32)
        return Generated.from_tensors(self.server.infer(NAME, request), self.model.folder.tokenizer)

    def _check_domain(self, bag: Bag) -> OutOfDistribution:
        """Compare the bag with the slides that the model was trained on."""
        model = self.model
        if model.domain is None or math.isnan(model.domain_threshold):
            return OutOfDistribution(flag=False, score=None, threshold=None, method="none")
        score = round(model.domain.score(bag.features), 4)
        threshold = round(model.domain_threshold, 4)
        return OutOfDistribution(
            flag=score > threshold, score=score, threshold=threshold, method=model.domain.method
        )

    def _check_encoder(self, bag: Bag) -> None:
        """Compare encoders by the digest of their weights if both are known, else by name.

        The width of the features has to fit in any case, and so do settings that both sides know.
        """
        model = self.model
        width, input_dim = bag.features.shape[1], model.folder.histgen.input_dim
        if width != input_dim:
            raise self._other_encoder(
                bag, f"has features of length {width}", f"reads features of length {input_dim}"
            )
        by_digest = bool(bag.encoder_sha256 and model.encoder_sha256)
        theirs = bag.encoder_sha256 if by_digest else bag.encoder_name
        ours = model.encoder_sha256 if by_digest else model.encoder_name
        if theirs and ours and theirs != ours:
            raise self._other_encoder(
                bag, "was made by another tile encoder", f"reads features of {model.encoder_name}"
            )
        settings = bag.encoder_settings, model.encoder_settings
        if by_digest and all(settings) and settings[0] != settings[1]:
            raise self._other_encoder(
                bag,
                f"was made by {model.encoder_name} with other settings (pooling, preprocessing or tiles)",
                "reads features as its own config.json states",
            )

    def _other_encoder(self, bag: Bag, has: str, reads: str) -> InvalidInputError:
        return InvalidInputError(
            "bag-other-encoder",
            f"The bag of {bag.slide_id} {has}, but the model {self.model.folder.name} {reads}.",
            hint="Give the slide itself, or a bag made with this model's encoder (histgen encode).",
        )


def _request(bag: Bag) -> dict[str, NDArray[Any]]:
    request: dict[str, NDArray[Any]] = {"features": bag.features, "xy": bag.xy}
    if bag.has_places:
        request["span_px"] = np.array([bag.span_px], dtype=np.float32)
    return request


def _case_request(bags: Sequence[Bag]) -> dict[str, NDArray[Any]]:
    """Concatenate bags, with places at the first one's scale: slides may differ in theirs."""
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


def _reasons(
    text: str, confidence: float | None, domain: OutOfDistribution, threshold: float
) -> tuple[AbstentionReason, ...]:
    found: list[AbstentionReason] = []
    if domain.flag:
        found.append("out-of-distribution")
    if not text.strip():
        found.append("no-text")
    elif (confidence or 0.0) < threshold:
        found.append("low-confidence")
    return tuple(found)


def _case_quality(parts: Sequence[Part]) -> Quality:
    """Combine the flags of all slides; `checked` is what all of them were checked for."""
    found = [part.quality for part in parts]
    return Quality(
        flags=tuple(dict.fromkeys(flag for one in found for flag in one.flags)),
        checked=tuple(c for c in found[0].checked if all(c in one.checked for one in found)),
        not_checked=tuple(dict.fromkeys(c for one in found for c in one.not_checked)),
    )
