"""The exported graphs, run as a CPU runs them, give what torch gives, at sizes not seen at tracing."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch

from histgen_lib.errors import FatalError
from histgen_lib.export import to_onnx
from histgen_lib.export.cpu_files import export_cpu_graphs
from histgen_lib.models.folder import open_model_folder
from histgen_lib.models.histgen import HistGen, HistGenConfig, tile_order
from histgen_lib.models.histgen.checkpoint import new_model_folder, save_model
from histgen_lib.models.histgen.decoding import DecodingSettings
from histgen_lib.models.histgen.encoder import RegionMemory
from histgen_lib.models.histgen.layout import Arrangement, arrange
from histgen_lib.models.histgen.on_cpu import CpuEngine, CpuWords, EncodedSlide, cpu_engine
from histgen_lib.models.histgen.serving import MODEL, PARTS, tile_evidence
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
        self.engine = cpu_engine(open_model_folder(folder), threads=1)
        self.runner = MODEL.runner(open_model_folder(folder), Compute(threads=1))

    def bag(self, tiles: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(tiles)
        cells = rng.permutation(100 * 100)[:tiles]
        xy = np.stack([cells % 100, cells // 100], axis=1) * SPAN_PX
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


def agrees(found: EncodedSlide, model: HistGen, memory: RegionMemory) -> None:
    """Compare an encoded slide with torch's."""
    cross = model.decoder.cross(memory.regions)[:, :, 0].numpy()
    assert np.abs(found.tile_weights - memory.tile_weights[0].numpy()).max() < TOLERANCE
    for (keys, values), expected in zip(found.cross, cross, strict=True):
        assert np.abs(keys.swapaxes(1, 2) - expected[0]).max() < TOLERANCE
        assert np.abs(values - expected[1]).max() < TOLERANCE


@pytest.mark.parametrize("tiles", [*COUNTS, 10_000])
def test_the_encoder_agrees_with_torch(exported: Exported, tiles: int) -> None:
    """At 10,000 tiles the regions hear each other in two parts."""
    features, _ = exported.ordered(*exported.bag(tiles))
    found = exported.engine.encode(features, exported.places(tiles))
    with torch.inference_mode():
        memory = exported.model.region_memory(
            torch.from_numpy(features)[None], torch.ones(1, tiles, dtype=torch.bool)
        )
        agrees(found, exported.model, memory)


def test_a_case_agrees_with_torch_on_its_slides_regions(exported: Exported) -> None:
    """Each slide's last region is padded; features come in another order than the regions."""
    features, _ = exported.bag(50)
    config, model = exported.model.config, exported.model
    order = np.random.default_rng(2).permutation(50)
    places = arrange(order, config.tiles_per_region, config.prototype_num, runs=[8, 1, 41])
    tiles = torch.from_numpy(features[places.rows] * places.mask[:, :, None])
    prototypes = [int(np.flatnonzero((places.rows == row) & places.mask)[0]) for row in places.prototypes]
    with torch.inference_mode():
        mask, slots = torch.from_numpy(places.mask), model.memory_slots()
        memory = model.encode_regions(tiles[None], mask[None], torch.tensor([prototypes]), slots)
        agrees(exported.engine.encode(features, places), model, memory)


def test_float16_features_are_taken_as_they_are(exported: Exported) -> None:
    features = exported.bag(50)[0].astype(np.float16)
    half, single = (
        exported.engine.encode(rows, exported.places(50)) for rows in (features, features.astype(np.float32))
    )
    assert np.array_equal(half.tile_weights, single.tile_weights)


def test_bits_depend_neither_on_threads_nor_on_the_reports_before(exported: Exported) -> None:
    """Words are remembered: those of the second report were computed in another one's company."""
    folder = open_model_folder(exported.folder)
    features, _ = exported.bag(1000)
    settings = DecodingSettings(max_tokens=15, beam_size=4)
    used = cpu_engine(folder, threads=3)
    for seed in range(3):
        used.write(
            features[seed:], exported.places(1000 - seed), settings.replace(method="sample", seed=seed)
        )
    fresh, again = (
        engine.write(features, exported.places(1000), settings)
        for engine in (cpu_engine(folder, threads=1), used)
    )
    assert fresh.tile_weights.tobytes() == again.tile_weights.tobytes()
    assert fresh.text.tokens.tolist() == again.text.tokens.tolist()
    assert fresh.text.log_probs.tobytes() == again.text.log_probs.tobytes()
    assert fresh.text.attention.tobytes() == again.text.attention.tobytes()


@pytest.mark.parametrize("heads", [1, 8])
def test_a_words_bits_depend_neither_on_its_company_nor_on_its_position(heads: int, tmp_path: Path) -> None:
    """At the published width, where a product's kernel takes several rows at once."""
    config = HistGenConfig(
        input_dim=10, d_model=512, cmm_dim=512, num_heads=heads, cmm_size=300, topk=70, num_layers=1,
        prototype_num=2, region_size=2, vocab_size=40,
    )  # fmt: skip
    torch.manual_seed(0)
    graphs = {
        path.name: OnnxSession(path, threads=1) for path in export_cpu_graphs(HistGen(config), tmp_path)
    }

    def words(tokens: list[int]) -> dict[int, bytes]:
        found = CpuWords(config, graphs).of(tokens, place=7)
        return {token: word.tobytes() for token, word in zip(tokens, found, strict=True)}

    alone = {token: words([token])[token] for token in range(14)}
    assert len(set(alone.values())) == 14
    rng = np.random.default_rng(0)
    for size in range(2, 14):
        for _ in range(3):
            company = words(rng.permutation(14)[:size].tolist())
            assert company == {token: alone[token] for token in company}


def test_long_texts_of_many_beams_agree_with_torch(exported: Exported, tmp_path: Path) -> None:
    """The beams' common cache is made anew several times, without the words that no beam has said."""
    features, _ = exported.ordered(*exported.bag(50))
    settings = DecodingSettings(max_tokens=40, beam_size=6)
    model = copy.deepcopy(exported.model)
    with torch.no_grad():
        model.logit.bias[0] = -1000  # no text ends
    mask = torch.ones(1, 50, dtype=torch.bool)
    expected = model.generate_batch(torch.from_numpy(features)[None], mask, settings)[0]
    graphs = {path.name: OnnxSession(path, threads=1) for path in export_cpu_graphs(model, tmp_path)}
    found = CpuEngine(model.config, graphs, threads=1).write(features, exported.places(50), settings).text
    assert len(expected.tokens) == 40
    assert found.tokens.tolist() == expected.tokens.tolist()
    assert np.abs(found.log_probs - expected.log_probs).max() < TOLERANCE
    assert np.abs(found.attention - expected.attention).max() < TOLERANCE


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
    before = [(exported.folder / name).read_bytes() for name in (*PARTS, TILE_ENCODER_ONNX)]
    written = to_onnx(exported.folder)
    assert [path.read_bytes() for path in written] == before


def test_a_model_exported_before_there_were_parts_is_told_to_be_exported_again(
    exported: Exported, tmp_path: Path
) -> None:
    for name in ("config.json", "tokenizer.json", "histgen.safetensors"):
        (tmp_path / name).write_bytes((exported.folder / name).read_bytes())
    (tmp_path / "histgen_encoder.onnx").touch()
    (tmp_path / "histgen_decoder.onnx").touch()
    with pytest.raises(FatalError) as caught:
        MODEL.runner(open_model_folder(tmp_path), Compute(threads=1))
    assert caught.value.code == "model-incomplete"
    assert "histgen model export" in caught.value.hint


def test_a_folder_without_weights_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(FatalError) as caught:
        to_onnx(tmp_path)
    assert caught.value.code == "model-missing"


def test_evidence_of_no_tokens_has_no_rows(exported: Exported) -> None:
    places = exported.places(8)
    shares = np.ones(places.mask.shape, dtype=np.float32)
    assert tile_evidence(np.zeros((0, len(shares)), dtype=np.float32), shares, places).shape == (0, 8)
