"""The exported graphs give what torch gives, at sizes not seen when they were traced."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from histgen_lib.errors import FatalError
from histgen_lib.export import to_onnx
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen import HistGen, HistGenConfig, tile_order
from histgen_lib.models.histgen.checkpoint import new_model_folder, save_model
from histgen_lib.models.histgen.decoding import DecodingSettings, decode
from histgen_lib.models.histgen.layout import Arrangement, arrange
from histgen_lib.models.histgen.on_cpu import OnnxStepper, encode_slide
from histgen_lib.models.histgen.serving import (
    DECODER_ONNX,
    ENCODER_ONNX,
    MODEL,
    tile_evidence,
)
from histgen_lib.models.serving import Compute, OnnxSession
from histgen_lib.models.tile_encoder import TileEncoder
from histgen_lib.models.tile_encoder.serving import TILE_ENCODER_ONNX
from histgen_lib.text.tokenizers import WordTokenizer

TOLERANCE = 1e-4
SPAN_PX = 512
COUNTS = (1, 6, 7, 8, 50, 333)


class Exported:
    def __init__(self, folder: Path, mode: str, pooling: str) -> None:
        torch.manual_seed(3)
        config = HistGenConfig(
            mode=mode,  # type: ignore[arg-type]
            input_dim=10,
            d_model=32,
            d_ff=24,
            d_vf=20,
            num_heads=4,
            region_size=8,
            cmm_size=24,
            cmm_dim=32,
            topk=6,
            prototype_num=9,
            vocab_size=30,
            max_tokens=15,
            pooling=pooling,  # type: ignore[arg-type]
        )
        self.model = HistGen(config).eval()
        with torch.no_grad():
            for weight in self.model.parameters():
                weight.add_(torch.randn_like(weight) * 0.2)
        self.tile_encoder = TileEncoder(10, widths=(8, 8, 12)).eval()
        self.folder = folder
        new_model_folder(
            folder,
            name="test",
            synthetic=True,
            config=config,
            tokenizer=WordTokenizer.train(["a b"], threshold=1),
            tiling={"tile_px": 64, "mpp": 0.5, "overlap_px": 0, "min_tissue": 0.15},
            tile_encoder=self.tile_encoder,
        )
        save_model(folder, self.model)
        to_onnx(folder)
        self.encoder = OnnxSession(folder / ENCODER_ONNX, threads=1)
        self.decoder = OnnxSession(folder / DECODER_ONNX, threads=1)
        self.runner = MODEL.runner(open_model_folder(folder), Compute(threads=1))

    def bag(self, tiles: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(tiles)
        cells = rng.permutation(40 * 40)[:tiles]
        xy = np.stack([cells % 40, cells // 40], axis=1) * SPAN_PX
        return rng.normal(size=(tiles, 10)).astype(np.float32), xy.astype(np.int32)

    def ordered(self, features: np.ndarray, xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        published = self.model.config.mode == "published"
        order = np.arange(len(xy)) if published else tile_order(xy, SPAN_PX)
        return features[order], order

    def places(self, tiles: int) -> Arrangement:
        """Return where tiles lie that are in order already."""
        config = self.model.config
        return arrange(np.arange(tiles), config.tiles_per_region, config.prototype_num)


@pytest.fixture(
    scope="module",
    params=[("published", "bounded"), ("corrected", "bounded"), ("corrected", "free")],
    ids="-".join,
)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("model"), *request.param)


@pytest.mark.parametrize("tiles", COUNTS)
def test_the_encoder_graph_agrees_with_torch(exported: Exported, tiles: int) -> None:
    features, _ = exported.ordered(*exported.bag(tiles))
    found = encode_slide(exported.encoder, features, exported.places(tiles))
    mask = torch.ones(1, tiles, dtype=torch.bool)
    with torch.inference_mode():
        memory = exported.model.region_memory(torch.from_numpy(features)[None], mask)
        cross = exported.model.decoder.cross(memory.regions).numpy()
    assert found.cross.shape == cross.shape
    assert np.abs(found.cross - cross).max() < TOLERANCE
    assert np.abs(found.tile_weights - memory.tile_weights[0].numpy()).max() < TOLERANCE


@pytest.mark.parametrize("method", ["beam", "greedy", "sample"])
@pytest.mark.parametrize("tiles", COUNTS)
def test_the_runner_writes_what_torch_writes(exported: Exported, tiles: int, method: str) -> None:
    """Same tokens, same probabilities; and the probabilities are the teacher-forced ones."""
    features, xy = exported.bag(tiles)
    found = exported.runner.infer(
        {
            "features": features,
            "xy": xy,
            "span_px": np.array([SPAN_PX], dtype=np.float32),
            "method": np.array([method]),
            "seed": np.array([5]),
        }
    )
    ordered, _ = exported.ordered(features, xy)
    chosen = DecodingSettings(max_tokens=15, seed=5).replace(method=method)
    mask = torch.ones(1, tiles, dtype=torch.bool)
    expected = exported.model.generate_batch(torch.from_numpy(ordered)[None], mask, chosen)[0]
    assert found["tokens"].tolist() == expected.tokens.tolist()
    assert found["score"][0] == pytest.approx(expected.score, abs=1e-3)
    forced = exported.model.log_probs(ordered, [0, *expected.tokens[:-1]]).numpy()
    places = np.arange(len(expected.tokens))
    assert np.abs(found["logprobs"] - forced[places, expected.tokens]).max(initial=0) < TOLERANCE


def test_a_batch_of_slides_is_decoded_as_each_alone(exported: Exported) -> None:
    config = exported.model.config
    slides = []
    for tiles in (5, 90, 33):
        ordered, _ = exported.ordered(*exported.bag(tiles))
        slides.append(encode_slide(exported.encoder, ordered, exported.places(tiles)))
    chosen = DecodingSettings(max_tokens=15)
    together = decode(OnnxStepper(exported.decoder, config, slides), chosen)
    for text, slide in zip(together, slides, strict=True):
        alone = decode(OnnxStepper(exported.decoder, config, [slide]), chosen)[0]
        assert text.tokens.tolist() == alone.tokens.tolist()
        assert text.score == pytest.approx(alone.score, abs=1e-4)


@pytest.mark.parametrize("tiles", COUNTS)
def test_evidence_is_attention_times_pooling_in_input_order(exported: Exported, tiles: int) -> None:
    features, xy = exported.bag(tiles)
    found = exported.runner.infer({"features": features, "xy": xy, "span_px": np.array([SPAN_PX])})
    evidence = found["evidence"]
    assert evidence.shape == (len(found["tokens"]), tiles)
    assert evidence.dtype == np.float32
    assert np.allclose(evidence.sum(axis=1), 1.0, atol=1e-5)
    ordered, order = exported.ordered(features, xy)
    mask = torch.ones(1, tiles, dtype=torch.bool)
    with torch.inference_mode():
        memory = exported.model.region_memory(torch.from_numpy(ordered)[None], mask)
    text = exported.model.generate_batch(
        torch.from_numpy(ordered)[None], mask, DecodingSettings(max_tokens=15)
    )[0]
    for token in range(len(text.tokens)):
        for place, tile in enumerate(order):
            region, inside = divmod(place, exported.model.config.tiles_per_region)
            share = float(memory.tile_weights[0, region, inside])
            assert evidence[token, tile] == pytest.approx(text.attention[token, region] * share, abs=1e-5)


def test_evidence_does_not_depend_on_the_order_of_a_corrected_models_tiles(exported: Exported) -> None:
    if exported.model.config.mode == "published":
        return  # there the order decides, as in the authors' code
    features, xy = exported.bag(50)
    mixed = np.random.default_rng(1).permutation(50)
    first = exported.runner.infer({"features": features, "xy": xy})
    second = exported.runner.infer({"features": features[mixed], "xy": xy[mixed]})
    assert np.array_equal(first["tokens"], second["tokens"])
    assert np.allclose(first["evidence"][:, mixed], second["evidence"], atol=1e-6)


@pytest.mark.parametrize(("count", "side"), [(1, 64), (5, 64), (9, 64)])
def test_the_tile_encoder_graph_agrees_with_torch(exported: Exported, count: int, side: int) -> None:
    tiles = np.random.default_rng(count).integers(0, 256, size=(count, side, side, 3), dtype=np.uint8)
    found = OnnxSession(exported.folder / TILE_ENCODER_ONNX, threads=1).run({"tiles": tiles})["features"]
    with torch.inference_mode():
        expected = exported.tile_encoder(torch.from_numpy(tiles)).numpy()
    assert np.abs(found - expected).max() < TOLERANCE


def test_exporting_twice_gives_the_same_bytes(exported: Exported) -> None:
    before = [
        (exported.folder / name).read_bytes() for name in (ENCODER_ONNX, DECODER_ONNX, TILE_ENCODER_ONNX)
    ]
    written = to_onnx(exported.folder)
    assert [path.read_bytes() for path in written] == before


def test_a_folder_without_weights_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(FatalError) as caught:
        to_onnx(tmp_path)
    assert caught.value.code == "model-missing"


def test_evidence_of_no_tokens_has_no_rows(exported: Exported) -> None:
    places = exported.places(8)
    shares = np.ones(places.mask.shape, dtype=np.float32)
    assert tile_evidence(np.zeros((0, len(shares)), dtype=np.float32), shares, places).shape == (0, 8)
