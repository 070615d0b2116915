"""A draft record to render, made by hand."""

from __future__ import annotations

from histgen_lib.reports.record import (
    Abstention,
    DraftReport,
    EncoderProvenance,
    EvidenceTile,
    ModelProvenance,
    OutOfDistribution,
    Provenance,
    Quality,
    Sentence,
    SlideProvenance,
    Tiling,
    Token,
)

TEXT = "Breast, excision:\n  Invasive <script>alert(1)</script> carcinoma\n  - Grade: 2"
SHA = "ab" * 32


def make_draft(**changes) -> DraftReport:
    spans = [(0, 17), (20, 64), (67, 77)]
    confidences = [0.99, 0.95, 0.41]
    sentences = tuple(
        Sentence(
            text=TEXT[a:b],
            start=a,
            end=b,
            confidence=confidence,
            uncertain=confidence < 0.7,
            tokens=(Token(start=b - 1, end=b, probability=confidence),),
            evidence=(EvidenceTile(x=0, y=512, span_px=512, weight=0.75),),
        )
        for (a, b), confidence in zip(spans, confidences, strict=True)
    )
    provenance = Provenance(
        software="histgen 0",
        inputs_digest=SHA,
        bag_digest=SHA,
        slide=SlideProvenance(content_id=SHA, size_px=(2048, 1024), mpp=0.25, mpp_source="file", tiles=3),
        model=ModelProvenance(name="tiny", sha256=SHA, synthetic=True),
        encoder=EncoderProvenance(name="enc", sha256=SHA),
        tiling=Tiling(tile_px=256, mpp=0.5, overlap_px=0, min_tissue=0.15),
        decoding={"beam_size": 3},
    )
    values = {
        "slide_id": "slide-1",
        "text": TEXT,
        "fields": {"organ": "Breast", "procedure": "excision", "grade": "2"},
        "confidence": 0.95,
        "abstained": False,
        "abstention": Abstention(reasons=(), threshold=0.5),
        "out_of_distribution": OutOfDistribution(
            flag=False, score=0.8, threshold=1.2, method="tissue-slide-residual"
        ),
        "quality": Quality(flags=("pen",), measures={"tissue_mm2": 2.0}),
        "sentences": sentences,
        "provenance": provenance,
    }
    return DraftReport(**(values | changes))


def strange() -> dict:
    """List the changes that make a draft out of distribution."""
    return {
        "abstained": True,
        "abstention": Abstention(reasons=("out-of-distribution",), threshold=0.5),
        "out_of_distribution": OutOfDistribution(
            flag=True, score=4.0, threshold=1.2, method="tissue-slide-residual"
        ),
    }
