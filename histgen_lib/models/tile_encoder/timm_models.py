"""Networks of timm as tile encoders: published ones by their rows, and any other by timm's name."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from torch import nn

from histgen_lib.errors import FatalError, InvalidInputError
from histgen_lib.models.tile_encoder.network import BackboneEncoder
from histgen_lib.models.tile_encoder.row import Interpolation, Preprocessing, Source, Value
from histgen_lib.models.tile_encoder.spec import Spec

_NEVER = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")
"""Arguments of timm that fetch or read files: a name, from a model folder perhaps, decides no path."""
LAYERS = ("Mlp", "GluMlp", "GatedMlp", "SwiGLU", "SwiGLUPacked")
"""Layers of timm that an argument "…_layer" may name; activations and norms have names in timm itself."""


def build(spec: Spec, described: Mapping[str, Any]) -> BackboneEncoder:
    """Build timm's model `spec.name` with fresh weights.

    `described`: a description whose "preprocessing" stands, if it has one. Raises FatalError
    ("encoder-needs-timm"), InvalidInputError ("encoder-unknown", "encoder-arguments").
    """
    arguments = {"num_classes": 0} | spec.of_network()
    backbone = create(spec.name, arguments, spec.text)
    default = Preprocessing.from_json(described["preprocessing"]) if "preprocessing" in described else None
    return BackboneEncoder(
        spec.text,
        backbone,
        dim=width(backbone),
        preprocessing=spec.preprocessing(default or _trained_with(backbone, described)),
        pooling="own",
        licence=str(backbone.pretrained_cfg.get("license") or "see the weights' source"),
        arguments=arguments,
    )


def source_of(backbone: Any) -> Source | None:
    """Return where timm's own weights of a model are published; None if nowhere."""
    repo = str(backbone.pretrained_cfg.get("hf_hub_id") or "")
    return Source(f"https://huggingface.co/{repo}", repo, "model.safetensors") if repo else None


def create(name: str, arguments: Mapping[str, Value], text: str, **modules: type[nn.Module]) -> Any:
    """Create timm's model `name`; nothing is downloaded. Raises as `build`.

    `text`: what the user wrote. `modules`: arguments that are classes of ours.
    """
    timm = _timm(name)
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5)
        raise InvalidInputError(
            "encoder-unknown",
            f"timm has no model {name}.",
            hint=f"Did you mean {', '.join(near)}?" if near else "See timm.list_models().",
        )
    refused = [key for key in _NEVER if key in arguments]
    if refused:
        raise InvalidInputError(
            "encoder-arguments",
            f"{text} must not say {', '.join(refused)}.",
            hint="Write weights behind the name: <name>=<file>.",
        )
    layers = {key: getattr(timm.layers, str(v)) for key, v in arguments.items() if v in LAYERS}
    try:
        return timm.create_model(name, pretrained=False, **(dict(arguments) | layers | modules))
    except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError, KeyError) as error:
        raise InvalidInputError(
            "encoder-arguments",
            f"timm's {name} cannot be built as {text!r} ({str(error) or type(error).__name__}).",
            hint="The arguments are those of timm.create_model.",
        ) from error


def width(backbone: Any) -> int:
    """Return the width of what a backbone without classes yields: features, tokens or a feature map."""
    if hasattr(backbone, "feature_info") and not hasattr(backbone, "num_features"):
        return int(backbone.feature_info.channels()[-1])
    return int(getattr(backbone, "head_hidden_size", None) or backbone.num_features)


def _timm(name: str) -> Any:
    try:
        return import_module("timm")
    except ImportError as error:
        raise FatalError(
            "encoder-needs-timm", f"{name} needs timm.", hint="Install histgen with the extra 'train'."
        ) from error


def _trained_with(backbone: Any, described: Mapping[str, Any]) -> Preprocessing:
    """Return the preprocessing that timm states; the whole tile is resized, so that no border is lost."""
    data = import_module("timm").data.resolve_model_data_config(backbone)
    of_before = "dim" in described  # a model folder of before: bicubic, whatever timm stated
    bilinear = data["interpolation"] == "bilinear" and not of_before
    filtered: Interpolation = "bilinear" if bilinear else "bicubic"
    return Preprocessing(
        int(data["input_size"][-1]), mean=tuple(data["mean"]), std=tuple(data["std"]), interpolation=filtered
    )
