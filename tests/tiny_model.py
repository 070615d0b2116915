"""A very small model folder with random weights: enough to run every path, useless as a reader of slides."""

from __future__ import annotations

from pathlib import Path

import numpy as np

REPORTS = (
    "Breast, core needle biopsy:\n  Fibroadenoma\n  - Inflammation: none\n  - Granulomas: not identified",
    "Breast, excision:\n  Invasive carcinoma of no special type\n  - Grade: 2\n  - Mitotic score: 3\n  - Necrosis: present",
    "Colon, endoscopic biopsy:\n  Adenocarcinoma\n  - Grade: 1\n  - Mitotic score: 1\n  - Necrosis: not identified",
)


def make_tiny_model(folder: Path, *, domain_threshold: float = 1e6, abstain_below: float = 0.0) -> Path:
    """Write a complete model folder (needs the train extra); tiles are 64 px at 2 µm/px to keep tests fast."""
    import torch

    from histgen_lib.export import to_onnx
    from histgen_lib.models.domain import DomainModel
    from histgen_lib.models.histgen.checkpoint import new_model_folder, save_model, update_config
    from histgen_lib.models.histgen.config import HistGenConfig
    from histgen_lib.models.histgen.network import HistGen
    from histgen_lib.models.tile_encoder.network import TileEncoder
    from histgen_lib.text.bpe import BpeTokenizer

    torch.manual_seed(0)
    torch.set_num_threads(1)
    tokenizer = BpeTokenizer.train(list(REPORTS), vocab_size=300)
    config = HistGenConfig(
        input_dim=16, d_model=16, d_ff=16, d_vf=16, num_heads=2, num_layers=1, region_size=5, cmm_size=8,
        cmm_dim=16, topk=4, prototype_num=4, vocab_size=tokenizer.vocab_size, max_tokens=24,
    )  # fmt: skip
    new_model_folder(
        folder,
        name="tiny",
        synthetic=True,
        config=config,
        tokenizer=tokenizer,
        tiling={"tile_px": 64, "mpp": 2.0, "overlap_px": 0, "min_tissue": 0.15},
        tile_encoder=TileEncoder(16),
        encoder={"name": "tiny-encoder"},
    )
    save_model(folder, HistGen(config))
    to_onnx(folder)
    world = np.random.default_rng(0).normal(size=(200, 16)).astype(np.float32)
    DomainModel.fit([world]).save(folder / "domain.safetensors")
    update_config(
        folder,
        domain={"method": "neighbour-median", "threshold": domain_threshold},
        abstention={"threshold": abstain_below, "statistic": "diagnosis", "sentence_threshold": 0.7},
        calibration={"method": "temperature", "statistic": "mean", "temperature": 1.0},
    )
    return folder
