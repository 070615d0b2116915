"""The tile encoders that are published elsewhere, one row each. Torch-free.

Figures are those of each publisher's model card or code; docs/encoders.md says where each was read.
"""

from __future__ import annotations

from collections.abc import Mapping

from histgen_lib.models.tile_encoder.row import EncoderRow, Preprocessing, Source, hub

_HISTGEN = EncoderRow(
    name="histgen-dinov2-vitl14",
    publisher="HKUST SmartLab",
    architecture="vit_large_patch14_dinov2",
    arguments={
        "img_size": 224,
        "mlp_layer": "SwiGLUPacked",
        "act_layer": "silu",
        "mlp_ratio": 5472 / 1024,
    },
    source=Source(
        "https://huggingface.co/datasets/david4real/HistGen",
        "david4real/HistGen",
        "dinov2_cpath_v1.pth",
        kind="dataset",
    ),
    licence="Apache-2.0",
    params=0,
    published=304,
    dim=1024,
    tile_px=512,
    mpp=0.25,
    preprocessing=Preprocessing(224),
    names="dinov2",
)

_UNI = EncoderRow(
    name="uni",
    publisher="Mahmood Lab",
    architecture="vit_large_patch16_224",
    arguments={"init_values": 1e-5},
    source=hub("MahmoodLab/UNI", "pytorch_model.bin", gated=True),
    licence="CC-BY-NC-ND-4.0",
    params=0,
    published=303,
    dim=1024,
    tile_px=256,
    mpp=0.5,
    preprocessing=Preprocessing(224, interpolation="bilinear"),
)

ROWS: Mapping[str, EncoderRow] = {row.name: row for row in (_HISTGEN, _UNI)}
