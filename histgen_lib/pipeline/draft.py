"""bag→draft: a slide's features to a report that says how sure it is, and when it should not be believed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histgen_lib import __version__
from histgen_lib.bags import Bag
from histgen_lib.errors import InvalidInputError
from histgen_lib.files import canonical_json, sha256_hex
from histgen_lib.inference import InferenceServer
from histgen_lib.pipeline.model import ReportModel
from histgen_lib.pipeline.progress import Progress, silent
from histgen_lib.pipeline.sentences import Generated, make_sentences, report_confidence
from histgen_lib.reports.record import (
    SCHEMA_VERSION,
    Abstention,
    AbstentionReason,
    DraftReport,
    EncoderProvenance,
    ModelProvenance,
    OutOfDistribution,
    Provenance,
    Quality,
    SlideProvenance,
    Tiling,
)
from histgen_lib.slides import QualityReport, Slide
from histgen_lib.text.synoptic import parse_report

SOFTWARE = f"histgen {__version__}"


@dataclass(frozen=True)
class Source:
    """Where a bag came from: an open slide, or (slide None) only the bag itself.

    `bag_given`: the bag was made earlier, not now from the slide; its digest then counts among the inputs.
    """

    slide: Slide | None = None
    quality: QualityReport | None = None
    bag_given: bool = False


@dataclass(frozen=True, eq=False)
class Drafted:
    """A draft and the evidence of each of its sentences over all tiles: float32[S, N]."""

    draft: DraftReport
    weights: NDArray[np.float32]


def bag_to_draft(
    bag: Bag,
    *,
    model: ReportModel,
    server: InferenceServer,
    source: Source | None = None,
    beam_size: int | None = None,
    progress: Progress = silent,
) -> Drafted:
    """Let the model write, then judge what it wrote.

    An out-of-distribution slide gets its draft, and is marked. `beam_size` overrides the model's.
    Raises InvalidInputError("bag-other-encoder") for features of another encoder than the model's, and what
    the server raises.
    """
    _check_encoder(bag, model)
    progress("generate", 0, 1)
    made = Generated.from_tensors(server.infer("histgen", _request(bag, beam_size)), model.folder.tokenizer)
    progress("generate", 1, 1)
    sentences, weights = make_sentences(made, bag, model)
    fields = parse_report(made.text)
    confidence = round(report_confidence(sentences, fields, model.report_statistic), 4)
    domain = check_domain(bag, model)
    reasons = _reasons(made.text, confidence, domain, model)
    draft = DraftReport(
        slide_id=bag.slide_id,
        text=made.text,
        fields=fields,
        confidence=confidence,
        abstained=bool(reasons),
        abstention=Abstention(reasons=reasons, threshold=model.abstention_threshold),
        out_of_distribution=domain,
        quality=_quality(bag, source),
        sentences=sentences,
        provenance=_provenance(bag, model, source or Source(), beam_size),
    )
    return Drafted(draft, weights)


def inputs_digest(model: ReportModel, beam_size: int | None, origin: Mapping[str, Any]) -> str:
    """Digest all that decides on a draft's bytes; `origin` is `slide_origin`'s, or a bag's digest."""
    return sha256_hex(
        canonical_json(
            {
                "software": SOFTWARE,
                "schema": SCHEMA_VERSION,
                "model": model.folder.digest,
                "decoding": _decoding(model, beam_size),
                "origin": dict(origin),
            }
        )
    )


def slide_origin(slide: Slide, given: Bag | None = None) -> dict[str, Any]:
    """Collect what of an open slide (and of a bag `given` with it) decides on its draft."""
    origin = {
        "slide": slide.content_id,
        "mpp": slide.mpp,
        "mpp_source": slide.mpp_source,
        "id": slide.slide_id,
    }
    return origin | ({"bag": given.digest} if given else {})


def check_domain(bag: Bag, model: ReportModel) -> OutOfDistribution:
    """Compare the bag with the model's training world."""
    if model.domain is None or math.isnan(model.domain_threshold):
        return OutOfDistribution(flag=False, score=None, threshold=None, method="none")
    score = round(model.domain.score(bag.features), 4)
    threshold = round(model.domain_threshold, 4)
    return OutOfDistribution(
        flag=score > threshold, score=score, threshold=threshold, method=model.domain.method
    )


def _check_encoder(bag: Bag, model: ReportModel) -> None:
    if bag.encoder_sha256 and model.encoder_sha256 and bag.encoder_sha256 != model.encoder_sha256:
        raise InvalidInputError(
            "bag-other-encoder",
            f"The bag of {bag.slide_id} was made with the tile encoder "
            f"{bag.encoder_name or 'of another model'}, "
            f"but the model {model.folder.name} reads features of {model.encoder_name}.",
            hint="Give the slide itself, or a bag that this model's encoder made (histgen encode).",
        )


def _request(bag: Bag, beam_size: int | None) -> dict[str, NDArray[Any]]:
    request: dict[str, NDArray[Any]] = {"features": bag.features, "xy": bag.xy}
    if bag.has_places:
        request["span_px"] = np.array([bag.span_px], dtype=np.float32)
    if beam_size is not None:
        request["beam_size"] = np.array([beam_size], dtype=np.int32)
    return request


def _reasons(
    text: str, confidence: float, domain: OutOfDistribution, model: ReportModel
) -> tuple[AbstentionReason, ...]:
    found: list[AbstentionReason] = []
    if domain.flag:
        found.append("out-of-distribution")
    if not text.strip():
        found.append("no-text")
    elif confidence < model.abstention_threshold:
        found.append("low-confidence")
    return tuple(found)


def _quality(bag: Bag, source: Source | None) -> Quality:
    flags = () if bag.encoder_sha256 else ("encoder-unstated",)
    if source is None or source.quality is None:
        return Quality(flags=flags)
    stated = source.quality.to_dict()
    measures = {
        name: round(float(value), 4)
        for name, value in sorted(stated.items())
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
    return Quality(flags=(*flags, *stated["flags"]), measures=measures)


def _provenance(bag: Bag, model: ReportModel, source: Source, beam_size: int | None) -> Provenance:
    slide = source.slide
    given = bag if source.bag_given else None
    origin = slide_origin(slide, given) if slide else {"bag": bag.digest}
    return Provenance(
        software=SOFTWARE,
        inputs_digest=inputs_digest(model, beam_size, origin),
        bag_digest=bag.digest,
        slide=_slide_provenance(bag, slide),
        model=ModelProvenance(
            name=model.folder.name, sha256=model.folder.digest, synthetic=model.folder.synthetic
        ),
        encoder=EncoderProvenance(name=bag.encoder_name, sha256=bag.encoder_sha256),
        tiling=Tiling(
            tile_px=bag.tile_px or None,
            mpp=None if math.isnan(bag.mpp) else bag.mpp,
            overlap_px=model.tiling.overlap_px if slide else None,
            min_tissue=model.tiling.min_tissue if slide else None,
        ),
        decoding=_decoding(model, beam_size),
    )


def _slide_provenance(bag: Bag, slide: Slide | None) -> SlideProvenance:
    return SlideProvenance(
        content_id=slide.content_id if slide else None,
        size_px=bag.slide_size if bag.has_places else None,
        mpp=None if math.isnan(bag.slide_mpp) else bag.slide_mpp,
        mpp_source=slide.mpp_source if slide else "bag",
        scanner=slide.scanner if slide else None,
        tiles=len(bag),
    )


def _decoding(model: ReportModel, beam_size: int | None) -> dict[str, int | float | str]:
    settings = model.folder.decoding
    return asdict(settings if beam_size is None else settings.replace(beam_size=beam_size))
