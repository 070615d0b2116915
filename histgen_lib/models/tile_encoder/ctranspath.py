"""CTransPath's network: a Swin-T whose patches are made by convolutions (Wang et al. 2022).

Three convolutions take the place of Swin's patch embedding: two of 3×3 that halve the tile's side and double
the channels, each with batch norm and ReLU, and one of 1×1. The rest is timm's Swin-T.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from histgen_lib.models.tile_encoder import timm_models
from histgen_lib.models.tile_encoder.row import Value

PATCH_PX = 4


class ConvStem(nn.Module):
    """Pixels [B, 3, side, side] -> patches [B, side/4, side/4, embed_dim]; built as timm builds a stem."""

    def __init__(
        self,
        img_size: int | tuple[int, int] = 224,
        embed_dim: int = 96,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        **_: Any,
    ) -> None:
        super().__init__()
        side = img_size if isinstance(img_size, int) else img_size[0]
        self.grid_size = (side // PATCH_PX, side // PATCH_PX)
        narrow, wide = embed_dim // 8, embed_dim // 4
        self.proj = nn.Sequential(
            nn.Conv2d(3, narrow, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(),
            nn.Conv2d(narrow, wide, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU(),
            nn.Conv2d(wide, embed_dim, 1),
        )
        self.norm = norm_layer(embed_dim)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the patches, channels last."""
        patches: Tensor = self.norm(self.proj(pixels).permute(0, 2, 3, 1))
        return patches


def build(arguments: Mapping[str, Value], text: str) -> nn.Module:
    """Build it with fresh weights; arguments as timm's Swin takes them. Raises as `timm_models.create`."""
    network: nn.Module = timm_models.create(
        "swin_tiny_patch4_window7_224", {"num_classes": 0} | dict(arguments), text, embed_layer=ConvStem
    )
    return network
