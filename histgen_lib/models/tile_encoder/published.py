"""Published encoders by their rows: architecture, preprocessing and pooling as their authors have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from torch import nn

from histgen_lib.models.tile_encoder import timm_models
from histgen_lib.models.tile_encoder.network import BackboneEncoder
from histgen_lib.models.tile_encoder.row import EncoderRow, Preprocessing, Value
from histgen_lib.models.tile_encoder.rows import ROWS
from histgen_lib.models.tile_encoder.spec import Spec

OWN = ("conch", "ctranspath")
"""Architectures that timm lacks: modules beside this one, with `build(arguments) -> nn.Module`."""


def build(spec: Spec, described: Mapping[str, Any]) -> BackboneEncoder:
    """Build the encoder of a row with fresh weights. Raises as `timm_models.build`.

    `described`: a description whose "preprocessing" stands, if it has one. Arguments in `spec` replace the
    row's: a smaller network for a test, say.
    """
    row = ROWS[spec.name]
    arguments = _arguments(row) | spec.of_network()
    backbone = _backbone(row, arguments, spec.text)
    stated = described.get("preprocessing")
    width = timm_models.width(backbone)
    return BackboneEncoder(
        spec.text,
        backbone,
        dim=2 * width if row.pooling == "class+mean" else width,
        preprocessing=spec.preprocessing(Preprocessing.from_json(stated) if stated else row.preprocessing),
        pooling=row.pooling,
        prefix_tokens=getattr(backbone, "num_prefix_tokens", 1),
        licence=row.licence,
        arguments=arguments,
    )


def _arguments(row: EncoderRow) -> dict[str, Value]:
    """Return the row's arguments, so that a vision transformer yields its tokens, after the final norm."""
    if row.architecture in OWN:
        return dict(row.arguments)
    tokens: dict[str, Value] = {"global_pool": ""} if row.pooling in {"class", "class+mean"} else {}
    return {"num_classes": 0} | tokens | dict(row.arguments)


def _backbone(row: EncoderRow, arguments: Mapping[str, Value], text: str) -> nn.Module:
    if row.architecture not in OWN:
        backbone: nn.Module = timm_models.create(row.architecture, arguments, text)
        return backbone
    own: Callable[[Mapping[str, Value], str], nn.Module] = import_module(
        f"{__package__}.{row.architecture}"
    ).build
    return own(arguments, text)
