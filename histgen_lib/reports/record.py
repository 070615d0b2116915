"""The draft report as a record: the content of draft.json. docs/draft-schema.md explains every field.

A record contains no time, host or path: the same slide, model and settings give the same bytes.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

SCHEMA_VERSION: Literal["1"] = "1"
NOTICE: Literal["AI-generated draft, not for clinical use"] = "AI-generated draft, not for clinical use"

Share = Annotated[float, Field(ge=0, le=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
AbstentionReason = Literal["out-of-distribution", "low-confidence", "no-text"]
SimilarAnswer = Literal["answered", "off", "away", "slow", "other-model"]


class _Record(BaseModel):
    """Frozen, and strict: an unknown field is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EvidenceTile(_Record):
    """One tile that a sentence rests on."""

    x: int = Field(description="left edge in level-0 px")
    y: int = Field(description="top edge in level-0 px")
    span_px: float = Field(gt=0, description="side of the square in level-0 px")
    weight: Share = Field(description="the tile's share of all the sentence's evidence")
    slide_id: str | None = Field(
        default=None, description="the slide it lies on; only in the report of a case of several slides"
    )


class Token(_Record):
    """One step of the decoder."""

    start: int = Field(ge=0, description="first character in `text`")
    end: int = Field(ge=0, description="one past the last character in `text`")
    probability: Share = Field(description="the decoder's probability of this token, not calibrated")


class EvidenceCheck(_Record):
    """How often the strongest tile of such lines showed what they state, on slides with a known truth."""

    field: str = Field(description="the field that the line states")
    lines: int = Field(ge=1, description="measured lines, one per slide")
    hits: int = Field(ge=0, description="lines whose strongest tile showed it")
    low: Share = Field(description="lower end of the 95 % interval (Wilson) of hits / lines")
    threshold: Share = Field(description="if `low` is below it, the tiles are not shown as evidence")
    reliable: bool = Field(description="whether `low` reaches `threshold`")


class Region(_Record):
    """A rectangle of a slide, in level-0 px."""

    x: int = Field(description="left edge in level-0 px")
    y: int = Field(description="top edge in level-0 px")
    width: int = Field(gt=0, description="in level-0 px")
    height: int = Field(gt=0, description="in level-0 px")


class SupportRates(_Record):
    """How often this check was right about lines like this one, on slides with a known truth.

    A wrong line states of a slide what another slide's report says.
    """

    field: str = Field(description='the field that the line states; "" for the figures of all lines')
    right: int = Field(ge=1, description="measured lines that were right")
    right_flagged: int = Field(ge=0, description="of these, lines that were flagged by mistake")
    wrong: int = Field(ge=1, description="measured lines that were wrong")
    wrong_flagged: int = Field(ge=0, description="of these, lines that were flagged")


class SentenceSupport(_Record):
    """Whether any region of the slide looks like what the line says, by the retrieval network."""

    score: float = Field(description="the best cosine of the line's vector with one of a region")
    threshold: float = Field(description="a line that scores less is flagged")
    supported: bool = Field(description="whether `score` reaches `threshold`")
    region: Region = Field(description="the region with that cosine")
    slide_id: str | None = Field(
        default=None, description="the slide it lies on; only in the report of a case of several slides"
    )
    rates: SupportRates = Field(description="how often such flags were right when that was measured")


class Sentence(_Record):
    """One line of the draft, with how sure the model is and what it looked at."""

    text: str
    start: int = Field(ge=0, description="first character in the report's `text`")
    end: int = Field(ge=0, description="one past the last character in the report's `text`")
    confidence: Share | None = Field(
        description="calibrated probability that this sentence is right; null: not calibrated"
    )
    uncertain: bool = Field(
        description="true when the confidence is below the model's sentence threshold; false if it is null"
    )
    tokens: tuple[Token, ...] = ()
    evidence: tuple[EvidenceTile, ...] = Field(description="strongest tiles first")
    evidence_check: EvidenceCheck | None = Field(
        default=None, description="how reliable `evidence` is; null: not measured for this model"
    )
    support: SentenceSupport | None = Field(
        default=None, description="whether a region of the slide supports the line; null: not checked"
    )

    @property
    def shown_evidence(self) -> tuple[EvidenceTile, ...]:
        """The tiles that a rendering may show as evidence: none if they were measured to be unreliable."""
        return () if self.evidence_check and not self.evidence_check.reliable else self.evidence


class Abstention(_Record):
    """Whether the model stands by its draft."""

    reasons: tuple[AbstentionReason, ...]
    threshold: Share = Field(description="the model abstains below this report confidence")


class OutOfDistribution(_Record):
    """Whether the slide resembles the slides the model was trained on."""

    flag: bool
    score: float | None = Field(description="0: typical; in standard deviations; null: not checked")
    threshold: float | None = Field(description="slides above it are flagged; null if not checked")
    method: str = Field(description='"none" for a model that cannot check')


class Quality(_Record):
    """What may have spoilt the picture. No flags: the checks listed in `checked` found nothing."""

    flags: tuple[str, ...] = ()
    measures: dict[str, float] = {}
    checked: tuple[str, ...] = Field(
        default=(), description="what the picture was checked for; empty for a draft from a bag alone"
    )
    not_checked: tuple[str, ...] = Field(
        default=(), description="what also spoils slides but was not checked"
    )


class SlideProvenance(_Record):
    """The slide as it was read."""

    content_id: str | None = Field(
        description="SHA-256 of the slide's content; null for a draft from a bag alone, and for a case"
    )
    size_px: tuple[int, int] | None = Field(
        description="level-0 width and height; null if the bag does not say, and for a case"
    )
    mpp: float | None = Field(description="µm per level-0 px; null if the bag does not say, and for a case")
    mpp_source: str = Field(description="stated, sidecar, file, scanner-default, bag, or case")
    file_mpp: float | None = Field(
        default=None,
        description="µm per level-0 px according to the file, right or wrong; only if another value was used",
    )
    scanner: str | None = Field(default=None, description="the maker of the scanner, if known")
    tiles: int = Field(ge=1, description="tiles in the bag")


class ModelProvenance(_Record):
    """The model that wrote the draft."""

    name: str
    sha256: Sha256 = Field(description="of the files that decide the text")
    synthetic: bool = Field(description="true if the model was trained on synthetic slides only")


class EncoderProvenance(_Record):
    """The tile encoder that made the bag."""

    name: str
    sha256: str


class Tiling(_Record):
    """How the slide was cut."""

    tile_px: int | None
    mpp: float | None = Field(description="µm per tile px")
    overlap_px: int | None = Field(description="null for a draft from a bag alone")
    min_tissue: float | None = Field(description="null for a draft from a bag alone")


class Provenance(_Record):
    """Everything that decides the bytes of the draft."""

    software: str
    inputs_digest: Sha256 = Field(description="equal digests, equal drafts")
    bag_digest: str
    slide: SlideProvenance
    model: ModelProvenance
    encoder: EncoderProvenance
    tiling: Tiling
    decoding: dict[str, int | float | str]


class CaseSlide(_Record):
    """One slide of a case that was drafted as a whole."""

    slide_id: str
    bag_digest: str
    slide: SlideProvenance
    quality: Quality


class SimilarPair(_Record):
    """Evidence that two slides look alike: this region here, that region there."""

    here: Region
    here_slide_id: str | None = Field(
        default=None, description="the slide `here` lies on; only in the report of a case of several slides"
    )
    there: Region
    similarity: float = Field(description="the cosine of the two regions' vectors")


class SimilarCase(_Record):
    """A signed case that looks like this one."""

    slide_id: str = Field(description="its slide that looks most alike")
    case_id: str | None = Field(default=None, description="its case, if it has one report of several slides")
    report_digest: str = Field(description="of the report that covers it")
    score: float = Field(
        description="the cosine of its slide's vector with this one's; with several slides the mean"
    )
    organ: str
    diagnosis: str
    text: str = Field(description='its report; of more than 1,500 characters the beginning, and "…"')
    mpp: float | None = Field(default=None, description="µm per level-0 px of its slide, if known")
    pairs: tuple[SimilarPair, ...] = Field(description="most alike first")


class SimilarCases(_Record):
    """The answer of the case index when the draft was made."""

    answer: SimilarAnswer = Field(description="whether the index was asked, and answered")
    model: str = Field(description="SHA-256 of the retrieval network whose vectors were compared")
    index_version: int | None = Field(description="of the index that answered; null if none did")
    cases: tuple[SimilarCase, ...] = Field(description="nearest first; empty if none was found")


class DraftReport(_Record):
    """An unsigned report written by a model, of one slide or of all slides of a case together."""

    schema_version: Literal["1"] = SCHEMA_VERSION
    notice: Literal["AI-generated draft, not for clinical use"] = NOTICE
    slide_id: str = Field(description="the slide's id; for a case, the case's")
    case_id: str | None = Field(default=None, description="only in the report of a case of several slides")
    slides: tuple[CaseSlide, ...] = Field(
        default=(), description="the slides of a case, in its order; only in the report of a case"
    )
    text: str
    fields: dict[str, str] = Field(
        description="parsed from `text`: organ, procedure, diagnosis, synoptic fields"
    )
    confidence: Share | None = Field(
        description="calibrated; the statistic is the model's (docs/draft-schema.md); null: not calibrated"
    )
    calibrated: bool = Field(
        default=True,
        description="false if the model was never calibrated: then no confidence is stated",
    )
    abstained: bool
    abstention: Abstention
    out_of_distribution: OutOfDistribution
    quality: Quality
    sentences: tuple[Sentence, ...]
    provenance: Provenance
    similar: SimilarCases | None = Field(
        default=None, description="the nearest signed cases; null: the model cannot look for them"
    )
