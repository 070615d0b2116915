"""The tile encoders that are published elsewhere, one row each. Torch-free.

Values are those of the authors' code and papers, or of code that loads the published files; docs/encoders.md
names the places.
"""

from __future__ import annotations

from collections.abc import Mapping

from histgen_lib.models.tile_encoder.row import EncoderRow, Preprocessing, Source, Value, hub

_SWIGLU: Mapping[str, Value] = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
_BILINEAR = Preprocessing(224, interpolation="bilinear")
_NO_DERIVATIVES = "CC-BY-NC-ND-4.0"

_HKUST = (
    EncoderRow(
        name="histgen-dinov2-vitl14",
        publisher="HKUST SmartLab",
        architecture="vit_large_patch14_dinov2",
        arguments={**_SWIGLU, "img_size": 224, "mlp_ratio": 5472 / 1024},  # 2 · 2736 hidden
        source=Source(
            "https://huggingface.co/datasets/david4real/HistGen",
            "david4real/HistGen",
            "dinov2_cpath_v1.pth",
            kind="dataset",
        ),
        licence="Apache-2.0",
        params=303_654_144,
        published=None,
        dim=1024,
        tile_px=512,
        mpp=0.25,
        preprocessing=Preprocessing(224),
        names="dinov2",
    ),
    EncoderRow(
        name="gpfm",
        publisher="HKUST SmartLab",
        architecture="vit_large_patch14_dinov2",
        arguments={"img_size": 224},
        source=hub("majiabo/GPFM", "GPFM.pth"),
        licence=_NO_DERIVATIVES,
        params=303_227_904,
        published=303,
        dim=1024,
        tile_px=512,
        mpp=0.25,
        preprocessing=Preprocessing(224),
        names="dinov2",
    ),
)

_MAHMOOD = (
    EncoderRow(
        name="uni",
        publisher="Mahmood Lab",
        architecture="vit_large_patch16_224",
        arguments={"init_values": 1e-5},
        source=hub("MahmoodLab/UNI", "pytorch_model.bin", gated=True),
        licence=_NO_DERIVATIVES,
        params=303_350_784,
        published=303.35,
        dim=1024,
        tile_px=256,
        mpp=0.5,
        preprocessing=_BILINEAR,
    ),
    EncoderRow(
        name="uni2-h",
        publisher="Mahmood Lab",
        architecture="vit_giant_patch14_224",
        arguments={
            **_SWIGLU,
            "embed_dim": 1536,
            "depth": 24,
            "num_heads": 24,
            "mlp_ratio": 2.66667 * 2,
            "init_values": 1e-5,
            "reg_tokens": 8,
            "no_embed_class": True,
        },
        source=hub("MahmoodLab/UNI2-h", "pytorch_model.bin", gated=True),
        licence=_NO_DERIVATIVES,
        params=681_394_176,
        published=681,
        dim=1536,
        tile_px=256,
        mpp=0.5,
        preprocessing=_BILINEAR,
    ),
    EncoderRow(
        name="conch",
        publisher="Mahmood Lab",
        architecture="conch",
        arguments={"img_size": 448, "pool_dim": 512, "pool_heads": 8, "pool_bias": True},
        source=hub("MahmoodLab/CONCH", "pytorch_model.bin", gated=True),
        licence=_NO_DERIVATIVES,
        params=87_567_104,
        published=None,
        dim=512,
        tile_px=512,
        mpp=0.5,
        preprocessing=Preprocessing(
            448,
            mean=(0.48145466, 0.4578275, 0.40821073),
            std=(0.26862954, 0.26130258, 0.27577711),
        ),
        pooling="own",
        names="conch",
    ),
    EncoderRow(
        name="conch-v1.5",
        publisher="Mahmood Lab",
        architecture="conch",
        arguments={
            "img_size": 448,
            "embed_dim": 1024,
            "depth": 24,
            "num_heads": 16,
            "init_values": 1.0,
            "pool_dim": 768,
            "pool_heads": 8,
            "pool_bias": False,
        },
        source=hub("MahmoodLab/conchv1_5", "pytorch_model_vision.bin", gated=True),
        licence=_NO_DERIVATIVES,
        params=306_711_296,
        published=None,
        dim=768,
        tile_px=512,
        mpp=0.5,
        preprocessing=Preprocessing(448, interpolation="bilinear"),
        pooling="own",
        names="conch_spread",
    ),
)

_BIOPTIMUS_COLOURS = Preprocessing(
    224, mean=(0.707223, 0.578729, 0.703617), std=(0.211883, 0.230117, 0.177517)
)

_BIOPTIMUS = (
    EncoderRow(
        name="h-optimus-0",
        publisher="Bioptimus",
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments={"img_size": 224},
        source=hub("bioptimus/H-optimus-0", "pytorch_model.bin", gated=True),
        licence="Apache-2.0",
        params=1_134_774_272,
        published=1130,
        dim=1536,
        tile_px=224,
        mpp=0.5,
        preprocessing=_BIOPTIMUS_COLOURS,
    ),
    EncoderRow(
        name="h-optimus-1",
        publisher="Bioptimus",
        architecture="vit_giant_patch14_reg4_dinov2",
        arguments={"img_size": 224},
        source=hub("bioptimus/H-optimus-1", "pytorch_model.bin", gated=True),
        licence=_NO_DERIVATIVES,
        params=1_134_774_272,
        published=1130,
        dim=1536,
        tile_px=224,
        mpp=0.5,
        preprocessing=_BIOPTIMUS_COLOURS,
    ),
    EncoderRow(
        name="h0-mini",
        publisher="Bioptimus and Owkin",
        architecture="vit_base_patch14_reg4_dinov2",
        arguments={**_SWIGLU, "img_size": 224, "mlp_ratio": 5.33334},
        source=hub("bioptimus/H0-mini", "pytorch_model.bin", gated=True),
        licence=_NO_DERIVATIVES,
        params=85_739_520,
        published=85.7,
        dim=1536,
        tile_px=224,
        mpp=0.5,
        preprocessing=_BIOPTIMUS_COLOURS,
        pooling="class+mean",
    ),
)

_PAIGE = (
    EncoderRow(
        name="virchow",
        publisher="Paige",
        architecture="vit_huge_patch14_224",
        arguments={**_SWIGLU, "init_values": 1e-5, "mlp_ratio": 5.3375},
        source=hub("paige-ai/Virchow", "pytorch_model.bin", gated=True),
        licence="Apache-2.0",
        params=631_229_184,
        published=632,
        dim=2560,
        tile_px=224,
        mpp=0.5,
        preprocessing=Preprocessing(224),
        pooling="class+mean",
    ),
    EncoderRow(
        name="virchow2",
        publisher="Paige",
        architecture="vit_huge_patch14_224",
        arguments={**_SWIGLU, "init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4},
        source=hub("paige-ai/Virchow2", "pytorch_model.bin", gated=True),
        licence=_NO_DERIVATIVES,
        params=631_239_424,
        published=632,
        dim=2560,
        tile_px=224,
        mpp=0.5,
        preprocessing=Preprocessing(224),
        pooling="class+mean",
    ),
)

_OTHERS = (
    EncoderRow(
        name="prov-gigapath",
        publisher="Microsoft and Providence",
        architecture="vit_giant_patch14_dinov2",
        arguments={"img_size": 224, "patch_size": 16, "mlp_ratio": 5.33334},
        source=hub("prov-gigapath/prov-gigapath", "pytorch_model.bin", gated=True),
        licence="Apache-2.0",
        params=1_134_953_984,
        published=1135,
        dim=1536,
        tile_px=256,
        mpp=0.5,
        preprocessing=Preprocessing(224, resize=256),
    ),
    EncoderRow(
        name="phikon-v2",
        publisher="Owkin",
        architecture="vit_large_patch16_224",
        arguments={"init_values": 1e-5},
        source=hub("owkin/phikon-v2", "model.safetensors"),
        licence="Owkin non-commercial",
        params=303_350_784,
        published=303.4,
        dim=1024,
        tile_px=224,
        mpp=0.5,
        preprocessing=Preprocessing(224),
        names="transformers",
    ),
    EncoderRow(
        name="ctranspath",
        publisher="Sichuan University and Tencent AI Lab",
        architecture="ctranspath",
        source=Source("https://github.com/Xiyue-Wang/TransPath", None, "ctranspath.pth"),
        licence="GPL-3.0, non-commercial",
        params=27_520_038,
        published=27.5,
        dim=768,
        tile_px=224,
        mpp=1.0,
        preprocessing=_BILINEAR,
        pooling="own",
        names="ctranspath",
    ),
)

_HIBOU_COLOURS = Preprocessing(224, mean=(0.7068, 0.5755, 0.722), std=(0.195, 0.2316, 0.1816))

_HISTAI = (
    EncoderRow(
        name="hibou-b",
        publisher="HistAI",
        architecture="vit_base_patch14_reg4_dinov2",
        arguments={**_SWIGLU, "img_size": 224, "mlp_ratio": 4096 / 768},
        source=hub("histai/hibou-b", "model.safetensors", gated=True),
        licence="Apache-2.0",
        params=85_739_520,
        published=85.7,
        dim=768,
        tile_px=224,
        mpp=0.5,
        preprocessing=_HIBOU_COLOURS,
        names="transformers",
    ),
    EncoderRow(
        name="hibou-l",
        publisher="HistAI",
        architecture="vit_large_patch14_reg4_dinov2",
        arguments={**_SWIGLU, "img_size": 224, "mlp_ratio": 5472 / 1024},
        source=hub("histai/hibou-L", "model.safetensors", gated=True),
        licence="Apache-2.0",
        params=303_657_216,
        published=303.7,
        dim=1024,
        tile_px=224,
        mpp=0.5,
        preprocessing=_HIBOU_COLOURS,
        names="transformers",
    ),
)


def _kaiko(short: str, architecture: str, params: int, dim: int) -> EncoderRow:
    return EncoderRow(
        name=f"kaiko-{short}",
        publisher="Kaiko",
        architecture=architecture,
        arguments={"img_size": 224},
        source=hub(f"1aurent/{architecture}.kaiko_ai_towards_large_pathology_fms", "model.safetensors"),
        licence="Kaiko non-commercial",
        params=params,
        published=None,
        dim=dim,
        tile_px=256,
        mpp=0.5,
        preprocessing=Preprocessing(224, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), interpolation="bilinear"),
        names="dinov2",
    )


_KAIKO = (
    _kaiko("vits16", "vit_small_patch16_224", 21_665_664, 384),
    _kaiko("vits8", "vit_small_patch8_224", 21_670_272, 384),
    _kaiko("vitb16", "vit_base_patch16_224", 85_798_656, 768),
    _kaiko("vitb8", "vit_base_patch8_224", 85_807_872, 768),
    _kaiko("vitl14", "vit_large_patch14_reg4_dinov2", 303_230_976, 1024),
)


def _resnet(
    name: str, params: int, published: float | None, dim: int, arguments: Mapping[str, Value]
) -> EncoderRow:
    return EncoderRow(
        name=name,
        publisher="torchvision (ImageNet)",
        architecture="resnet50",
        arguments=arguments,
        source=hub("timm/resnet50.tv_in1k", "model.safetensors"),
        licence="BSD-3-Clause",
        params=params,
        published=published,
        dim=dim,
        tile_px=256,
        mpp=0.5,
        preprocessing=_BILINEAR,
        pooling="map" if arguments else "own",
    )


_IMAGENET = (
    _resnet("resnet50-stage3", 8_543_296, None, 1024, {"features_only": True, "out_indices": (3,)}),
    _resnet("resnet50", 23_508_032, 23.508, 2048, {}),  # torchvision's 25,557,032 without the classifier,
)

ROWS: Mapping[str, EncoderRow] = {
    row.name: row
    for row in (*_HKUST, *_MAHMOOD, *_BIOPTIMUS, *_PAIGE, *_OTHERS, *_HISTAI, *_KAIKO, *_IMAGENET)
}
