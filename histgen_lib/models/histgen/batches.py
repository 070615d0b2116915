"""Report requests answered together, by an engine that decodes several slides in the time of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from histgen_lib.models.bag_tensors import Features
from histgen_lib.models.histgen.config import HistGenConfig
from histgen_lib.models.histgen.decoding import DecodingSettings
from histgen_lib.models.histgen.layout import Arrangement
from histgen_lib.models.histgen.serving import (
    HistGenRunner,
    ReportEngine,
    Request,
    Written,
    answer,
    report_config,
)
from histgen_lib.models.serving import ServedFolder, Tensors

Bag = tuple[Features, Arrangement]
"""One slide's features and regions, as `ReportEngine.write` takes them."""


class BatchEngine(ReportEngine, Protocol):
    """A report engine that also takes several slides at once."""

    def write_many(self, bags: Sequence[Bag], settings: DecodingSettings) -> list[Written]:
        """Write the report of each slide, as `write` would."""
        ...


class BatchedRunner(HistGenRunner):
    """The report model over an engine for several slides."""

    def __init__(self, config: HistGenConfig, decoding: DecodingSettings, engine: BatchEngine) -> None:
        super().__init__(config, decoding, engine)
        self.engine = engine

    def infer_many(self, requests: Sequence[Tensors]) -> list[dict[str, npt.NDArray[Any]]]:
        """Answer requests as `infer` would; those with equal settings are decoded together.

        Raises as `infer`, if one of them is wrong.
        """
        read = [self.read(tensors) for tensors in requests]
        written: list[Written | None] = [None] * len(read)
        for rows in _alike(read):
            bags = [(read[row].features, read[row].places) for row in rows]
            for row, one in zip(rows, self.engine.write_many(bags, read[rows[0]].settings), strict=True):
                written[row] = one
        return [answer(request, one) for request, one in zip(read, written, strict=True) if one is not None]


def batched_runner(folder: ServedFolder, engine: BatchEngine) -> BatchedRunner:
    """Make the runner of a model folder's report model over an engine for several slides."""
    return BatchedRunner(report_config(folder), DecodingSettings(**folder.config["decoding"]), engine)


def _alike(requests: Sequence[Request]) -> list[list[int]]:
    """Group the numbers of requests by their settings."""
    groups: dict[DecodingSettings, list[int]] = {}
    for number, request in enumerate(requests):
        groups.setdefault(request.settings, []).append(number)
    return list(groups.values())
