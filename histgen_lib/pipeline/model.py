"""A model folder as the jobs need it: which tiles to cut, how to read the answers, when to abstain."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args

import numpy as np

from histgen_lib.bags import Maker
from histgen_lib.errors import FatalError, HistgenError, InvalidInputError, TransientError
from histgen_lib.models.domain import DomainModel
from histgen_lib.models.folder import DOMAIN, ModelFolder, open_model_folder
from histgen_lib.pipeline.consistency import UNCHECKED, Consistency
from histgen_lib.pipeline.reliability import Calibration, EvidenceFigures
from histgen_lib.reports.record import ModelProvenance
from histgen_lib.slides.settings import TilingSettings

if TYPE_CHECKING:
    from histgen_lib.bags import Bag
    from histgen_lib.inference import InferenceServer

ReportStatistic = Literal["diagnosis", "mean", "min"]

_SENTENCE_THRESHOLD = 0.7
"""Lines below it are marked "check first", unless the model's config.json sets another threshold."""


@dataclass(frozen=True)
class ReportModel:
    """A model without its networks, which an InferenceServer runs.

    `abstention_threshold`: the lowest report confidence, 0..1, that the model stands by. `report_statistic`:
    how a report's confidence follows from those of its sentences: that of the diagnosis line ("diagnosis";
    the lowest if there is none), their "mean", or their "min". `domain` is None for a model without
    statistics of its training data, such as imported weights. `consistency`: which lines the slide's regions
    must support, and how much. `lent`: a tile encoder that the folder lacks, see `with_encoder`.
    """

    folder: ModelFolder
    tiling: TilingSettings
    calibration: Calibration
    domain: DomainModel | None
    domain_threshold: float
    abstention_threshold: float
    sentence_threshold: float
    report_statistic: ReportStatistic
    evidence: EvidenceFigures
    consistency: Consistency = UNCHECKED
    lent: Maker | None = None

    def with_encoder(self, encoder: Maker) -> ReportModel:
        """Return the model with a tile encoder that is not in its folder.

        Raises InvalidInputError("model-other-encoder") unless it fits everything that the model states about
        its encoder. Names are compared without case and signs, and only if a digest is unknown.
        """
        own = Maker(
            self.encoder_name, self.encoder_sha256, self.folder.histgen.input_dim, self.encoder_settings
        )
        digests = own.sha256, encoder.sha256
        names = [re.sub(r"[^a-z0-9]", "", name.lower()) for name in (own.name, encoder.name)]
        if own.width != encoder.width:
            raise self._other_encoder(encoder, f"features of length {own.width}, not {encoder.width}")
        if _differ(*digests) or (not all(digests) and _differ(*names)):
            raise self._other_encoder(encoder, f"those of {own.name or digests[0][:16]}")
        if _differ(own.settings, encoder.settings):
            raise self._other_encoder(encoder, "those of the same weights with other settings or tiles")
        return replace(self, lent=encoder)

    def _other_encoder(self, encoder: Maker, reads: str) -> InvalidInputError:
        return InvalidInputError(
            "model-other-encoder",
            f"The model {self.folder.name} does not read the features of {encoder.name}, but {reads}.",
            hint="Name the encoder and weights that the model was trained with; see `histgen model info`.",
        )

    @cached_property
    def provenance(self) -> ModelProvenance:
        """What a draft records about the model that wrote it."""
        folder = self.folder
        return ModelProvenance(name=folder.name, sha256=folder.digest, synthetic=folder.synthetic)

    @cached_property
    def encoder_name(self) -> str:
        """The name of the tile encoder whose features the model reads."""
        return self.lent.name if self.lent else str(self.folder.encoder.get("name", ""))

    @cached_property
    def encoder_sha256(self) -> str:
        """The SHA-256 of that encoder's weights; "" if the model does not say."""
        return self.lent.sha256 if self.lent else str(self.folder.encoder.get("sha256", ""))

    @cached_property
    def encoder_settings(self) -> str:
        """The SHA-256 of what else decides that encoder's features; "" if the model does not say."""
        return self.lent.settings if self.lent else self.folder.encoder_settings


def _differ(one: str, other: str) -> bool:
    """Return whether two facts are both known, and not the same."""
    return bool(one and other) and one != other


def load_model(path: Path | str) -> ReportModel:
    """Open a model folder, quickly and without torch: the inference server loads the networks.

    Raises FatalError: "model-missing", "model-config", "model-domain-unreadable", and "model-mean-pooled" for
    the baseline of a comparison, which reads the mean of a slide's tiles and would be fed all of them here.
    """
    folder = open_model_folder(path)
    _refuse_mean_pooled(folder)
    return report_model(folder)


def report_model(folder: ModelFolder) -> ReportModel:
    """Read from an open model folder all that turns decoded tokens into a report, whatever its network reads.

    Raises FatalError: "model-config", "model-domain-unreadable".
    """
    domain = folder.section("domain")
    abstention = folder.section("abstention")
    try:
        return ReportModel(
            folder=folder,
            tiling=TilingSettings(**folder.tiling),
            calibration=Calibration.from_config(folder.section("calibration")),
            domain=_domain(folder),
            domain_threshold=float(domain.get("threshold", "nan")) if domain else float("nan"),
            abstention_threshold=float(abstention.get("threshold", 0.0)),
            sentence_threshold=float(abstention.get("sentence_threshold", _SENTENCE_THRESHOLD)),
            report_statistic=_statistic(abstention),
            evidence=EvidenceFigures.from_config(folder.section("evidence")),
            consistency=Consistency.from_config(folder.retrieval.get("consistency") or {}),
        )
    except FatalError:
        raise
    except (TypeError, ValueError, HistgenError) as error:
        raise FatalError(
            "model-config",
            f"config.json of the model {folder.name} cannot be used ({error}).",
            hint="It may have been edited, or written by another version. Fetch the model again.",
        ) from error


def _refuse_mean_pooled(folder: ModelFolder) -> None:
    if folder.section("training").get("variant") == "mean-pooled":
        raise FatalError(
            "model-mean-pooled",
            f"The model {folder.name} is a mean-pooled baseline and cannot draft from the tiles of a slide.",
            hint="Use a corrected or published model; histgen compare scores mean-pooled ones.",
        )


def _domain(folder: ModelFolder) -> DomainModel | None:
    if not folder.section("domain"):
        return None
    return DomainModel.load(folder.file(DOMAIN))


def _statistic(abstention: Mapping[str, Any]) -> ReportStatistic:
    name = str(abstention.get("statistic", "diagnosis"))
    if name not in get_args(ReportStatistic):
        raise ValueError(f"unknown abstention statistic {name!r}")
    return cast(ReportStatistic, name)


def warm_up(model: ReportModel, server: InferenceServer, name: str) -> None:
    """Load libraries and networks, and have the server load the model `name`, before the first slide.

    The first slide would otherwise take a second or more longer. A server that is unavailable loads it later.
    Raises the server's FatalErrors.
    """
    from histgen_lib.bags import pack_bag, unpack_bag
    from histgen_lib.reports.pictures import heatmap_webp, thumbnail_webp, tile_uri
    from histgen_lib.reports.renderers.html import page_template
    from histgen_lib.slides.readers import readers

    readers()  # loads OpenSlide
    _ = model.provenance, model.folder.tokenizer
    _ = unpack_bag(pack_bag(_blank_bag(model.folder.histgen.input_dim)), "a bag")
    pixels = np.zeros((8, 8, 4), np.uint8)
    _ = thumbnail_webp(pixels[..., :3]), tile_uri(pixels[..., :3], max_px=8), heatmap_webp(pixels)
    page_template()
    with suppress(TransientError, InvalidInputError):
        server.warm(name)


def _blank_bag(width: int) -> Bag:
    from histgen_lib.bags import Bag

    return Bag(
        slide_id="none",
        features=np.zeros((1, width), np.float16),
        xy=np.zeros((1, 2), np.int32),
        span_px=1.0,
        tile_px=1,
        mpp=1.0,
        slide_mpp=1.0,
        slide_size=(1, 1),
        encoder_name="",
        encoder_sha256="",
    )
