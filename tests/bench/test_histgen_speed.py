"""HistGen beside its authors' code, and alone from 1 to 200,000 tiles. Run with `make bench-histgen`.

Both sides get the same random weights and features at the published size, one thread, beam 3, and an end
token so unlikely that all 100 tokens are written. They take turns, each time in a new process. The authors'
code (github.com/dddavid4real/HistGen) is not part of this repository: REFERENCE names a folder with it.
Tokens must be equal; speed and memory are printed, not judged.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from histgen_side import Measured, Request, Taken, measure
from naive_histgen import random_state_dict

import histgen_lib
from histgen_lib.export import to_onnx
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen import load_official
from histgen_lib.models.histgen.checkpoint import new_model_folder, save_model
from histgen_lib.text.tokenizers import WordTokenizer

SIZES = {
    "d_model": 512, "d_ff": 512, "d_vf": 2048, "num_heads": 8, "num_layers": 3, "topk": 512, "cmm_size": 2048,
    "cmm_dim": 512, "prototype_num": 512, "region_size": 96, "vocab_words": 1000,
}  # fmt: skip
"""The published training settings."""
INPUT_DIM, BEAMS, TOKENS = 1024, 3, 100
TILES, ROUNDS = 4000, 3
SHIPPED = Path(histgen_lib.__file__).parent / "pretrained" / "synthetic-he"
THEIR_FILES = ("models/histgen_model.py", "modules/histgen_module.py", "modules/caption_model.py")


def random_weights(seed: int) -> dict[str, np.ndarray]:
    """Draw weights under the authors' names; no text ends early, and words differ clearly in likelihood."""
    weights = random_state_dict(seed, **SIZES, input_dim=INPUT_DIM)
    weights["encoder_decoder.logit.weight"] *= 4
    weights["encoder_decoder.logit.bias"][0] = -1e4
    return weights


def export(folder: Path, weights: dict[str, np.ndarray]) -> Path:
    """Write the model folder that the product runs, from the authors' weights."""
    model = load_official(weights, **SIZES, max_seq_length=TOKENS)
    new_model_folder(
        folder,
        name="random",
        synthetic=True,
        config=model.config,
        tokenizer=WordTokenizer.train(["a b"], threshold=1),
        tiling={"tile_px": 224, "mpp": 0.5, "overlap_px": 0, "min_tissue": 0.15},
        encoder={"name": "random", "sha256": "", "dim": INPUT_DIM},
    )
    save_model(folder, model)
    to_onnx(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("histgen")
    weights = random_weights(0)
    np.savez(folder / "weights.npz", **weights)
    return export(folder / "model", weights).parent


@pytest.fixture(scope="module")
def write_features(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    folder = tmp_path_factory.mktemp("features")

    def write(tiles: int, width: int = INPUT_DIM, dtype: type = np.float16, seed: int = 0) -> str:
        path = folder / f"{tiles}.npy"
        rows = np.random.default_rng(seed).standard_normal((tiles, width), dtype=np.float32)
        np.save(path, rows.astype(dtype))
        return str(path)

    return write


MOST_BYTES = 3 << 30
"""What a process may ever have had, bag and interpreter included, however many tiles."""


@pytest.fixture(scope="module")
def reference(request: pytest.FixtureRequest) -> str:
    given = request.config.getoption("--reference")
    if not given:
        pytest.skip("only ours is measured; REFERENCE=<folder with the authors' code> adds theirs")
    root = Path(given).expanduser().resolve()
    missing = [name for name in THEIR_FILES if not (root / name).is_file()]
    if missing:
        pytest.fail(
            f"REFERENCE must be the root of the authors' repository; {root} lacks {', '.join(missing)}",
            pytrace=False,
        )
    return str(root)


@pytest.mark.timeout(3600)
def test_beside_the_authors_code(folder: Path, write_features: Callable[..., str], reference: str) -> None:
    features = write_features(TILES, dtype=np.float32)
    shared = {"features": features, "beams": BEAMS, "tokens": TOKENS}
    their = Request("theirs", model=str(folder / "weights.npz"), sizes=SIZES, reference=reference, **shared)
    our = Request("ours", model=str(folder / "model"), **shared)
    rounds = [(measure(their), measure(our)) for _ in range(ROUNDS)]
    print(f"\n{TILES} tiles, beam {BEAMS}, {TOKENS} tokens, one thread, {ROUNDS} rounds:")
    theirs, ours = zip(*rounds, strict=True)
    show_times("encoding", [side.encodings for side in theirs], [side.encodings for side in ours])
    show_times("whole report", [side.reports for side in theirs], [side.reports for side in ours])
    their_mb, our_mb = (max(side.peak for side in sides) / 1e6 for sides in (theirs, ours))
    print(
        f"  peak memory    authors {their_mb:7.0f} MB  ours {our_mb:7.0f} MB  ratio {their_mb / our_mb:5.1f}"
    )
    assert len(ours[0].tokens) == TOKENS
    assert all(side.tokens == theirs[0].tokens for side in (*theirs, *ours))


def show_times(what: str, theirs: list[list[Taken]], ours: list[list[Taken]]) -> None:
    """Print the least time of each side; then their ratio, and the median over the rounds, on both clocks."""
    pairs = [(least(their), least(our)) for their, our in zip(theirs, ours, strict=True)]
    their, our = (least(side) for side in zip(*pairs, strict=True))
    print(f"  {what:13}  authors {their.wall_s:8.2f} s  ours {our.wall_s:7.3f} s", end="")
    for clock, name in enumerate(("wall clock", "CPU time")):
        middle = statistics.median(their[clock] / our[clock] for their, our in pairs)
        print(f"  ×{their[clock] / our[clock]:.1f} {name} (median of rounds ×{middle:.1f})", end="")
    print()


def least(taken: Iterable[Taken]) -> Taken:
    return Taken(*map(min, zip(*taken, strict=True)))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tiles", [1, 95, 96, 4000, 10_000, 100_000])
def test_ours_alone(tiles: int, folder: Path, write_features: Callable[..., str]) -> None:
    found = measure(
        Request("ours", write_features(tiles), str(folder / "model"), BEAMS, TOKENS, encodings=2, reports=2)
    )
    show_alone(f"{tiles} tiles", found)
    assert len(found.tokens) == TOKENS


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("tiles", [1, 50_000, 100_000, 200_000])
def test_the_shipped_model_alone(tiles: int, write_features: Callable[..., str]) -> None:
    shipped = open_model_folder(SHIPPED)
    features = write_features(tiles, width=shipped.histgen.input_dim)
    found = measure(Request("ours", features, str(SHIPPED), BEAMS, shipped.histgen.max_tokens, reports=2))
    show_alone(f"shipped model, {tiles} tiles", found)


def show_alone(what: str, found: Measured) -> None:
    first, again = found.reports
    times = f"encoding {least(found.encodings).wall_s:7.3f} s, report {first.wall_s:7.3f} s"
    cpu = f"again {again.wall_s:7.3f} s; CPU time {first.cpu_s:.3f} s"
    memory = f"peak {found.peak / 1e6:6.0f} MB, of which loaded {found.loaded / 1e6:4.0f} MB"
    print(f"\n  {what}: {times} ({cpu}), {len(found.tokens)} tokens; {memory}", end="")
    assert found.peak < MOST_BYTES
