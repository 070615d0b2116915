"""The two graphs of a retrieval network: of one slide of any size, and of one text of any length."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from histgen_lib.export.cpu_files import Axes, Graph, write_graph
from histgen_lib.models.fgcr.network import Fgcr, Slides, Texts
from histgen_lib.models.fgcr.serving import FGCR_IMAGE_ONNX, FGCR_TEXT_ONNX


class ImageGraph(nn.Module):
    """features[N, D], soft_mask[R, N], if corrected anchors, scales int64[R] -> slide[d], regions[R, d]."""

    def __init__(self, network: Fgcr) -> None:
        super().__init__()
        self._network = network

    def forward(
        self,
        features: Tensor,
        soft_mask: Tensor,
        anchors: Tensor | None = None,
        scales: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Embed one slide, of which nothing is padding."""
        whole = torch.ones_like(features[:, 0], dtype=torch.bool)
        every = torch.ones_like(soft_mask[:, 0], dtype=torch.bool)
        none = torch.zeros_like(soft_mask[:, 0], dtype=torch.int64)
        given = (
            features, whole, none if anchors is None else anchors, none if scales is None else scales,
            every, soft_mask,
        )  # fmt: skip
        seen = self._network.see(Slides(*(one.unsqueeze(0) for one in given)))
        return seen.vector[0], seen.regions[0]


class TextGraph(nn.Module):
    """tokens int64[T] -> vector[d]."""

    def __init__(self, network: Fgcr) -> None:
        super().__init__()
        self._network = network

    def forward(self, tokens: Tensor) -> Tensor:
        """Embed one text."""
        every = torch.ones_like(tokens, dtype=torch.bool)
        return self._network.read(Texts(tokens.unsqueeze(0), every.unsqueeze(0))).vector[0]


def export_retrieval_graphs(network: Fgcr, folder: Path) -> list[Path]:
    """Write both graphs of a network into a folder; returns the files."""
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracing exporter warns of its successor and of our shape arithmetic.
        warnings.simplefilter("ignore")
        graphs = (_image(network.eval()), _text(network))
        return [write_graph(folder / graph.file, graph) for graph in graphs]


def _image(network: Fgcr) -> Graph:
    inputs = {"features": torch.zeros(4, network.config.input_dim), "soft_mask": torch.ones(3, 4)}
    axes: Axes = {"features": {0: "N"}, "soft_mask": {0: "R", 1: "N"}, "regions": {0: "R"}}
    if network.config.corrected:
        inputs |= {name: torch.zeros(3, dtype=torch.int64) for name in ("anchors", "scales")}
        axes |= {"anchors": {0: "R"}, "scales": {0: "R"}}
    return Graph(FGCR_IMAGE_ONNX, ImageGraph(network), inputs, ["slide", "regions"], axes)


def _text(network: Fgcr) -> Graph:
    tokens = torch.zeros(4, dtype=torch.int64)
    return Graph(FGCR_TEXT_ONNX, TextGraph(network), {"tokens": tokens}, ["vector"], {"tokens": {0: "T"}})
