"""The tensors of published weights files, by name, with their shapes: written from their publishers' code."""

from __future__ import annotations

from collections.abc import Iterator

Shapes = dict[str, tuple[int, ...]]


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def dinov2(
    *,
    depth: int,
    width: int,
    patch: int,
    places: int,
    hidden: int,
    gated: bool,
    chunk: int = 0,
    registers: int = 0,
) -> Shapes:
    """Return Meta's DINOv2 (dinov2/models/vision_transformer.py); `chunk` blocks share a container."""
    shapes: Shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, 1 + places, width),
        "mask_token": (1, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        **norm("norm", width),
    }
    if registers:
        shapes["register_tokens"] = (1, registers, width)
    first, second = ("w12", "w3") if gated else ("fc1", "fc2")
    for i in range(depth):
        block = f"blocks.{i // chunk}.{i}" if chunk else f"blocks.{i}"
        shapes |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
        shapes |= linear(f"{block}.attn.qkv", width, 3 * width) | linear(f"{block}.attn.proj", width, width)
        shapes |= linear(f"{block}.mlp.{first}", width, 2 * hidden if gated else hidden)
        shapes |= linear(f"{block}.mlp.{second}", hidden, width)
        shapes |= {f"{block}.ls1.gamma": (width,), f"{block}.ls2.gamma": (width,)}
    return shapes


def training_checkpoint(backbone: Shapes) -> Shapes:
    """Return a teacher of DINOv2's training: the backbone and the projection head."""
    head = linear("dino_head.mlp.0", 1024, 2048) | {"dino_head.last_layer.weight_g": (65536, 1)}
    return {f"backbone.{name}": shape for name, shape in backbone.items()} | head


def transformers(
    *, depth: int, width: int, patch: int, places: int, hidden: int, gated: bool, registers: int = 0
) -> Shapes:
    """Return Hugging Face's Dinov2Model (transformers/models/dinov2/modeling_dinov2.py)."""
    shapes: Shapes = {
        "embeddings.cls_token": (1, 1, width),
        "embeddings.mask_token": (1, width),
        "embeddings.position_embeddings": (1, 1 + places, width),
        "embeddings.patch_embeddings.projection.weight": (width, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": (width,),
        **norm("layernorm", width),
    }
    if registers:
        shapes["embeddings.register_tokens"] = (1, registers, width)
    first, second = ("weights_in", "weights_out") if gated else ("fc1", "fc2")
    for i in range(depth):
        layer = f"encoder.layer.{i}"
        shapes |= norm(f"{layer}.norm1", width) | norm(f"{layer}.norm2", width)
        for part in ("query", "key", "value"):
            shapes |= linear(f"{layer}.attention.attention.{part}", width, width)
        shapes |= linear(f"{layer}.attention.output.dense", width, width)
        shapes |= linear(f"{layer}.mlp.{first}", width, 2 * hidden if gated else hidden)
        shapes |= linear(f"{layer}.mlp.{second}", hidden, width)
        shapes |= {f"{layer}.layer_scale{k}.lambda1": (width,) for k in (1, 2)}
    return shapes


def vit(prefix: str, *, depth: int, width: int, patch: int, places: int, scaled: bool) -> Shapes:
    """Return timm's vision transformer without classes."""
    shapes = dinov2(depth=depth, width=width, patch=patch, places=places, hidden=4 * width, gated=False)
    unwanted = ("mask_token",) if scaled else ("mask_token", "ls1", "ls2")
    return {f"{prefix}{n}": s for n, s in shapes.items() if not any(part in n for part in unwanted)}


def conch() -> Shapes:
    """Return CONCH's checkpoint (conch/open_clip_custom): vision tower, and some of the text's."""
    pools: Shapes = {}
    for task, width, queries in (("contrast", 512, 1), ("caption", 768, 256)):
        pool = f"visual.attn_pool_{task}"
        pools[f"{pool}.query"] = (queries, width)
        pools |= norm(f"{pool}.ln_q", width) | norm(f"{pool}.ln_k", 768) | norm(f"visual.ln_{task}", width)
        pools |= linear(f"{pool}.attn.out_proj", width, width)
        pools[f"{pool}.attn.in_proj_bias"] = (3 * width,)
        if width == 768:
            pools[f"{pool}.attn.in_proj_weight"] = (3 * width, width)
        else:
            pools[f"{pool}.attn.q_proj_weight"] = (width, width)
            pools |= {f"{pool}.attn.{part}_proj_weight": (width, 768) for part in "kv"}
    text: Shapes = {
        "logit_scale": (),
        "text.cls_emb": (768,),
        "text.token_embedding.weight": (32007, 768),
        "text_decoder.resblocks.0.ln_1.weight": (768,),
        "visual.proj_contrast": (512, 512),
    }
    trunk = vit("visual.trunk.", depth=12, width=768, patch=16, places=28 * 28, scaled=False)
    return trunk | pools | text


def conch_v1_5() -> Shapes:
    """Return CONCH v1.5's vision tower (pytorch_model_vision.bin), its positions for tiles of 224 px."""
    pool = "attn_pool_contrast"
    return {
        **vit("trunk.", depth=24, width=1024, patch=16, places=14 * 14, scaled=True),
        f"{pool}.query": (1, 768),
        **norm(f"{pool}.ln_q", 768),
        **norm(f"{pool}.ln_k", 1024),
        f"{pool}.to_q.weight": (768, 768),
        f"{pool}.to_kv.weight": (2 * 768, 1024),
        f"{pool}.to_out.weight": (768, 768),
        **norm("ln_contrast", 768),
    }


def ctranspath() -> Shapes:
    """Return CTransPath's checkpoint: timm 0.5's Swin-T with a stem of convolutions (ctran.py)."""
    shapes: Shapes = {
        "patch_embed.proj.0.weight": (12, 3, 3, 3),
        "patch_embed.proj.3.weight": (24, 12, 3, 3),
        "patch_embed.proj.6.weight": (96, 24, 1, 1),
        "patch_embed.proj.6.bias": (96,),
        **norm("patch_embed.norm", 96),
        **norm("norm", 768),
    }
    for place, width in ((1, 12), (4, 24)):
        name = f"patch_embed.proj.{place}"
        shapes |= norm(name, width) | {f"{name}.num_batches_tracked": ()}
        shapes |= {f"{name}.running_mean": (width,), f"{name}.running_var": (width,)}
    for stage, (width, heads, depth) in enumerate(((96, 3, 2), (192, 6, 2), (384, 12, 6), (768, 24, 2))):
        for i in range(depth):
            shapes |= dict(_swin_block(f"layers.{stage}.blocks.{i}", width, heads))
            if i % 2 and stage < 3:
                windows = (56 // 7 // 2**stage) ** 2
                shapes[f"layers.{stage}.blocks.{i}.attn_mask"] = (windows, 49, 49)
        if stage < 3:
            halving = f"layers.{stage}.downsample"
            shapes |= norm(f"{halving}.norm", 4 * width)
            shapes[f"{halving}.reduction.weight"] = (2 * width, 4 * width)
    return shapes


def _swin_block(block: str, width: int, heads: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield from norm(f"{block}.norm1", width).items()
    yield from norm(f"{block}.norm2", width).items()
    yield from linear(f"{block}.attn.qkv", width, 3 * width).items()
    yield from linear(f"{block}.attn.proj", width, width).items()
    yield f"{block}.attn.relative_position_bias_table", (13 * 13, heads)
    yield f"{block}.attn.relative_position_index", (49, 49)
    yield from linear(f"{block}.mlp.fc1", width, 4 * width).items()
    yield from linear(f"{block}.mlp.fc2", 4 * width, width).items()
